from dataclasses import FrozenInstanceError

import pytest
import torch
from torch import Tensor, nn

from rlkd.checks import check_logits
from rlkd.errors import InputError, UserError
from rlkd.losses import LossInputs, Objective, Term, cross_entropy, kd
from rlkd.types import Temperatures


@pytest.fixture
def inputs() -> LossInputs:
    student = torch.randn(5, 3, requires_grad=True)
    temperature = Temperatures.same(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
    return LossInputs(student, torch.tensor([0, 1, 2, 0, 1]), torch.randn(5, 3), temperature)


def two(_: Tensor) -> Tensor:
    raise AssertionError("never called: its parameter has no name that training knows")


def constant_two(target: Tensor) -> Tensor:
    return torch.full((), 2.0) + 0 * target.sum()


def test_the_objective_is_the_weighted_sum(inputs: LossInputs) -> None:
    terms = {"ce": Term(cross_entropy, 0.1), "kd": Term(kd, 0.9)}
    total, parts = Objective(terms)(inputs)
    assert inputs.teacher_logits is not None
    ce = cross_entropy(inputs.student_logits, inputs.target)
    distilled = kd(inputs.student_logits, inputs.teacher_logits, inputs.temperature or 1.0)
    torch.testing.assert_close(total, 0.1 * ce + 0.9 * distilled)
    assert parts == {"ce": 0.1 * ce.detach(), "kd": 0.9 * distilled.detach()}
    assert total == parts["ce"] + parts["kd"]


def test_a_term_that_warms_up_is_returned_as_it_enters_the_loss(inputs: LossInputs) -> None:
    objective = Objective({"two": Term(constant_two, 3.0, warmup_epochs=4)})
    for epoch, expected in ((1, 1.5), (2, 3.0), (4, 6.0), (9, 6.0)):
        objective.start_epoch(epoch)
        total, parts = objective(inputs)
        assert total == parts["two"] == expected


def test_the_total_carries_gradient_and_the_parts_do_not(inputs: LossInputs) -> None:
    total, parts = Objective({"ce": Term(cross_entropy, 0.5)})(inputs)
    total.backward()
    expected = torch.softmax(inputs.student_logits.detach(), 1)
    expected[torch.arange(5), inputs.target] -= 1  # d CE / dz = p - y, the mean over 5 rows
    torch.testing.assert_close(inputs.student_logits.grad, 0.5 * expected / 5)
    assert not parts["ce"].requires_grad


def test_a_weight_multiplies(inputs: LossInputs) -> None:
    total, _ = Objective({"two": Term(constant_two, 30000.0)})(inputs)
    assert total == 60000


def test_only_terms_that_ask_for_the_teacher_need_one(inputs: LossInputs) -> None:
    alone = Objective({"ce": Term(cross_entropy)})
    assert not alone.needs_teacher
    assert Objective({"ce": Term(cross_entropy), "kd": Term(kd)}).needs_teacher
    total, _ = alone(LossInputs(inputs.student_logits, inputs.target))
    assert torch.equal(total, cross_entropy(inputs.student_logits, inputs.target))


def test_a_loss_with_weights_is_trained_along(inputs: LossInputs) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(3.0))

        def forward(self, student_logits: Tensor) -> Tensor:
            return self.scale * student_logits.square().mean()

    objective = Objective({"scaled": Term(Scaled())})
    assert [parameter.item() for parameter in objective.parameters()] == [3.0]
    total, _ = objective(inputs)
    torch.testing.assert_close(total, 3 * inputs.student_logits.square().mean())


def test_what_a_look_ahead_asks_of_a_loss_leaves_its_parameters_with_the_optimiser(
    inputs: LossInputs,
) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(
            self, student_logits: Tensor, teacher_logits: Tensor, temperature: Temperatures
        ) -> Tensor:
            return self.scale * kd(student_logits, teacher_logits, temperature)

    own = Scaled()
    objective = Objective({"own": Term(own)})
    objective.prepare(inputs)
    optimiser = torch.optim.SGD(objective.parameters(), lr=0.5)
    objective.tempered(inputs)
    total, _ = objective(inputs)
    total.backward()
    optimiser.step()
    assert own.scale.item() == pytest.approx(1 - 0.5 * total.item(), rel=1e-5)


def test_a_loss_that_asks_for_what_training_has_not_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"loss odd asks for '_'"):
        Objective({"odd": Term(two)})


def test_an_objective_without_terms_is_refused() -> None:
    with pytest.raises(UserError, match="no term"):
        Objective({})


def test_inputs_cannot_be_changed_between_losses(inputs: LossInputs) -> None:
    with pytest.raises(FrozenInstanceError):
        inputs.temperature = None  # pyright: ignore[reportAttributeAccessIssue]


def test_an_objective_that_cannot_move_the_student_is_refused(inputs: LossInputs) -> None:
    def detached(student_logits: Tensor) -> Tensor:
        return student_logits.detach().square().mean()

    with pytest.raises(UserError, match=r"^loss own: nothing reaches the student"):
        Objective({"own": Term(detached)}).prepare(inputs)
    with pytest.raises(UserError, match=r"^loss own, ce: nothing reaches the student"):
        Objective({"own": Term(detached), "ce": Term(cross_entropy, 0.0)}).prepare(inputs)
    Objective({"own": Term(detached), "ce": Term(cross_entropy, 0.1)}).prepare(inputs)


def test_a_head_that_alone_would_learn_does_not_make_up_for_the_student(inputs: LossInputs) -> None:
    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3, 1)

        def forward(self, student_logits: Tensor) -> Tensor:
            return self.head(student_logits.detach()).mean()

    with pytest.raises(UserError, match=r"^loss own: nothing reaches the student"):
        Objective({"own": Term(Detached())}).prepare(inputs)


def test_targets_that_are_no_tensor_are_refused_with_what_makes_them_one() -> None:
    with pytest.raises(InputError, match=r"targets are a list: give a tensor, torch\.as_tensor"):
        check_logits(torch.zeros(2, 3), None, [0, 1])
