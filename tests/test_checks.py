"""What every loss on logits and every temperature source refuses, and what it makes of -inf."""

import inspect
from collections.abc import Callable, Iterator

import jaxtyping
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import rlkd
from rlkd import checks, losses, temperature
from rlkd.checks import check_logits, values_unchecked
from rlkd.errors import InputError, UserError
from rlkd.losses.multilevel import batch_correlation, class_correlation
from rlkd.temperature import TemperatureSource
from rlkd.types import IGNORED, Temperatures

ROWS, CLASSES = 6, 5
MASKED = 3
"""The class that is masked, the target of no row."""
TARGET = torch.tensor([0, 1, 2, 4, 0, 1])

Loss = Callable[[Tensor, Tensor, Tensor, Tensor | float], Tensor]
Given = dict[str, Tensor]


def srrl(student: Tensor, teacher: Tensor, _: Tensor, __: Tensor | float) -> Tensor:
    loss = losses.SRRL(torch.zeros(2, 3, 1, 1), torch.zeros(2, 4))
    image, embedding = torch.rand(ROWS, 3, 1, 1), torch.rand(ROWS, 4)
    return loss(image, embedding, teacher, lambda each: F.pad(each, (0, CLASSES - each.shape[1])))


LOSSES: dict[str, Loss] = {
    "kd": lambda s, t, _, at: losses.kd(s, t, at),
    "dkd": losses.dkd,
    "nkd": losses.nkd,
    "rld": losses.rld,
    "ttm": lambda s, t, _, at: losses.ttm(s, t, at),
    "wttm": lambda s, t, _, at: losses.wttm(s, t, at),
    "dist": lambda s, t, _, at: losses.dist(s, t, at),
    "mlkd": lambda s, t, _, at: losses.mlkd(s, t, at, s.flip(0), t.flip(0)),
    "batch_correlation": lambda s, t, _, at: batch_correlation(s, t, at),
    "class_correlation": lambda s, t, _, at: class_correlation(s, t, at),
    "cross_entropy": lambda s, _, y, __: losses.cross_entropy(s, y),
    "supervised": lambda s, _, y, __: losses.supervised(s, y),
    "supervised_views": lambda s, _, y, __: losses.supervised_views(s, y),
    "standardise": lambda s, _, __, ___: losses.standardise(s),
}
SOURCES: dict[str, Callable[[], TemperatureSource]] = {
    "ConstantTemperature": temperature.ConstantTemperature,
    "ScheduledTemperature": lambda: temperature.ScheduledTemperature(epochs=3),
    "RecordedMean": temperature.RecordedMean,
    "GlobalCTKD": temperature.GlobalCTKD,
    "GreedyLookAhead": lambda: temperature.GreedyLookAhead().eval(),  # not asked for gains
    "InstanceCTKD": lambda: temperature.InstanceCTKD(num_classes=CLASSES),
    "ConfidenceTemperature": temperature.ConfidenceTemperature,
    "EntropyTemperature": temperature.EntropyTemperature,
    "LogitStandardisation": temperature.LogitStandardisation,
    "NormKD": temperature.NormKD,
    "DTKD": temperature.DTKD,
    "AdaKD": temperature.AdaKD,
    "MaxLogitTemperature": temperature.MaxLogitTemperature,
    "RandomTemperature": rlkd.RandomTemperature,
    "TemperatureAgent": rlkd.TemperatureAgent,
}
WITHOUT_TARGET = {"kd", "ttm", "wttm", "dist", "mlkd", "batch_correlation", "class_correlation"}
WITHOUT_TEACHER = {"cross_entropy", "supervised", "supervised_views", "performance"}


@pytest.fixture(autouse=True)
def as_users_call() -> Iterator[None]:
    """Leave out the test run's own shape checks."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(params=["cpu", "device"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute as on the CPU, and as on a device, where nothing is read."""
    if request.param == "device":
        monkeypatch.setattr(checks, "_on_host", lambda _: False)


def takers() -> dict[str, Callable[[Tensor, Tensor, Tensor], object]]:
    """Return all that takes logits, called in one way."""

    def of_loss(loss: Loss) -> Callable[[Tensor, Tensor, Tensor], object]:
        return lambda student, teacher, target: loss(student, teacher, target, 4.0)

    return {
        **{name: of_loss(loss) for name, loss in LOSSES.items()},
        "srrl": of_loss(srrl),
        **{name: lambda *given, made=made: made()(*given) for name, made in SOURCES.items()},
        "instance_state": lambda s, t, _: rlkd.instance_state(s, t),
        "performance": lambda s, _, y: rlkd.TemperatureAgent().performance(s, y),
    }


TAKERS = takers()


def given() -> Given:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, ROWS, CLASSES, generator=generator).unbind()
    return {"student": student, "teacher": 3 * teacher, "target": TARGET.clone()}


