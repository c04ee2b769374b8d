"""What tests of this room ask for by name."""

from tests.support.fixtures import *  # noqa: F403
