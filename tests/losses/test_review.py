import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rlkd.errors import UserError
from rlkd.losses.review import Fusion, ReviewKD, hcl

Inputs = tuple[list[Tensor], list[Tensor], Tensor, Tensor]


def features(batch: int = 4, dtype: torch.dtype = torch.float64) -> Inputs:
    """Student stages of 6 and 3 places a side, teacher stages of 8 and 4; both embeddings."""
    student = [torch.randn(batch, 3, 6, 6), torch.randn(batch, 5, 3, 3)]
    teacher = [torch.randn(batch, 4, 8, 8), torch.randn(batch, 6, 4, 4)]
    return (
        [each.to(dtype) for each in student],
        [each.to(dtype) for each in teacher],
        torch.randn(batch, 5, dtype=dtype),
        torch.randn(batch, 7, dtype=dtype),
    )


@pytest.fixture
def review() -> ReviewKD:
    return ReviewKD(*features(2, torch.float32)).double()


def test_hcl_of_one_place_is_the_squared_error() -> None:
    loss = hcl(torch.full((2, 3, 1, 1), 5.0), torch.full((2, 3, 1, 1), 2.0))
    assert loss == 9


def test_hcl_by_hand() -> None:
    # Differences 1, -1, 1, 3 of a 2 x 2 map: mean square 3. Pooled to one place: mean 1, square 1.
    # Weights 1 and 1/2: (3 + 1/2) / (3/2) = 7/3.
    student = torch.tensor([[[[1.0, -1.0], [1.0, 3.0]]]])
    torch.testing.assert_close(hcl(student, torch.zeros(1, 1, 2, 2)).item(), 7 / 3)


def test_hcl_pools_an_8_by_8_map_to_4_2_and_1() -> None:
    # Rows alternate 2 and 0: mean square 2, and every pooled place is 1: square 1 at each level.
    # (2 + 1/2 + 1/4 + 1/8) / (1 + 1/2 + 1/4 + 1/8) = 2.875 / 1.875.
    student = torch.zeros(1, 1, 8, 8)
    student[:, :, ::2] = 2.0
    torch.testing.assert_close(hcl(student, torch.zeros_like(student)).item(), 2.875 / 1.875)


def test_hcl_leaves_out_the_level_that_the_map_already_has() -> None:
    # A 4 x 4 map: itself, 2 x 2 and 1 x 1. Rows 2, 0, 2, 0: (2 + 1/2 + 1/4) / (1 + 1/2 + 1/4).
    student = torch.zeros(1, 1, 4, 4)
    student[:, :, ::2] = 2.0
    torch.testing.assert_close(hcl(student, torch.zeros_like(student)).item(), 2.75 / 1.75)


def plain(fusion: Fusion) -> Fusion:
    """Make convolutions of one channel identities, and batch norms do nothing."""
    fusion.eval()
    fusion.reduce.weight.data.fill_(1.0)
    fusion.expand.weight.data.zero_()
    fusion.expand.weight.data[:, :, 1, 1] = 1.0
    fusion.reduce_norm.eps = fusion.expand_norm.eps = 0.0
    return fusion


def test_fusion_weighs_a_stage_and_the_deeper_one_by_attention() -> None:
    # Both attention maps see the sum of stage 4 and deeper 1 or 3 through weights (1, 1) - 5 and
    # 0: the first is sigmoid(0) = 1/2 where deeper is 1 and sigmoid(2) where it is 3; the second
    # is sigmoid(0) = 1/2 everywhere.
    fusion = plain(Fusion(1, 1, 1, deeper_channels=1))
    assert isinstance(fusion.attend, torch.nn.Conv2d)
    fusion.attend.weight.data.copy_(torch.tensor([[1.0, 1.0], [0.0, 0.0]])[:, :, None, None])
    fusion.attend.bias.data.copy_(torch.tensor([-5.0, 0.0]))
    stage, deeper = torch.full((1, 1, 2, 2), 4.0), torch.tensor([[[[1.0, 3.0]]]])
    out, passed_on = fusion(stage, deeper, torch.Size([2, 2]))
    right = 4 * torch.sigmoid(torch.tensor(2.0)).item() + 1.5
    expected = torch.tensor([[[[2.5, right]] * 2]]).reshape(1, 1, 2, 2)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(passed_on, expected)


