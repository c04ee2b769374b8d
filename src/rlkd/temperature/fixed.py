"""A constant temperature."""

from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlkd import arguments
from rlkd.checks import check_logits
from rlkd.temperature.source import TEMPERATURE_FLOOR, TemperatureSource
from rlkd.types import Temperatures


class ConstantTemperature(TemperatureSource):
    """The same temperature for every instance: the field's usual choice.

    Args:
        temperature: dimensionless, at least `TEMPERATURE_FLOOR`; 4 on CIFAR-100 in most papers, 1
            on ImageNet.

    Raises:
        UserError: if the temperature is not finite, or below that.

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network" (2015).
    """

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        arguments.number("temperature", temperature, least=TEMPERATURE_FLOOR)
        self.temperature = temperature

    def forward(
        self,
        student_logits: Float[Tensor, "batch classes"],
        teacher_logits: Float[Tensor, "batch classes"],
        target: Int[Tensor, " batch"] | Float[Tensor, "batch classes"],
        *,
        learn_from: Bool[Tensor, " batch"] | None = None,
    ) -> Temperatures:
        """Fill a vector with the temperature."""
        check_logits(student_logits, teacher_logits, target, finite=False)
        return Temperatures.constant(self.temperature, like=student_logits)
