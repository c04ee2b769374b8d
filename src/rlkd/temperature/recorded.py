"""The temperatures that another run recorded, epoch by epoch, and their mean as a source."""

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlkd import arguments
from rlkd.checks import check_logits
from rlkd.errors import UserError
from rlkd.temperature.over import Over, check_over, over
from rlkd.temperature.schedule import EpochSource
from rlkd.temperature.source import TEMPERATURE_FLOOR
from rlkd.text_files import read_text
from rlkd.types import Temperatures

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
"""The levels at which a run records the distribution of its temperatures, epoch by epoch."""
MEAN = "temperature/mean"
"""The column of metrics.csv with their mean."""


def quantile_column(level: float) -> str:
    """Return the name of a quantile's column in metrics.csv."""
    return f"temperature/p{round(100 * level):02d}"


def recorded(folder: Path, columns: Sequence[str], over: Over) -> list[list[float]]:
    """Return what a run recorded of its temperatures, a row an epoch.

    Args:
        folder: of the run.
        columns: of its metrics.csv.
        over: what the temperatures of the follower multiply.

    Raises:
        UserError: if it is no folder of a run, one without these columns, or one whose temperatures
            multiply something else.
    """
    from rlkd.reporting import read_metrics

    path = folder / "metrics.csv"
    if not path.is_file():
        raise UserError(f"like={folder}: no metrics.csv there; give the folder of an agent's run")
    rows = read_metrics(path)
    if not rows or any(column not in row for row in rows for column in columns):
        raise UserError(
            f"like={folder}: its metrics.csv records no temperatures ({columns[0]} ...)"
        )
    followed = _over_of(folder / "config.yaml")
    if followed != over:
        raise UserError(
            f"like={folder}: the temperatures of that run are over {followed} logits, these over "
            f"{over} ones; give temperature.over={followed}"
        )
    return [[row[column] for column in columns] for row in rows]


def _over_of(config: Path) -> str:
    """Return what the temperatures of a run multiply; of one without settings, `plain`."""
    from omegaconf import OmegaConf  # a loop of one's own needs none

    if not config.is_file():
        return "plain"
    held = OmegaConf.to_container(OmegaConf.create(read_text(config, "remove the run")))
    temperature = held.get("temperature") if isinstance(held, dict) else None
    return str(temperature.get("over", "plain")) if isinstance(temperature, dict) else "plain"


class RecordedMean(EpochSource):
    """One temperature for all instances: in each epoch, the mean of another run's.

    A control of an agent: what its schedule is worth without its choice of instances. Beside it,
    `RandomTemperature(like=...)` has the agent's distribution too, shuffled over the instances.

    Args:
        base_temperature: T of every epoch where no run is followed, 0.05 or more.
        like: the folder of the run; None for none. After its last epoch, that epoch's mean stays.
        over: what the temperature multiplies, as that run's; see `temperature.over`.

    Raises:
        UserError: if there is no such run, it recorded no temperatures, its temperatures are over
            something else, or a value is out of range.
    """

    def __init__(
        self, *, base_temperature: float = 4.0, like: str | None = None, over: Over = "plain"
    ) -> None:
        super().__init__()
        arguments.number("temperature.base_temperature", base_temperature, least=TEMPERATURE_FLOOR)
        check_over(over)
        self.over: Over = over
        self.means = [base_temperature]
        if like is not None:
            self.means = [mean for (mean,) in recorded(Path(like), [MEAN], over)]

    def forward(
        self,
        student_logits: Float[Tensor, "batch classes"],
        teacher_logits: Float[Tensor, "batch classes"],
        target: Int[Tensor, " batch"] | Float[Tensor, "batch classes"],
        *,
        learn_from: Bool[Tensor, " batch"] | None = None,
    ) -> Temperatures:
        """Fill a vector with the epoch's temperature."""
        check_logits(student_logits, teacher_logits, target, finite=False)
        mean = self.means[min(self.epoch, len(self.means)) - 1]
        temperature = Temperatures.constant(mean, like=student_logits).student[:, None]
        return over(self.over, teacher_logits, target, temperature, student_logits)
