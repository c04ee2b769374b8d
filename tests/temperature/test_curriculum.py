import io
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from rlkd.errors import UserError
from rlkd.losses import kd
from rlkd.temperature import GlobalCTKD, InstanceCTKD, TemperatureSource

Logits = tuple[Tensor, Tensor, Tensor]
Source = GlobalCTKD | InstanceCTKD

BOTH = pytest.mark.parametrize(
    "make",
    [GlobalCTKD, lambda **options: InstanceCTKD(num_classes=4, hidden=8, **options)],
    ids=["global", "instance"],
)


def loss_of(source: TemperatureSource, logits: Logits) -> Tensor:
    student, teacher, target = logits
    return kd(student, teacher, source(student, teacher, target))


def trained(source: Source, logits: Logits, *, steps: int, rate: float) -> Source:
    optimizer = torch.optim.SGD(source.trained_parameters(), lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(source, logits).backward()
        optimizer.step()
    return source


def at_epoch(source: Source, epoch: int) -> Source:
    source.start_epoch(epoch)
    return source


@BOTH
def test_it_starts_from_the_public_codes_temperature(
    make: Callable[..., Source], logits: Logits
) -> None:
    # 1 + 20 sigmoid(1) = 1 + 20 * 0.7310586
    given = make()(*logits)
    torch.testing.assert_close(given.student, torch.full((6,), 15.621172))
    torch.testing.assert_close(given.teacher, given.student)


@pytest.mark.parametrize(
    ("epoch", "weight"),
    # (1 - cos(18 degrees)) / 2, (1 - cos(90)) / 2, (1 - cos(180)) / 2, and no more after that
    [(1, (1 - 0.9510565163) / 2), (5, 0.5), (10, 1.0), (11, 1.0), (240, 1.0)],
)
def test_lambda_by_hand(epoch: int, weight: float) -> None:
    assert at_epoch(GlobalCTKD(), epoch).reversal_weight == pytest.approx(weight, abs=1e-9)


def test_lambda_rises_from_easy_to_hard() -> None:
    weights = [at_epoch(GlobalCTKD(), epoch).reversal_weight for epoch in range(1, 11)]
    assert weights == sorted(weights)
    assert len(set(weights)) == 10


@BOTH
@pytest.mark.parametrize("initial_raw", [-3.0, 0.0, 2.0])
def test_a_step_of_the_temperature_raises_the_loss(
    make: Callable[..., Source], initial_raw: float, logits: Logits
) -> None:
    source = at_epoch(make(initial_raw=initial_raw), 10)
    before, asked = loss_of(source, logits), source(*logits).student
    trained(source, logits, steps=1, rate=0.01)
    assert loss_of(source, logits) > before
    assert not torch.equal(source(*logits).student, asked)


def test_the_gradient_of_kd_for_its_temperature_equals_finite_differences(logits: Logits) -> None:
    student, teacher, _ = logits
    temperature = torch.tensor([0.5, 1, 2, 4, 8, 16], dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(kd(student, teacher, temperature), temperature)
    step = 1e-4
    for row in range(6):
        shift = torch.zeros(6, dtype=torch.float64)
        shift[row] = step
        up, down = (
            kd(student, teacher, temperature + shift),
            kd(student, teacher, temperature - shift),
        )
        assert found[row].item() == pytest.approx(
            (up - down).item() / (2 * step), rel=1e-5, abs=1e-8
        )


@BOTH
@pytest.mark.parametrize("epoch", [1, 5, 11])
def test_the_gradient_is_minus_lambda_times_the_finite_difference(
    make: Callable[..., Source], epoch: int, logits: Logits
) -> None:
    source = at_epoch(make(), epoch).double()
    parameters = list(source.trained_parameters())
    for parameter in parameters:
        nn.init.normal_(parameter, std=0.3)
    loss_of(source, logits).backward()
    step = 1e-6
    for parameter in parameters:
        assert parameter.grad is not None
        place = (0,) * parameter.dim()
        with torch.no_grad():
            parameter[place] += step
            up = loss_of(source, logits)
            parameter[place] -= 2 * step
            down = loss_of(source, logits)
            parameter[place] += step
        slope = (up - down).item() / (2 * step)
        expected = -source.reversal_weight * slope
        assert parameter.grad[place].item() == pytest.approx(expected, rel=1e-4, abs=1e-9)


@BOTH
def test_the_student_gets_no_reversed_gradient(make: Callable[..., Source], logits: Logits) -> None:
    student, teacher, target = logits
    source = at_epoch(make(), 10)
    for parameter in source.trained_parameters():
        nn.init.normal_(parameter, std=0.3)
    temperatures = source(student, teacher, target)
    (found,) = torch.autograd.grad(kd(student, teacher, temperatures), student)
    (plain,) = torch.autograd.grad(kd(student, teacher, temperatures.student.detach()), student)
    assert torch.equal(found, plain)


def pulled(raw: float, direction: float) -> tuple[float, float]:
    """Return T, and which way a step moves `raw`, for a loss that grows in a direction of T."""
    source = at_epoch(GlobalCTKD(), 10)
    nn.init.constant_(source.raw, raw)
    rows = torch.zeros(2, 3)
    temperature = source(rows, rows, torch.zeros(2, dtype=torch.long)).student
    (direction * temperature.sum()).backward()
    assert source.raw.grad is not None
    return temperature[0].item(), -source.raw.grad.item()


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_saturated_temperature_is_finite_and_finds_its_way_back(sign: float) -> None:
    # float32 sigmoid(60) is exactly 1: without the guard no gradient would be left.
    temperature, back = pulled(60 * sign, direction=-sign)
    assert 1.05 < temperature < 20.95
    assert back * sign < -0.01
    _, farther = pulled(60 * sign, direction=sign)
    assert farther == 0.0


def test_the_guard_leaves_the_middle_alone() -> None:
    # d/draw (1 + 20 sigmoid(raw)) at 0 is 20 / 4, for two rows 10.
    temperature, moved = pulled(0.0, direction=1.0)
    assert temperature == pytest.approx(11.0)
    assert moved == pytest.approx(10.0)


def test_the_instance_form_learns_to_tell_instances_apart(logits: Logits) -> None:
    source = at_epoch(InstanceCTKD(num_classes=4, hidden=16), 10)
    before = loss_of(source, logits)
    trained(source, logits, steps=30, rate=0.05)
    temperature = source(*logits).student
    assert temperature.std() > 0.1
    assert loss_of(source, logits) > before
    assert ((temperature > 1.05) & (temperature < 20.95)).all()


def test_huge_logits_keep_the_instance_form_finite(logits: Logits) -> None:
    source = at_epoch(InstanceCTKD(num_classes=4, hidden=16), 10)
    nn.init.normal_(source.output.weight)
    _, _, target = logits
    student = 1e4 * torch.randn(6, 4)
    loss = kd(student, -student, source(student, -student, target))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in source.parameters())


def test_mixed_precision_does_not_round_the_temperature() -> None:
    source = InstanceCTKD(num_classes=4, hidden=16)
    nn.init.normal_(source.output.weight)
    rows, target = torch.randn(5, 4), torch.zeros(5, dtype=torch.long)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        given = source(rows, rows, target).student
    assert given.dtype is torch.float32
    assert torch.equal(given, source(rows, rows, target).student)


@BOTH
def test_the_students_optimiser_gets_every_parameter(make: Callable[..., Source]) -> None:
    source = make()
    assert list(source.trained_parameters()) == list(source.parameters())
    assert list(TemperatureSource().trained_parameters()) == []


@BOTH
def test_a_resumed_run_continues_as_if_it_had_not_stopped(
    make: Callable[..., Source], logits: Logits
) -> None:
    source = trained(at_epoch(make(), 4), logits, steps=5, rate=0.05)
    file = io.BytesIO()
    torch.save(source.state_dict(), file)
    file.seek(0)
    torch.manual_seed(1)
    resumed = make()
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(resumed(*logits).student, source(*logits).student)
    assert resumed.reversal_weight == source.reversal_weight
    trained(source, logits, steps=5, rate=0.05)
    trained(resumed, logits, steps=5, rate=0.05)
    assert torch.equal(resumed(*logits).student, source(*logits).student)


def test_another_number_of_classes_is_named(logits: Logits) -> None:
    with pytest.raises(UserError, match=r"num_classes=100, .* of 4 classes: give temperature\.num"):
        InstanceCTKD()(*logits)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"lowest": 0.0}, r"temperature\.lowest=0\.0"),
        ({"span": 0.0}, r"temperature\.span=0\.0"),
        ({"span": math.inf}, r"temperature\.span=inf"),
        ({"initial_raw": math.nan}, r"temperature\.initial_raw=nan"),
        ({"initial_raw": 6.0}, r"temperature\.initial_raw=6\.0"),
        ({"lambda_epochs": 0}, r"temperature\.lambda_epochs=0"),
    ],
)
@BOTH
def test_impossible_options_are_refused(
    make: Callable[..., Source], options: dict[str, float], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        make(**options)


@pytest.mark.parametrize("option", ["num_classes", "hidden"])
def test_an_empty_network_is_refused(option: str) -> None:
    with pytest.raises(UserError, match=rf"temperature\.{option}=0"):
        InstanceCTKD(**{option: 0})  # pyright: ignore[reportArgumentType]
