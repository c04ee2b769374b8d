"""What a look-ahead predicts, against the thing itself."""

import copy
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.nn import functional as F

from rlkd import models
from rlkd.agent.look_ahead import LookAhead, direction, response
from rlkd.errors import Notice, UserError
from rlkd.losses import dkd, kd
from rlkd.models.eval_mode import frozen_statistics
from rlkd.temperature import GreedyLookAhead
from rlkd.temperature.look_ahead import Gains, check_held_out, gains, held_out_loss

CLASSES = 10


class Bench:
    """A student that has trained a little, its teacher's logits, and images held out."""

    def __init__(self, *, dropout: float = 0.0) -> None:
        torch.manual_seed(0)
        self.student = models.create("resnet8", num_classes=CLASSES)
        if dropout:
            self.student = nn.Sequential(self.student, nn.Dropout(dropout))
        # Classes differ by a pattern, so that there is something to learn.
        self.pattern = torch.randn(CLASSES, 3, 16, 16)
        self.probe, self.probe_target = self.drawn(128)
        self.optimizer = torch.optim.SGD(self.student.parameters(), lr=0.05)
        for _ in range(12):
            image, target = self.drawn(32)
            self.optimizer.zero_grad()
            F.cross_entropy(self.student(image), target).backward()
            self.optimizer.step()

    def drawn(self, count: int) -> tuple[Tensor, Tensor]:
        target = torch.randint(0, CLASSES, (count,))
        return self.pattern[target] + 1.5 * torch.randn(count, 3, 16, 16), target

    def taught(self, target: Tensor) -> Tensor:
        return 6 * F.one_hot(target, CLASSES) + 1.5 * torch.randn(len(target), CLASSES)

    def held_out(self, kind: Any = "cross_entropy") -> Tensor:
        return held_out_loss(self.student(self.probe), self.probe_target, kind)

    def state(self) -> dict[str, Tensor]:
        return {name: each.clone() for name, each in self.student.state_dict().items()}


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with torch.random.fork_rng():
        yield Bench()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(each, other[name]) for name, each in one.items())


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")  # torch's own
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_response_is_that_of_forward_mode(dropout: float) -> None:
    bench = Bench(dropout=dropout)
    image, _ = bench.drawn(32)
    before = bench.state()
    along = direction(bench.student, bench.held_out)
    seed = torch.random.get_rng_state()
    moving = response(bench.student, lambda: bench.student(image), along)
    assert torch.equal(torch.random.get_rng_state(), seed)
    assert same(before, bench.state())
    names = [name for name, _ in bench.student.named_parameters()]
    held = {name: each.detach() for name, each in bench.student.named_parameters()}
    with frozen_statistics(bench.student):
        _, exact = jvp(
            lambda given: functional_call(bench.student, given, (image,)),
            (held,),
            (dict(zip(names, along, strict=True)),),
        )
    assert (moving - exact).norm() < 0.03 * exact.norm()


@pytest.mark.parametrize("kind", ["cross_entropy", "soft_error"])
def test_the_direction_is_the_gradient_and_leaves_no_trace(bench: Bench, kind: Any) -> None:
    before = bench.state()
    along = direction(bench.student, lambda: bench.held_out(kind))
    assert same(before, bench.state())
    # A short step along it changes the loss by its squared length.
    weights = list(bench.student.parameters())
    squared = sum(float(each.square().sum()) for each in along)
    step = 1e-3 / squared**0.5
    losses: list[float] = []
    with torch.no_grad(), frozen_statistics(bench.student):
        for sign in (1, -2):
            for weight, each in zip(weights, along, strict=True):
                weight += sign * step * each
            losses.append(float(bench.held_out(kind)))
        for weight, each in zip(weights, along, strict=True):
            weight += step * each
    assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(squared, rel=0.02)


def test_shares_sum_to_the_gradients_product(bench: Bench) -> None:
    """<dL/dw, v> = sum_i U_i, whatever the loss; also where it couples the rows of a batch."""
    image, target = bench.drawn(32)
    taught, temperature = bench.taught(target), torch.rand(32) * 6 + 1
    along = direction(bench.student, bench.held_out)
    moving = response(bench.student, lambda: bench.student(image), along)

    def coupled(logits: Tensor) -> Tensor:
        likeness = F.normalize(logits) @ F.normalize(logits).T
        return (likeness - F.normalize(taught) @ F.normalize(taught).T).square().mean()

    for loss in (
        lambda z: kd(z, taught, temperature),
        lambda z: dkd(z, taught, target, temperature),
        lambda z: 0.1 * F.cross_entropy(z, target) + 0.9 * kd(z, taught, temperature),
        coupled,
    ):
        found = gains(loss, bench.student(image), moving)
        with frozen_statistics(bench.student):
            weights = list(bench.student.parameters())
            gradient = torch.autograd.grad(loss(bench.student(image)), weights)
        whole = sum(float((g * v).sum()) for g, v in zip(gradient, along, strict=True))
        assert float(found.gain.sum()) == pytest.approx(whole, rel=0.02, abs=1e-4)
        assert not found.gain.requires_grad


