"""Each defect of the method's released code, re-made here, fails where ours passes.

Each test holds the defective line, shows that its result is wrong, and that ours is right.
Sources: the released code of RLKD (github.com/Zhengbo-Zhang/ITKD) and of its relatives, by
reading; the ledger is docs/method.md.
"""

import math

import pytest
import torch
from tests.reference.kd_rows import kd_slowly
from torch import Tensor
from torch.nn import functional as F

from rlkd.agent import instance_state
from rlkd.exploration import predictive_entropy, rank
from rlkd.exploration.entropy import Bands
from rlkd.losses import LossInputs, Objective, Term, kd
from rlkd.temperature import ConstantTemperature
from rlkd.temperature.bounded_gaussian import BoundedGaussian


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def near(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-5, atol=1e-6)


def test_defect_margin_from_the_second_smallest_probability() -> None:
    student = torch.log(torch.tensor([[0.5, 0.4, 0.08, 0.02]]))
    p = torch.softmax(student, dim=1)
    true_uncertainty = 1 - (0.5 - 0.4)
    defective = 1 - (p.amax(1) - torch.kthvalue(p, 2, dim=1).values)
    assert abs(defective.item() - true_uncertainty) > 0.3
    assert instance_state(student, student)[0, 2].item() == pytest.approx(true_uncertainty)


def test_defect_squared_temperature_broadcast_into_a_square() -> None:
    student, teacher = torch.randn(4, 6), torch.randn(4, 6)
    temperature = torch.tensor([1.0, 2.0, 4.0, 8.0])
    expected = kd_slowly(student, teacher, temperature)
    column = temperature[:, None]
    divergence = F.kl_div(
        F.log_softmax(student / column, 1), F.softmax(teacher / column, 1), reduction="none"
    ).sum(dim=1)
    defective = divergence * column.square()  # (n,) * (n, 1)
    assert defective.shape == (4, 4)
    assert not near(defective.mean(), expected.mean())
    assert near(kd(student, teacher, temperature), expected.mean())


def test_defect_sum_over_rows_before_the_squared_temperature() -> None:
    student, teacher = torch.randn(4, 6), torch.randn(4, 6)
    temperature = torch.tensor([1.0, 2.0, 4.0, 8.0])
    expected = kd_slowly(student, teacher, temperature).mean()
    column = temperature[:, None]
    scalar = F.kl_div(
        F.log_softmax(student / column, 1), F.softmax(teacher / column, 1), reduction="batchmean"
    )
    defective = (scalar * temperature.square()).mean()
    assert not near(defective, expected)
    assert near(kd(student, teacher, temperature), expected)


def test_defect_squared_temperature_left_out() -> None:
    # Without T^2 the gradient fades as T rises; with it, it tends to (z_s - z_t) / k.
    teacher = torch.randn(1, 5)
    teacher -= teacher.mean()

    def slope(squared: bool) -> Tensor:
        student = torch.zeros(1, 5, requires_grad=True)
        loss = kd(student, teacher, 1e3)
        (loss if squared else loss / 1e6).backward()
        assert student.grad is not None
        return student.grad

    assert not torch.allclose(slope(False), -teacher / 5, rtol=0.01)
    assert torch.allclose(slope(True), -teacher / 5, rtol=0.01, atol=1e-3)


@pytest.mark.parametrize("temperature", [4, 4.0])
def test_defect_constant_temperature_gives_no_loss(temperature: float) -> None:
    student, teacher = torch.randn(4, 6), torch.randn(4, 6)

    def defective(given: float | Tensor) -> Tensor | None:
        return kd_slowly(student, teacher, given) if isinstance(given, Tensor) else None

    assert defective(temperature) is None
    target = torch.zeros(4, dtype=torch.long)
    given = ConstantTemperature(float(temperature))(student, teacher, target)
    assert near(
        kd(student, teacher, given), kd_slowly(student, teacher, torch.full((4,), 4.0)).mean()
    )


def test_defect_baseline_cannot_start_without_a_weight() -> None:
    def defective(**options: float) -> float:
        return options["beta"]

    with pytest.raises(KeyError):
        defective()
    student, teacher = torch.randn(4, 6), torch.randn(4, 6)
    inputs = LossInputs(
        student,
        torch.zeros(4, dtype=torch.long),
        teacher,
        ConstantTemperature()(student, teacher, torch.zeros(4, dtype=torch.long)),
    )
    total, _ = Objective({"kd": Term(kd)})(inputs)
    assert near(total, kd(student, teacher, 4.0))