def changed(tensor: Tensor, row: int, value: float) -> Tensor:
    tensor = tensor.clone()
    tensor[row, MASKED] = value
    return tensor


SOFT = F.one_hot(TARGET, CLASSES).float()
FAULTS: dict[str, tuple[str, Callable[[Given], Tensor], str]] = {
    "a target of two dimensions": (
        "target",
        lambda g: g["target"][:, None],
        r"targets have shape \(6, 1\).*int64 of shape \(6,\).*target\.squeeze\(1\)",
    ),
    "floating class indices": (
        "target",
        lambda g: g["target"].float(),
        r"targets have shape \(6,\), torch.float32: .*target\.long\(\)",
    ),
    "one-hot integers": ("target", lambda _: SOFT.long(), r"torch.int64: .*target\.float\(\)"),
    "another number of targets": (
        "target",
        lambda g: g["target"][:1],
        r"targets have shape \(1,\)",
    ),
    "a distribution over other classes": (
        "target",
        lambda _: SOFT[:, 1:],
        r"shape \(6, 4\).*of shape \(6, 5\)",
    ),
    "a class that there is not": (
        "target",
        lambda g: g["target"] + 1,
        r"row 3 has the target 5, and the logits are of 5 classes: .* from 0 to 4",
    ),
    "a negative class": ("target", lambda g: g["target"] - 1, "row 0 has the target -1"),
    "several labels a row": (
        "target",
        lambda _: SOFT + SOFT.roll(1, 1) * (torch.arange(ROWS) == 2)[:, None],
        "row 2 of the targets sums to 2, not to 1",
    ),
    "logits of three dimensions": (
        "student",
        lambda g: g["student"].view(2, 3, CLASSES),
        r"student's logits have shape \(2, 3, 5\).*logits\.flatten\(0, -2\)",
    ),
    "a teacher of three dimensions": (
        "teacher",
        lambda g: g["teacher"].view(2, 3, CLASSES),
        r"teacher's logits have shape \(2, 3, 5\)",
    ),
    "logits of one dimension": ("student", lambda g: g["student"][0], r"have shape \(5,\)"),
    "a teacher of other classes": (
        "teacher",
        lambda g: F.pad(g["teacher"], (0, 2)),
        r"student's logits have shape \(6, 5\) and the teacher's \(6, 7\).*same classes",
    ),
    "a teacher of another batch": (
        "teacher",
        lambda g: g["teacher"][:1],
        r"student's logits have shape \(6, 5\) and the teacher's \(1, 5\).*same rows",
    ),
    "NaN of the teacher": (
        "teacher",
        lambda g: changed(g["teacher"], 4, torch.nan),
        r"row 4 of the teacher's logits has NaN",
    ),
    "infinity of the teacher": (
        "teacher",
        lambda g: changed(g["teacher"], 1, torch.inf),
        r"row 1 of the teacher's logits has \+inf",
    ),
    "a teacher's row without a class": (
        "teacher",
        lambda g: g["teacher"].where((torch.arange(ROWS) != 2)[:, None], -torch.inf),
        r"row 2 of the teacher's logits has nothing but -inf",
    ),
    "NaN of the student": (
        "student",
        lambda g: changed(g["student"], 5, torch.nan),
        r"row 5 of the student's logits has NaN",
    ),
}


def takes(name: str, what: str) -> bool:
    if name == "standardise":
        return what == "student"
    if name == "srrl":
        return what == "teacher"
    if what == "target":
        return name not in WITHOUT_TARGET | {"instance_state"}
    return what == "student" or name not in WITHOUT_TEACHER


NOT_FINITE = {
    each for each in FAULTS if "NaN" in each or "infinity" in each or "row without" in each
}
"""What sources answer with the base temperature, see tests/temperature/test_bad_rows.py."""
WITH_LOSSES = {*LOSSES, "srrl"}
CASES = [
    (name, fault)
    for name in TAKERS
    for fault in FAULTS
    if takes(name, FAULTS[fault][0]) and (name in WITH_LOSSES or fault not in NOT_FINITE)
]


def test_the_table_has_every_loss_on_logits_and_every_source() -> None:
    on_logits = {
        name
        for name, each in vars(losses).items()
        if inspect.isfunction(each) and {"student_logits", "logits"} & {*_parameters(each)}
    }
    assert on_logits - {"log_softened"} <= LOSSES.keys()
    sources = {
        name
        for room in (temperature, rlkd)
        for name in dir(room)
        if isinstance(each := getattr(room, name), type) and issubclass(each, TemperatureSource)
    }
    assert sources - {"TemperatureSource", "EpochSource", "LogitDriven"} == SOURCES.keys()


def _parameters(function: Callable[..., object]) -> list[str]:
    return list(inspect.signature(function).parameters)


