"""The interface of a temperature source: it gives each instance its temperature."""

from collections.abc import Iterable

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from rlkd import arguments
from rlkd.temperature.look_ahead import GainOf, HeldOut
from rlkd.types import Temperatures

TEMPERATURE_FLOOR = 0.05
"""No source gives a lower temperature: dividing logits by it keeps losses and gradients finite."""


class TemperatureSource(nn.Module):
    """Gives every instance of a batch its temperatures.

    A source needs only `forward`. The other members have defaults that suit a source that
    neither learns nor follows a schedule; the training loop calls them all, in this order::

        optimizer = SGD([*student.parameters(), *source.trained_parameters()], ...)
        source.start_epoch(epoch)                         # epochs count from 1
        source.start_step(learning_rate)                  # for a source whose state has it
        if source.look_ahead_due:
            source.look_ahead(...)                        # see `look_ahead.LookAhead`
        temperatures = source(student_logits, teacher_logits, target)
        ...                                               # the student's update
        if source.observation_due:
            source.observe(source.performance(student_logits_after, target))
    """

    updates: int = 0
    """Number of updates that the source has learnt by; `diagnostics` changes when it does."""
    held_out: HeldOut | None = None
    """What a look-ahead is held out against; None for a source that never looks ahead."""

    @property
    def observation_due(self) -> bool:
        """True if the source needs a measurement of the student now, after its update."""
        return False

    @property
    def look_ahead_due(self) -> bool:
        """True if the source wants to know, of the coming batch, what temperatures would bring."""
        return False

    def look_ahead(self, gain_of: GainOf | None) -> None:
        """Take what temperatures of the coming batch would bring; `forward` comes next.

        Args:
            gain_of: see `look_ahead.gains`; of the batch that `forward` is called on. None where
                there is nothing to look at, so that this look-ahead is left out.
        """

    @property
    def needs_probe(self) -> bool:
        """True if it is measured on images held out of training, not on the batch just trained."""
        return False

    def forward(
        self,
        student_logits: Float[Tensor, "batch classes"],
        teacher_logits: Float[Tensor, "batch classes"],
        target: Int[Tensor, " batch"] | Float[Tensor, "batch classes"],
        *,
        learn_from: Bool[Tensor, " batch"] | None = None,
    ) -> Temperatures:
        """Choose the temperatures of a batch.

        Args:
            student_logits: the student's logits, at temperature 1. They come with their
                gradient, so what a source computes from them trains the student too: a source
                that must not do so detaches them.
            teacher_logits: the teacher's logits, at temperature 1; without gradient.
            target: class indices, or a distribution over classes for mixed images.
            learn_from: the rows that a learning source may learn from; None means all.

        Returns:
            The temperatures, always finite: a row whose logits are not gets the
            source's base temperature, and a source that learns learns nothing from it.

        Raises:
            ValueError: from the sources here, for shapes and targets, see `checks.check_logits`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define forward")

    def trained_parameters(self) -> Iterable[nn.Parameter]:
        """Return the parameters that the student's optimiser trains along; none by default.

        A source that learns by itself, as the agent does, leaves its own out.
        """
        return ()

    def start_epoch(self, epoch: int) -> None:
        """Start an epoch, counted from 1.

        Raises:
            InputError: for any other number.
        """
        arguments.count("epoch", epoch)

    def start_step(self, learning_rate: float) -> None:
        """Start a batch, whose update is made at a learning rate."""

    def first_update(self, steps_per_epoch: int) -> int | None:
        """Return the step of a run at which what is learnt first moves temperatures, at the latest.

        Steps count from 1; None for a source that does not learn.
        """

    def share_update(self, passes: int) -> None:
        """Set how many calls share one update: above 1 where gradients accumulate.

        Args:
            passes: of a step; `observation_due` is asked for after the last.
        """

    def performance(
        self,
        student_logits: Float[Tensor, "batch classes"],
        target: Int[Tensor, " batch"] | Float[Tensor, "batch classes"],
    ) -> Float[Tensor, ""]:
        """Score logits by the metric that `observe` expects."""
        raise NotImplementedError(f"{type(self).__name__} asks for no measurement")

    def observe(self, performance_after: Float[Tensor, ""]) -> None:
        """Take the measurement that `observation_due` asked for."""

    def diagnostics(self) -> dict[str, Tensor]:
        """Return the latest figures worth logging, as scalar tensors."""
        return {}
