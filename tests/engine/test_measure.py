"""What is measured, and with which weights."""

import math
from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlkd.engine.scoring import scored_logits
from rlkd.errors import UserError
from rlkd.tasks.classification.evaluate import evaluate
from rlkd.types import Batch


def batches(logits: Tensor, target: Tensor, sizes: Iterable[int]) -> list[Batch]:
    """Images that are logits, for a network that flattens them."""
    first, made = 0, list[Batch]()
    for size in sizes:
        rows = slice(first, first + size)
        image = logits[rows].reshape(size, 1, 1, -1)
        made.append(Batch(image=image, target=target[rows], index=torch.arange(size)))
        first += size
    return made


def test_scores_agree_with_hand_arithmetic() -> None:
    # Every row holds the logits 0 to 5 in some order; those of the true classes are
    # 5, 5, 5, 4, 1, 0: three rows are right, five have the class among the first five, and the
    # loss of a row is log(e^0 + ... + e^5) minus the true class's logit, which sum to 20.
    logits = torch.tensor(
        [
            [5.0, 4, 3, 2, 1, 0],
            [0.0, 5, 4, 3, 2, 1],
            [4.0, 3, 5, 2, 1, 0],
            [5.0, 3, 2, 4, 1, 0],
            [2.0, 5, 4, 3, 1, 0],
            [1.0, 2, 3, 4, 5, 0],
        ]
    )
    scores = evaluate(nn.Flatten(), batches(logits, torch.arange(6), (4, 2)), class_names="abcdef")
    assert scores.top1 == pytest.approx(3 / 6)
    assert scores.top5 == pytest.approx(5 / 6)
    expected = math.log(sum(math.exp(logit) for logit in range(6))) - 20 / 6
    assert scores.loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("classes", [3, 5])
def test_with_few_classes_there_is_no_top_5(classes: int) -> None:
    logits = torch.arange(classes, 0, -1.0).expand(2, classes)
    target = torch.tensor([0, 2])
    scores = evaluate(nn.Flatten(), batches(logits, target, (2,)), class_names="abcde"[:classes])
    assert scores.top1 == 0.5
    assert math.isnan(scores.top5)
    assert scores.summary == "top-1 50.00 %"


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_uses_running_statistics_and_leaves_every_mode(training: bool) -> None:
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(2), nn.Dropout().eval())
    network.training = network[1].training = training
    logits = torch.tensor([[10.0, 9.0], [10.0, 9.0]])  # its own statistics would flatten them
    before = {name: value.clone() for name, value in network.state_dict().items()}
    scores = evaluate(network, batches(logits, torch.tensor([0, 0]), (2,)), class_names="ab")
    assert scores.top1 == 1
    assert [each.training for each in network] == [True, training, False]
    assert network.training is training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_batch_of_no_images_changes_no_score() -> None:
    logits, target = torch.eye(6), torch.arange(6)
    empty = Batch(image=torch.zeros(0, 1, 1, 6), target=target[:0], index=target[:0])
    given = batches(logits, target, (4, 2))
    found = evaluate(nn.Flatten(), [empty, given[0], empty, given[1]], class_names="abcdef")
    assert found == evaluate(nn.Flatten(), given, class_names="abcdef")


def test_the_accuracy_of_each_class_is_that_of_its_own_images() -> None:
    # Of four images of class a the network takes three for a, both of c for b, and d has none.
    said, target = torch.tensor([0, 0, 1, 0, 1, 1]), torch.tensor([0, 0, 0, 0, 2, 2])
    logits = F.one_hot(said, 4).float()
    scores = evaluate(nn.Flatten(), batches(logits, target, (4, 2)), class_names="abcd")
    assert scores.by_class() == pytest.approx(
        {"a": 3 / 4, "b": math.nan, "c": 0, "d": math.nan}, nan_ok=True
    )
    assert scores.top1 == 3 / 6
    assert scores.hardest == "c 0.00 %, a 75.00 %"


def test_of_equal_classes_the_first_is_meant_by_both_accuracies() -> None:
    logits, target = torch.zeros(7, 7), torch.arange(7)
    scores = evaluate(nn.Flatten(), batches(logits, target, (7,)), class_names="abcdefg")
    assert (scores.top1, scores.top5) == (1 / 7, 5 / 7)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_row_that_is_not_finite_is_never_right(value: float) -> None:
    logits = torch.eye(7)
    logits[2, 2] = value
    scores = evaluate(nn.Flatten(), batches(logits, torch.arange(7), (7,)), class_names="abcdefg")
    assert scores.top1 == pytest.approx(6 / 7)
    assert scores.top5 == pytest.approx(6 / 7)


def test_where_no_rank_has_an_image_to_score_that_is_told() -> None:
    with pytest.raises(UserError, match="no image of the set can be decoded"):
        evaluate(nn.Flatten(), [], class_names="abc")


def network_and_image() -> tuple[nn.Sequential, Tensor]:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    )
    return network, torch.randn(8, 1, 4, 4)


def scored_and_fresh(*, clearing: bool) -> tuple[Tensor, Tensor]:
    """Train one step in bfloat16 and score; score the same weights where nothing is cached."""
    network, image = network_and_image()
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        nn.functional.cross_entropy(network(image), torch.arange(8) % 3).backward()
        optimizer.step()
        with pytest.MonkeyPatch.context() as patched:
            if not clearing:
                patched.setattr(torch, "clear_autocast_cache", lambda: None)
            scored = scored_logits(network, image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return scored, scored_logits(network, image)


def test_scored_logits_are_those_of_the_weights_after_the_update() -> None:
    scored, fresh = scored_and_fresh(clearing=True)
    assert torch.equal(scored, fresh)


def test_without_clearing_the_casts_they_would_be_those_of_before() -> None:
    scored, fresh = scored_and_fresh(clearing=False)
    assert not torch.allclose(scored, fresh, rtol=1e-2)


def test_a_training_pass_after_scoring_still_has_gradients() -> None:
    network, image = network_and_image()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scored_logits(network, image)
        network(image).float().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_scoring_uses_the_batch_and_leaves_every_statistic_and_the_mode() -> None:
    network, image = network_and_image()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    scored = scored_logits(network, image)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.training
    assert network[1].track_running_stats
    assert torch.equal(scored, network(image).detach())  # a training pass, batch statistics
    assert not torch.equal(network[1].running_mean, before["1.running_mean"])  # which moves these


def test_in_evaluation_mode_scoring_uses_the_running_statistics() -> None:
    network, image = network_and_image()
    network.eval()
    assert torch.equal(scored_logits(network, image), network(image).detach())
    assert not network.training


def test_statistics_are_tracked_again_after_a_failure() -> None:
    network, image = network_and_image()
    with pytest.raises(RuntimeError):
        scored_logits(network, image[:, :, :2])
    assert network[1].track_running_stats