def test_defect_weight_added_where_it_should_multiply() -> None:
    def pkt(student_logits: Tensor) -> Tensor:
        return 1e-4 * student_logits.square().mean()

    inputs = LossInputs(torch.randn(4, 6, requires_grad=True), torch.zeros(4, dtype=torch.long))
    loss, beta = pkt(inputs.student_logits), 30000.0
    defective = loss + beta
    expected = 1e-4 * 30000.0 * 2 * inputs.student_logits.detach() / 24
    found = torch.autograd.grad(defective, inputs.student_logits)[0]
    assert not near(found, expected)
    total, _ = Objective({"pkt": Term(pkt, beta)})(inputs)
    assert near(torch.autograd.grad(total, inputs.student_logits)[0], expected)


def test_defect_density_of_the_squashed_action_under_the_unsquashed_gaussian() -> None:
    # A density integrates to 1 over (0, 10).
    temperature = torch.linspace(1e-4, 10 - 1e-4, 200001, dtype=torch.float64)
    raw = torch.logit(temperature / 10)
    mean, std = torch.full_like(raw, 0.9), torch.full_like(raw, 0.5)
    ours = BoundedGaussian(mean, std, 10.0)

    def mass(log_density: Tensor) -> float:
        return torch.trapezoid(log_density.exp(), temperature).item()

    no_jacobian = ours.log_prob(raw)
    wrong_space = torch.distributions.Normal(mean, std).log_prob(temperature)
    assert mass(no_jacobian) > 1.5
    assert mass(wrong_space) < 0.97
    assert mass(ours.log_density(raw)) == pytest.approx(1, rel=1e-4)


def test_defect_ratio_of_densities_in_the_wrong_space() -> None:
    # The log-probability of the action under a mean in (-1, 1) hardly feels which action it was.
    temperature = torch.tensor([3.0, 6.0])
    raw = torch.logit(temperature / 10)
    old, new = raw - 0.5, raw  # the mean moves onto the action
    std = torch.full((2,), 0.5)

    def defective(mean: Tensor) -> Tensor:
        return torch.distributions.Normal(torch.tanh(mean), std).log_prob(temperature)

    def ours(mean: Tensor) -> Tensor:
        return BoundedGaussian(mean, std, 10.0).log_prob(raw)

    expected = torch.full((2,), math.exp(0.5))  # one standard deviation away, then none
    assert not near((defective(new) - defective(old)).exp(), expected)
    assert near((ours(new) - ours(old)).exp(), expected)


def test_defect_logarithm_of_zero_in_the_entropy() -> None:
    logits = torch.tensor([[200.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    p = torch.softmax(logits, dim=1)
    defective = -(p * torch.log(p)).sum(dim=1)
    assert defective[0].isnan()
    found = predictive_entropy(logits)
    assert found[0] == 0
    assert found[1].item() == pytest.approx(math.log(3), rel=1e-6)


def test_defect_slice_of_rows_for_a_slice_of_columns() -> None:
    # A record of (index, entropy) a row: [:1:] is its first row, [:, 1:] its entropies.
    entropy = torch.tensor([0.1, 0.9, 0.3, 0.7, 0.5])
    entropy_record = torch.stack((torch.arange(5).float(), entropy), dim=1)
    defective = entropy_record[:1:]
    assert defective.shape == (1, 2)
    assert torch.equal(entropy_record[:, 1:].squeeze(1), entropy)
    bands = Bands(selected=0.4, mixed=(0.2, 0.4), partners=(0.6, 0.8))
    assert rank(entropy, bands).selected.nonzero().flatten().tolist() == [1, 3]


def test_defect_logarithm_of_a_probability_named_probability() -> None:
    # KL takes log q and p: fed log p for p, it is no divergence and falls below zero.
    student, teacher = torch.randn(4, 6), torch.randn(4, 6)
    log_p, log_q = F.log_softmax(teacher, 1), F.log_softmax(student, 1)
    defective = (log_p * (log_p - log_q)).sum(1)
    assert (defective < 0).any()
    one = torch.ones(4)
    assert near(kd(student, teacher, one, reduction="none"), kd_slowly(student, teacher, one))
