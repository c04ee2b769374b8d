import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlkd.errors import UserError
from rlkd.losses.simkd import SimKD, SimKDStudent


def made(student: tuple[int, ...] = (3, 6, 6), teacher: tuple[int, ...] = (8, 4, 4)) -> SimKD:
    return SimKD(torch.zeros(2, *student), torch.zeros(2, *teacher), torch.zeros(2, 8))


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor]:
    return torch.randn(4, 3, 6, 6), torch.rand(4, 8, 4, 4)


def test_simkd_by_hand() -> None:
    # The student's 2 x 2 map is pooled to the teacher's one place: mean 3. The projector's
    # convolutions double (the 3 x 3 in its centre), its batch norms do nothing in evaluation:
    # 24, where the teacher has 20: (24 - 20)^2.
    simkd = SimKD(torch.zeros(2, 1, 2, 2), torch.zeros(2, 1, 1, 1), torch.zeros(2, 1), factor=1)
    for layer in simkd.eval().projector:
        if isinstance(layer, nn.Conv2d):
            layer.weight.data.zero_()
            middle = layer.kernel_size[0] // 2
            layer.weight.data[:, :, middle, middle] = 2.0
        elif isinstance(layer, nn.BatchNorm2d):
            layer.eps = 0.0
    feature = torch.tensor([[[[1.0, 2.0], [4.0, 5.0]]]])
    assert simkd(feature, torch.full((1, 1, 1, 1), 20.0)) == 16
    assert simkd.predict(feature, lambda embedding: 10 * embedding) == 240


@pytest.mark.parametrize(
    ("student", "teacher", "size"),
    [
        ((3, 6, 6), (8, 4, 4), (4, 4)),
        ((3, 2, 2), (8, 4, 4), (2, 2)),
        ((3, 4, 4), (8, 4, 4), (4, 4)),
    ],
)
def test_the_larger_map_is_pooled_to_the_smaller(
    student: tuple[int, ...], teacher: tuple[int, ...], size: tuple[int, int]
) -> None:
    simkd = made(student, teacher).eval()
    mine, theirs = torch.randn(4, *student), torch.rand(4, *teacher)
    projected = simkd.projector(F.adaptive_avg_pool2d(mine, size))
    expected = (projected - F.adaptive_avg_pool2d(theirs, size)).square().mean()
    torch.testing.assert_close(simkd(mine, theirs), expected)


def test_the_teachers_own_map_makes_the_teachers_own_prediction() -> None:
    simkd = made((8, 4, 4), (8, 4, 4))
    simkd.projector = nn.Conv2d(8, 8, 1, bias=False)
    simkd.projector.weight.data.copy_(torch.eye(8)[:, :, None, None])
    feature, head = torch.rand(4, 8, 4, 4), nn.Linear(8, 5)
    assert simkd(feature, feature) == 0
    torch.testing.assert_close(simkd.predict(feature, head), head(feature.mean(dim=(2, 3))))


def test_gradients_reach_the_projector_and_the_student_but_not_the_teacher(
    inputs: tuple[Tensor, Tensor],
) -> None:
    simkd = made()
    student, teacher = (each.requires_grad_() for each in inputs)
    simkd(student, teacher).backward()
    assert student.grad is not None
    assert student.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in simkd.parameters())
    assert teacher.grad is None


def test_a_wider_factor_makes_a_narrower_bottleneck() -> None:
    # 3*2 + 9*2*2 + 2*8 weights of the convolutions, and two numbers for each of 2 + 2 + 8 norms.
    simkd = SimKD(torch.zeros(2, 3, 6, 6), torch.zeros(2, 8, 4, 4), torch.zeros(2, 8), factor=4)
    assert sum(each.numel() for each in simkd.parameters()) == 6 + 36 + 16 + 24


def test_the_student_network_predicts_as_the_loss_does(inputs: tuple[Tensor, Tensor]) -> None:
    simkd, body, head = made().eval(), nn.Conv2d(1, 3, 3, padding=1), nn.Linear(8, 5)
    network = SimKDStudent(body, simkd, head).eval()
    image = torch.randn(4, 1, 6, 6)
    torch.testing.assert_close(network(image), simkd.predict(body(image), head))
    assert network(image).shape == (4, 5)


def test_the_student_network_holds_all_its_weights_and_trains_no_classifier() -> None:
    head = nn.Linear(8, 5)
    network = SimKDStudent(nn.Conv2d(1, 3, 3, padding=1), made(), head)
    other = SimKDStudent(nn.Conv2d(1, 3, 3, padding=1), made(), nn.Linear(8, 5))
    other.load_state_dict(network.state_dict())
    image = torch.randn(4, 1, 6, 6)
    torch.testing.assert_close(network.eval()(image), other.eval()(image), rtol=0, atol=0)
    network(image).sum().backward()
    assert all(each.grad is None for each in (*head.parameters(), *network.head.parameters()))
    assert head.weight.requires_grad
    assert all(each.grad is not None for each in network.student.parameters())


def test_half_precision_features_give_a_finite_float32_loss(inputs: tuple[Tensor, Tensor]) -> None:
    loss = made()(*(each.bfloat16() for each in inputs))
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)


def test_a_loaded_projector_gives_the_same_loss(inputs: tuple[Tensor, Tensor]) -> None:
    simkd, other = made(), made()
    simkd(*inputs)
    other.load_state_dict(simkd.state_dict())
    assert torch.equal(simkd.eval()(*inputs), other.eval()(*inputs))


def test_a_map_that_the_teachers_classifier_does_not_read_is_refused() -> None:
    with pytest.raises(UserError, match="classifier reads 9 numbers, but its map has 8 channels"):
        SimKD(torch.zeros(2, 3, 6, 6), torch.zeros(2, 8, 4, 4), torch.zeros(2, 9))


def test_a_map_before_the_teachers_last_activation_is_refused() -> None:
    feature = torch.randn(2, 8, 4, 4)
    embedding = feature.relu().mean(dim=(2, 3))
    with pytest.raises(UserError, match="not what its classifier reads: give layers=final"):
        SimKD(torch.zeros(2, 3, 6, 6), feature, embedding)
    SimKD(torch.zeros(2, 3, 6, 6), feature.relu().bfloat16(), embedding.bfloat16())


@pytest.mark.parametrize("factor", [0, 9])
def test_a_factor_that_leaves_no_channel_is_refused(factor: int) -> None:
    with pytest.raises(
        UserError, match=f"factor={factor}: give a whole number of at least 1, at most 8"
    ):
        SimKD(torch.zeros(2, 3, 6, 6), torch.zeros(2, 8, 4, 4), torch.zeros(2, 8), factor=factor)
