import math
from collections.abc import Callable

import pytest
import torch
from tests.reference.crd_loop import crd_slowly
from torch import Tensor
from torch.nn import functional as F

from rlkd.errors import UserError
from rlkd.losses.contrastive import CRD

TARGETS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 0, 0])
INDEX = torch.tensor([3, 1, 8, 5])


def student_and_teacher(
    batch: int = 4, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, 5, dtype=dtype), torch.randn(batch, 7, dtype=dtype)


@pytest.fixture
def make() -> Callable[..., CRD]:
    def made(targets: Tensor = TARGETS, *, double: bool = True, **options: float) -> CRD:
        student, teacher = student_and_teacher(2, torch.float32)
        crd = CRD(student, teacher, targets, **{"dimension": 4, "negatives": 3, **options})
        return crd.double() if double else crd

    return made


def drawn(crd: CRD, index: Tensor) -> list[list[int]]:
    pool, is_negative = crd.draw_negatives(index)
    return [pool[mask].tolist() for mask in is_negative]


def slowly(
    crd: CRD, student: Tensor, teacher: Tensor, index: Tensor, zs: list[Tensor] | None = None
) -> tuple[Tensor, list[Tensor]]:
    """The loss and both Z by a loop over the negatives that the next call will draw."""
    state = torch.get_rng_state()
    negatives = drawn(crd, index)
    torch.set_rng_state(state)
    loss, found = torch.zeros((), dtype=torch.float64), []
    sides = (
        (F.normalize(crd.embed_student(student)), crd.teacher_bank),
        (F.normalize(crd.embed_teacher(teacher)), crd.student_bank),
    )
    for side, (anchors, bank) in enumerate(sides):
        part, z = crd_slowly(
            anchors,
            bank.rows.clone(),
            index.tolist(),
            negatives,
            temperature=crd.nce_temperature,
            normalizer=zs[side] if zs else None,
        )
        loss, found = loss + part, [*found, z]
    return loss, found


def test_crd_by_hand() -> None:
    # Two instances of two classes, the first in the batch: K / M = 1/2. Both anchors are (1, 0),
    # both banks hold (1, 0) and (0, 1), temperature 1: scores e and 1, Z = 2 mean(e, 1) = e + 1.
    crd = CRD(torch.zeros(2, 2), torch.zeros(2, 2), torch.tensor([0, 1]), **UNIT)
    for bank in (crd.student_bank, crd.teacher_bank):
        bank.rows.copy_(torch.eye(2))
    for head in (crd.embed_student, crd.embed_teacher):
        head.weight.data.copy_(torch.eye(2))
        head.bias.data.zero_()
    anchor = torch.tensor([[1.0, 0.0]])
    positive, negative = math.e / (math.e + 1), 1 / (math.e + 1)
    expected = -2 * (math.log(positive / (positive + 0.5)) + math.log(0.5 / (negative + 0.5)))
    loss = crd(anchor, anchor, torch.tensor([0]))
    torch.testing.assert_close(loss.item(), expected, rtol=1e-6, atol=0)


UNIT = {"dimension": 2, "negatives": 1, "nce_temperature": 1.0}


def test_crd_equals_the_loop_over_negatives_in_value_and_gradient(
    make: Callable[..., CRD],
) -> None:
    crd = make()
    student, teacher = student_and_teacher()
    student.requires_grad_()
    wrt = [student, crd.embed_student.weight, crd.embed_teacher.weight, crd.embed_teacher.bias]
    slow, _ = slowly(crd, student, teacher, INDEX)
    expected = torch.autograd.grad(slow, wrt)
    fast = crd(student, teacher, INDEX)
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=0)
    for one, other in zip(torch.autograd.grad(fast, wrt), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-13)


def test_the_normalizers_of_the_first_batch_stay(make: Callable[..., CRD]) -> None:
    crd = make()
    _, zs = slowly(crd, *(first := student_and_teacher()), INDEX)
    crd(*first, INDEX)
    second, index = student_and_teacher(), torch.tensor([0, 4, 9, 7])
    slow, _ = slowly(crd, *second, index, zs)
    afresh, _ = slowly(crd, *second, index)
    fast = crd(*second, index)
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=0)
    assert abs(fast - afresh) > 1e-3


def test_a_row_that_is_not_finite_spoils_neither_the_normalizers_nor_the_banks(
    make: Callable[..., CRD],
) -> None:
    crd, (student, teacher) = make(), student_and_teacher()
    bad, before = student.clone(), crd.student_bank.rows.clone()
    bad[1] = math.nan
    rest = torch.tensor([0, 2, 3])
    _, zs = slowly(crd, student[rest], teacher[rest], INDEX[rest])
    crd(bad, teacher, INDEX)
    torch.testing.assert_close(crd.teacher_bank.log_normalizer.exp(), zs[0])
    assert torch.equal(crd.student_bank.rows[INDEX[1]], before[INDEX[1]])
    assert all(bank.rows.isfinite().all() for bank in (crd.student_bank, crd.teacher_bank))
    assert crd(student, teacher, INDEX).isfinite()


@pytest.mark.parametrize("negatives", [1, 3, 5])
def test_negatives_are_distinct_instances_of_other_classes(
    make: Callable[..., CRD], negatives: int
) -> None:
    crd, index = make(negatives=negatives), torch.arange(len(TARGETS))
    for _ in range(20):
        for row, others in zip(index.tolist(), drawn(crd, index), strict=True):
            assert len(set(others)) == len(others) == negatives
            assert all(TARGETS[other] != TARGETS[row] for other in others)