def test_fusion_brings_a_stage_to_the_size_of_the_teachers_map() -> None:
    fusion = plain(Fusion(1, 1, 1, deeper_channels=0))
    stage = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    out, passed_on = fusion(stage, None, torch.Size([4, 4]))
    expected = stage.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert torch.equal(out, expected)
    assert torch.equal(passed_on, expected)


def test_the_loss_sums_the_levels_from_deep_to_shallow(review: ReviewKD) -> None:
    review.eval()
    student, teacher, student_embedding, teacher_embedding = features()
    shallow, middle, deep = review.fusions
    out, passed = deep(student_embedding[:, :, None, None], None, torch.Size([1, 1]))
    expected = F.mse_loss(out[:, :, 0, 0], teacher_embedding)
    out, passed = middle(student[1], passed, torch.Size([4, 4]))
    expected = expected + hcl(out, teacher[1])
    out, _ = shallow(student[0], passed, torch.Size([8, 8]))
    expected = expected + hcl(out, teacher[0])
    loss = review(student, teacher, student_embedding, teacher_embedding)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)


def test_gradients_reach_the_fusions_and_the_student_but_not_the_teacher(
    review: ReviewKD,
) -> None:
    student, teacher, student_embedding, teacher_embedding = features()
    mine, theirs = [*student, student_embedding], [*teacher, teacher_embedding]
    for each in (*mine, *theirs):
        each.requires_grad_()
    review(student, teacher, student_embedding, teacher_embedding).backward()
    assert all(each.grad is not None and each.grad.abs().sum() > 0 for each in mine)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in review.parameters())
    assert all(each.grad is None for each in theirs)


def test_a_shallow_level_learns_from_the_deep_stage_too(review: ReviewKD) -> None:
    student, teacher, student_embedding, teacher_embedding = features()
    student_embedding.requires_grad_()
    for _, fusion in zip(range(2), reversed(review.fusions), strict=False):
        fusion.expand.weight.data.zero_()
    review(student, teacher, student_embedding, teacher_embedding).backward()
    assert student_embedding.grad is not None
    assert student_embedding.grad.abs().sum() > 0


@pytest.mark.parametrize(("bound", "gathered"), [(512, 5), (2, 2)])
def test_the_gathered_channels_are_the_embeddings_up_to_a_bound(bound: int, gathered: int) -> None:
    review = ReviewKD(*features(2), max_channels=bound)
    assert [fusion.reduce.out_channels for fusion in review.fusions] == [gathered] * 3
    assert [fusion.expand.out_channels for fusion in review.fusions] == [4, 6, 7]


def test_half_precision_features_give_a_finite_float32_loss() -> None:
    inputs = features(dtype=torch.bfloat16)
    loss = ReviewKD(*inputs)(*inputs)
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)


def test_loaded_fusions_give_the_same_loss(review: ReviewKD) -> None:
    inputs, other = features(), ReviewKD(*features(2)).double()
    review(*inputs)
    other.load_state_dict(review.state_dict())
    assert torch.equal(review.eval()(*inputs), other.eval()(*inputs))


def test_networks_with_different_numbers_of_maps_are_refused() -> None:
    student, teacher, *embeddings = features(2)
    with pytest.raises(UserError, match="1 maps of the student and 2 of the teacher"):
        ReviewKD(student[:1], teacher, *embeddings)


def test_a_bound_without_a_channel_is_refused() -> None:
    with pytest.raises(UserError, match="max_channels=0"):
        ReviewKD(*features(2), max_channels=0)


def test_a_share_of_one_image_is_refused_in_training_alone(review: ReviewKD) -> None:
    with pytest.raises(
        UserError, match=r"give trainer\.batch_size at least 2 images for each rank"
    ):
        review(*features(1))
    assert review.eval()(*features(1)).isfinite()
