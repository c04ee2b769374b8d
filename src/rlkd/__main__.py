"""`python -m rlkd` is `rlkd`, for launchers that start modules: `torchrun -m rlkd distill ...`."""

import sys

from rlkd.cli import main

sys.exit(main())