def test_each_instance_of_another_class_is_drawn_as_often(make: Callable[..., CRD]) -> None:
    crd, counts, draws = make(), torch.zeros(len(TARGETS)), 3000
    for _ in range(draws):
        counts[drawn(crd, torch.tensor([0]))[0]] += 1
    # Row 0 has 5 others and takes 3: each with probability 0.6. Five standard deviations: 0.045.
    share = counts / draws
    assert (share[TARGETS != 0] - 0.6).abs().max() < 0.045
    assert share[TARGETS == 0].sum() == 0


def test_negatives_are_capped_to_what_the_largest_class_leaves(make: Callable[..., CRD]) -> None:
    crd = make(negatives=16384)
    assert crd.negatives == 5  # ten instances, five of class 0
    assert {len(others) for others in drawn(crd, torch.arange(len(TARGETS)))} == {5}
    assert torch.isfinite(crd(*student_and_teacher(), INDEX))


def test_bank_rows_are_unit_vectors_and_only_the_batchs_move(make: Callable[..., CRD]) -> None:
    crd = make(momentum=0.5)
    student, teacher = student_and_teacher()
    sides = [
        (crd.student_bank, F.normalize(crd.embed_student(student))),
        (crd.teacher_bank, F.normalize(crd.embed_teacher(teacher))),
    ]
    before = [bank.rows.clone() for bank, _ in sides]
    crd(student, teacher, INDEX)
    for (bank, embedding), old in zip(sides, before, strict=True):
        expected = old.clone()
        for row, one in zip(INDEX, embedding.detach(), strict=True):
            mean = 0.5 * old[row] + 0.5 * one
            expected[row] = mean / mean.square().sum().sqrt()
        torch.testing.assert_close(bank.rows, expected, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(bank.rows.norm(dim=1), torch.ones(10, dtype=torch.float64))
        assert not bank.rows.requires_grad
    untouched = torch.ones(10, dtype=torch.bool).index_fill(0, INDEX, value=False)
    assert torch.equal(crd.student_bank.rows[untouched], before[0][untouched])


def test_evaluation_changes_neither_banks_nor_normalizers(make: Callable[..., CRD]) -> None:
    crd = make().eval()
    before = {name: value.clone() for name, value in crd.state_dict().items()}
    crd(*student_and_teacher(), INDEX)
    for name, value in crd.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)


def test_gradients_reach_the_heads_and_the_student_but_not_the_teacher(
    make: Callable[..., CRD],
) -> None:
    crd = make()
    student, teacher = (each.requires_grad_() for each in student_and_teacher())
    crd(student, teacher, INDEX).backward()
    assert student.grad is not None
    assert student.grad.abs().sum() > 0
    for name, parameter in crd.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert teacher.grad is None


@pytest.mark.parametrize("batches", [0, 2])
def test_a_loaded_state_goes_on_with_the_same_losses(
    make: Callable[..., CRD], batches: int
) -> None:
    crd, resumed = make(), make()
    for _ in range(batches):
        crd(*student_and_teacher(), INDEX)
    resumed(*student_and_teacher(), INDEX)
    resumed.load_state_dict(crd.state_dict())
    inputs = student_and_teacher()
    for _ in range(2):
        losses: list[Tensor] = []
        state = torch.get_rng_state()
        for each in (crd, resumed):
            torch.set_rng_state(state)
            losses.append(each(*inputs, INDEX))
        assert losses[0] == losses[1]


def test_a_checkpoint_holds_the_banks_and_the_normalizers(make: Callable[..., CRD]) -> None:
    held = {name for name in make().state_dict() if "bank" in name}
    assert held == {
        f"{role}_bank.{what}"
        for role in ("student", "teacher")
        for what in ("rows", "log_normalizer")
    }


def test_nothing_of_batch_times_negatives_times_dimension_is_kept(
    make: Callable[..., CRD],
) -> None:
    crd = make(torch.arange(600) % 10, negatives=400, dimension=32)
    sizes: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        crd(*student_and_teacher(16), torch.arange(16))
    # The pool is 400 + 60 instances: 460 x 32 of a bank, 16 x 460 scores; 16 x 400 x 32 is 204,800.
    assert max(sizes) == 460 * 32


def test_half_precision_embeddings_give_a_finite_float32_loss(make: Callable[..., CRD]) -> None:
    student, teacher = student_and_teacher(dtype=torch.bfloat16)
    student = (1e4 * student).requires_grad_()
    loss = make(double=False)(student, teacher, INDEX)
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


def test_a_training_set_of_one_class_is_refused(make: Callable[..., CRD]) -> None:
    with pytest.raises(UserError, match="one class only"):
        make(torch.zeros(6, dtype=torch.int64))


@pytest.mark.parametrize(
    ("option", "value"),
    [("dimension", 0), ("negatives", 0), ("momentum", 1.0), ("nce_temperature", 0.0)],
)
def test_an_option_out_of_range_is_refused_by_name(
    make: Callable[..., CRD], option: str, value: float
) -> None:
    with pytest.raises(UserError, match=f"{option}={value}: give a (whole )?number"):
        make(**{option: value})