def one_step(
    bench: Bench, batch: tuple[Tensor, Tensor], moving: Tensor, temperature: float, rate: float
) -> tuple[Tensor, Tensor]:
    """Return what one step of SGD is predicted to take off the held-out loss, and what it does."""
    (image, taught), held = batch, bench.state()
    with frozen_statistics(bench.student):
        before = bench.held_out().detach()
        logits = bench.student(image)
        predicted = rate * gains(lambda z: kd(z, taught, temperature), logits, moving).gain.sum()
        weights = list(bench.student.parameters())
        gradient = torch.autograd.grad(kd(logits, taught, temperature), weights)
        with torch.no_grad():
            for weight, each in zip(weights, gradient, strict=True):
                weight -= rate * each
        measured = before - bench.held_out().detach()
    bench.student.load_state_dict(held)
    return predicted, measured


def test_it_predicts_what_one_step_does_to_the_held_out_loss(bench: Bench) -> None:
    pairs: list[tuple[Tensor, Tensor]] = []
    for _ in range(10):
        image, target = bench.drawn(32)
        batch = image, bench.taught(target)
        moving = LookAhead(bench.student, bench.probe, bench.probe_target, at_once=128)(
            image, turn=0
        )
        pairs += [one_step(bench, batch, moving, each, 0.02) for each in (1.0, 2.0, 4.0, 8.0)]
    x, y = (torch.stack(each) for each in zip(*pairs, strict=True))
    correlation = float(torch.corrcoef(torch.stack((x, y)))[0, 1])
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())
    assert correlation >= 0.95
    assert 0.8 <= slope <= 1.2


def test_students_that_do_not_follow_short_steps_are_refused() -> None:
    from torch.ao.quantization import get_default_qat_qconfig, prepare_qat

    image, target = torch.randn(4, 3, 8, 8), torch.arange(4) % 2
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 2))
    with pytest.raises(UserError, match=r"weights of half precision.*reward_source=probe"):
        LookAhead(copy.deepcopy(plain).bfloat16(), image, target)
    plain.qconfig = get_default_qat_qconfig("fbgemm")  # type: ignore[assignment]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of another package to come
        quantised = prepare_qat(plain.train())
    with pytest.raises(UserError, match=r"quantised in training.*reward_source=probe"):
        LookAhead(quantised, image, target)


def test_buffers_that_each_pass_moves_are_put_back() -> None:
    torch.manual_seed(0)
    layer = nn.utils.spectral_norm(nn.Linear(6, 4))
    network = nn.Sequential(nn.Flatten(), layer)
    image, target = torch.randn(8, 6), torch.arange(8) % 4
    along = direction(network, lambda: F.cross_entropy(network(image), target))
    before = {name: each.clone() for name, each in network.state_dict().items()}
    response(network, lambda: network(image), along)
    assert same(before, network.state_dict())


@pytest.mark.parametrize("at_once", [48, 96, 100, 127, 128, 130])
def test_every_held_out_image_has_its_turn_though_classes_stand_together(
    bench: Bench, at_once: int
) -> None:
    row = torch.arange(128)  # as many classes, in order
    parts = LookAhead(bench.student, bench.probe, row, at_once=at_once)._parts
    sizes = [len(target) for _, target in parts]
    assert max(sizes) <= min(at_once, 128)
    assert max(sizes) - min(sizes) <= 1
    assert torch.equal(torch.cat([target for _, target in parts]).sort().values, row)
    for image, target in parts:
        assert torch.equal(image, bench.probe[target])


def test_the_soft_error_is_that_of_the_best_wrong_class() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0]])
    expected = (torch.sigmoid(torch.tensor(-1.0)) + torch.sigmoid(torch.tensor(2.0))) / 2
    given = held_out_loss(logits, torch.tensor([0, 2]), "soft_error")
    torch.testing.assert_close(given, expected)
    with pytest.raises(UserError, match="held_out=f1: choose one of cross_entropy, soft_error"):
        check_held_out("f1")


def test_turns_take_all_held_out_images_in_parts(bench: Bench) -> None:
    ahead = LookAhead(bench.student, bench.probe, bench.probe_target, at_once=32)
    image, _ = bench.drawn(16)
    ways = [ahead(image, turn=turn) for turn in range(5)]
    torch.testing.assert_close(ways[0], ways[4])
    assert not torch.allclose(ways[0], ways[1], rtol=0.1)
    whole = LookAhead(bench.student, bench.probe, bench.probe_target, at_once=128)(image, turn=0)
    along = direction(bench.student, bench.held_out)
    expected = response(bench.student, lambda: bench.student(image), along)
    torch.testing.assert_close(whole, expected)


def test_greedy_takes_the_best_of_each_instance() -> None:
    source = GreedyLookAhead(temperatures=(1.0, 3.0, 8.0), base_temperature=4.0)
    best = torch.tensor([1.0, 8.0, 3.0, torch.nan])

    logits, target = torch.randn(4, 5), torch.zeros(4, dtype=torch.long)

    def gain_of(temperatures_of: Any) -> Gains:
        return Gains(-(best - temperatures_of(logits).student).abs(), torch.ones(4))

    assert source.look_ahead_due
    source.look_ahead(gain_of)
    assert source(logits, logits, target).student.tolist() == [1.0, 8.0, 3.0, 4.0]
    with pytest.warns(Notice, match="waits for what temperatures would bring"):
        assert source(logits, logits, target).student.tolist() == [4.0] * 4
    assert source(logits, logits, target).student.tolist() == [4.0] * 4  # said once
    source.eval()
    assert not source.look_ahead_due
