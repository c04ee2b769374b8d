import pytest
import torch
from torch import Tensor, nn

from rlkd.losses.srrl import SRRL


@pytest.fixture
def srrl() -> SRRL:
    return SRRL(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5)).double()


@pytest.fixture
def head() -> nn.Module:
    return nn.Linear(5, 6).double().requires_grad_(False)


@pytest.fixture
def inputs(head: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    feature = torch.randn(4, 3, 4, 4, dtype=torch.float64)
    embedding = torch.rand(4, 5, dtype=torch.float64)
    return feature, embedding, head(embedding)


def test_srrl_by_hand() -> None:
    # The connector doubles, the batch norm (in evaluation, eps 0) does nothing, ReLU cuts.
    # Places 2 (1, -1, 3, 0) -> 2, 0, 6, 0: mean 2. Embedding 5: matching (2 - 5)^2 = 9.
    # The head gives (2, -4) against (5, -10): regression (9 + 36) / 2 = 22.5.
    srrl = SRRL(torch.zeros(2, 1, 2, 2), torch.zeros(2, 1)).eval()
    srrl.connect.weight.data.fill_(2.0)
    srrl.normalize.eps = 0.0
    feature = torch.tensor([[[[1.0, -1.0], [3.0, 0.0]]]])
    embedding = torch.tensor([[5.0]])
    logits = torch.tensor([[5.0, -10.0]])
    loss = srrl(feature, embedding, logits, lambda x: torch.cat([x, -2 * x], dim=1))
    torch.testing.assert_close(loss.item(), 9 + 22.5, rtol=1e-6, atol=0)


def test_a_student_that_has_the_teachers_embedding_loses_nothing() -> None:
    srrl = SRRL(torch.zeros(2, 5, 1, 1), torch.zeros(2, 5)).double().eval()
    srrl.connect.weight.data.copy_(torch.eye(5)[:, :, None, None])
    srrl.normalize.eps = 0.0
    head = nn.Linear(5, 6).double()
    embedding = torch.rand(4, 5, dtype=torch.float64)
    loss = srrl(embedding[:, :, None, None], embedding, head(embedding), head)
    assert loss < 1e-28


def test_gradients_reach_connector_and_student_through_the_head_but_not_the_teacher(
    srrl: SRRL, head: nn.Module, inputs: tuple[Tensor, Tensor, Tensor]
) -> None:
    feature, embedding, logits = (each.clone().requires_grad_() for each in inputs)
    srrl(feature, embedding, logits, head).backward()
    assert feature.grad is not None
    assert feature.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in srrl.parameters())
    assert embedding.grad is None
    assert logits.grad is None
    assert all(p.grad is None for p in head.parameters())


def test_the_gradient_equals_finite_differences(
    srrl: SRRL, head: nn.Module, inputs: tuple[Tensor, Tensor, Tensor]
) -> None:
    srrl.eval()

    def loss(feature: Tensor) -> Tensor:
        return srrl(feature, inputs[1], inputs[2], head)

    feature = inputs[0][:2, :, :2, :2].clone().requires_grad_()
    inputs = (feature, inputs[1][:2], inputs[2][:2])
    assert torch.autograd.gradcheck(loss, (feature,), rtol=1e-4)


def test_half_precision_features_give_a_finite_float32_loss() -> None:
    srrl, head = SRRL(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5)), nn.Linear(5, 6)
    feature = torch.randn(4, 3, 4, 4, dtype=torch.bfloat16)
    embedding = torch.rand(4, 5, dtype=torch.bfloat16)
    loss = srrl(feature, embedding, torch.randn(4, 6, dtype=torch.bfloat16), head)
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)


def test_a_loaded_connector_gives_the_same_loss(
    srrl: SRRL, head: nn.Module, inputs: tuple[Tensor, Tensor, Tensor]
) -> None:
    other = SRRL(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5)).double()
    srrl(*inputs, head)
    other.load_state_dict(srrl.state_dict())
    assert torch.equal(srrl.eval()(*inputs, head), other.eval()(*inputs, head))