@pytest.mark.parametrize(("name", "fault"), CASES)
def test_what_would_give_a_wrong_number_is_refused_by_everything(name: str, fault: str) -> None:
    what, make, message = FAULTS[fault]
    one = given()
    with pytest.raises(ValueError, match=message) as refused:
        TAKERS[name](*(one | {what: make(one)}).values())
    assert isinstance(refused.value, UserError)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", TAKERS)
def test_the_same_without_a_fault_is_taken(name: str) -> None:
    TAKERS[name](*given().values())
    if name not in ("instance_state", "standardise", "srrl"):
        TAKERS[name](*(given() | {"target": SOFT}).values())


@pytest.mark.parametrize("name", TAKERS)
def test_a_training_run_reads_no_value_and_is_ended_by_none(name: str) -> None:
    one = given()
    bad = changed(one["student"], 0, torch.nan), changed(one["teacher"], 1, torch.nan)
    with values_unchecked():
        TAKERS[name](*bad, one["target"])
        if takes(name, "student"):
            with pytest.raises(InputError, match="shape"):
                TAKERS[name](bad[0][None], bad[1], one["target"])
    if takes(name, "student") and name in WITH_LOSSES:
        with pytest.raises(InputError, match="row 0 of the student"):
            TAKERS[name](bad[0], one["teacher"], one["target"])


def test_values_on_a_device_are_not_read() -> None:
    meta = torch.empty(2, 3, device="meta")
    check_logits(meta, meta, torch.zeros(2, dtype=torch.long, device="meta"))


def test_an_ignored_instance_is_no_fault_and_an_empty_batch_none() -> None:
    check_logits(torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([-100, 2]))
    check_logits(torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))
    check_logits(torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(0, 3))
    with pytest.raises(InputError, match="row 1 has the target 3"):
        check_logits(torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([-100, 3]))


def test_huge_logits_are_no_fault_unless_a_temperature_would_make_them_infinite() -> None:
    check_logits(torch.full((2, 3), 1e30), torch.full((2, 3), -3e38))
    with pytest.raises(InputError, match=r"row 1 of the teacher's logits has \+3e\+38: give"):
        check_logits(torch.zeros(2, 1), torch.tensor([[0.0], [3e38]]))


def test_logits_of_one_class_have_no_margin() -> None:
    with pytest.raises(InputError, match="at least 2 classes"):
        rlkd.instance_state(torch.zeros(2, 1), torch.zeros(2, 1))


def masked(logits: Tensor) -> Tensor:
    return logits.index_fill(1, torch.tensor([MASKED]), -torch.inf)


def without(logits: Tensor) -> Tensor:
    return logits[:, [each for each in range(CLASSES) if each != MASKED]]


def gradients(loss: Tensor, *wanted: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("name", sorted(LOSSES.keys() - {"standardise"}))
def test_a_masked_class_leaves_a_loss_and_its_gradients_finite(name: str, both: bool) -> None:
    one = given()
    student = one["student"].requires_grad_()
    at = torch.full((ROWS,), 4.0, requires_grad=True)
    seen = masked(student) if both else student
    loss = LOSSES[name](seen, masked(one["teacher"]), SOFT, at)
    assert loss.isfinite()
    for each in gradients(loss, student, at):
        assert each.isfinite().all()


@pytest.mark.parametrize("name", ["kd", "dkd", "nkd", "rld", "ttm", "wttm", "batch_correlation"])
def test_a_class_masked_in_both_is_as_if_it_were_not(name: str) -> None:
    one = given()
    target = torch.where(TARGET > MASKED, TARGET - 1, TARGET)
    found = LOSSES[name](masked(one["student"]), masked(one["teacher"]), TARGET, 2.0)
    expected = LOSSES[name](without(one["student"]), without(one["teacher"]), target, 2.0)
    torch.testing.assert_close(found, expected)


def test_a_class_that_the_teacher_masks_costs_what_torchs_divergence_says() -> None:
    one = given()
    teacher = masked(one["teacher"]) / 2.0
    log_student = torch.log_softmax(one["student"] / 2.0, dim=1)
    expected = 4 * F.kl_div(log_student, teacher.softmax(dim=1), reduction="batchmean")
    torch.testing.assert_close(losses.kd(one["student"], masked(one["teacher"]), 2.0), expected)


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("name", SOURCES)
def test_a_masked_class_leaves_temperatures_and_gradients_finite(name: str, both: bool) -> None:
    one = given()
    student = one["student"].requires_grad_()
    seen = masked(student) if both else student
    source = SOURCES[name]()
    found = source(seen, masked(one["teacher"]), TARGET)
    assert found.student.isfinite().all()
    assert found.teacher.isfinite().all()
    loss = losses.kd(seen, masked(one["teacher"]), found)
    assert loss.isfinite()
    for each in gradients(loss, student, *source.trained_parameters()):
        assert each.isfinite().all()


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    "name", ["LogitStandardisation", "NormKD", "DTKD", "MaxLogitTemperature", "RandomTemperature"]
)
def test_a_source_takes_no_account_of_a_class_masked_in_both(name: str) -> None:
    one = given()
    target = torch.where(TARGET > MASKED, TARGET - 1, TARGET)
    found = SOURCES[name]()(masked(one["student"]), masked(one["teacher"]), TARGET)
    expected = SOURCES[name]()(without(one["student"]), without(one["teacher"]), target)
    for each in ("student", "teacher", "factor"):
        torch.testing.assert_close(getattr(found, each), getattr(expected, each))


