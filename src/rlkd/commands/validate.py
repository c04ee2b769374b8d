"""Whether a configuration builds, found out without its data."""

from rlkd.config.compose import configure
from rlkd.engine import build


def validate(overrides: list[str]) -> None:
    """Compose a configuration and build all its parts but the data, on small stand-ins.

    Raises:
        UserError: for the first part that does not build.
    """
    config = configure(overrides)
    build.trainer_options(config)
    build.task(config).validate(config)