@pytest.mark.usefixtures("place")
def test_standardised_logits_of_masked_classes_are_those_of_the_others() -> None:
    logits = given()["student"]
    found = losses.standardise(masked(logits))
    torch.testing.assert_close(without(found), losses.standardise(without(logits)))
    assert (found[:, MASKED] == -torch.inf).all()


@pytest.mark.usefixtures("place")
def test_where_nothing_is_masked_formulas_are_what_they_were_to_the_bit() -> None:
    logits = given()["student"]
    found = temperature.NormKD(base_temperature=2.0)(logits, logits, TARGET)
    assert torch.equal(found.student, 2.0 * logits.std(dim=1))


def test_an_agent_learns_from_masked_classes_and_stays_sound() -> None:
    one = given()
    agent = rlkd.TemperatureAgent(update_interval=1, minibatches=1)
    for _ in range(4):
        found = agent(one["student"], masked(one["teacher"]), TARGET)
        assert isinstance(found, Temperatures)
    assert agent.updates == 3
    assert all(each.isfinite().all() for each in agent.parameters())


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32])
def test_narrow_class_indices_are_refused_with_the_remedy(dtype: torch.dtype) -> None:
    values = given()
    with pytest.raises(InputError, match=r"class indices, int64 .*target\.long\(\)"):
        losses.dkd(values["student"], values["teacher"], values["target"].to(dtype), 4.0)


@pytest.mark.parametrize("name", ["dkd", "nkd", "rld"])
def test_a_loss_on_the_target_class_refuses_a_row_that_has_none(name: str) -> None:
    values = given()
    target = values["target"].clone()
    target[1] = IGNORED
    with pytest.raises(InputError, match="row 1 has the target -100"):
        LOSSES[name](values["student"], values["teacher"], target, 4.0)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch's own
def test_losses_go_through_torchs_function_transforms() -> None:
    values = given()

    def one(student: Tensor, teacher: Tensor) -> Tensor:
        return losses.kd(student[None], teacher[None], 4.0)

    rows = torch.func.vmap(one)(values["student"], values["teacher"])
    whole = losses.kd(values["student"], values["teacher"], 4.0, reduction="none")
    torch.testing.assert_close(rows, whole)
    gradients = torch.func.vmap(torch.func.grad(one))(values["student"], values["teacher"])
    student = values["student"].requires_grad_()
    (expected,) = torch.autograd.grad(losses.kd(student, values["teacher"], 4.0), student)
    torch.testing.assert_close(gradients / ROWS, expected)


def test_a_masked_class_leaves_the_gradient_of_z_scores_a_number(place: None) -> None:
    masked = changed(given()["student"], 1, -torch.inf).requires_grad_()
    without = masked.detach()[1][torch.arange(CLASSES) != MASKED][None].requires_grad_()
    weight = torch.arange(CLASSES - 1.0)
    scores = losses.standardise(masked)[1][torch.arange(CLASSES) != MASKED]
    (found,) = torch.autograd.grad((scores * weight).sum(), masked)
    (expected,) = torch.autograd.grad((losses.standardise(without) * weight).sum(), without)
    torch.testing.assert_close(found[1][torch.arange(CLASSES) != MASKED], expected[0])
    assert bool(found.isfinite().all())


@pytest.mark.parametrize("name", ["EntropyTemperature", "ConfidenceTemperature"])
def test_a_masked_class_is_no_class_to_a_formula(name: str, place: None) -> None:
    values = given()
    teacher = values["teacher"].clone()
    teacher[:, MASKED] = -torch.inf
    kept = [each for each in range(CLASSES) if each != MASKED]
    target = torch.full((ROWS,), kept[0])
    found = SOURCES[name]()(values["student"], teacher, target)
    expected = SOURCES[name]()(values["student"][:, kept], teacher[:, kept], target)
    torch.testing.assert_close(found.teacher, expected.teacher)


def test_class_weights_are_one_for_each_class() -> None:
    with pytest.raises(InputError, match=r"class_weights of shape \(3,\): give one for each of 5"):
        losses.supervised(torch.randn(ROWS, CLASSES), TARGET, class_weights=torch.ones(3))
