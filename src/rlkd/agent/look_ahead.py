"""The look-ahead itself: how a network's logits move as a held-out loss falls, and what it pays."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from rlkd import arguments, distributed
from rlkd.agent.rollout import Rollout
from rlkd.errors import UserError
from rlkd.models.eval_mode import frozen_statistics
from rlkd.temperature.bounded_gaussian import BoundedGaussian
from rlkd.temperature.look_ahead import GainOf, Gains, HeldOut, check_held_out, held_out_loss

_RELATIVE = 1e-5
"""Length of the step of a difference, as a share of the weights' own length: in float32 a longer
one meets the kinks of ReLUs, a shorter one drowns in rounding."""
_MOST_IN_GROUP = 1024
_SHORTEST = 1e-12
"""Of a gradient, below which a temperature teaches nothing."""


def direction(
    network: nn.Module, loss: Callable[[], Float[Tensor, ""]]
) -> list[Float[Tensor, "..."]]:
    """Return the gradient v of a held-out loss by each weight that trains.

    Statistics of batch norms, and the ranges that a quantised network observes, stay as they are.

    Args:
        network: in the mode that it trains in.
        loss: calls the network.
    """
    weights = _trained(network)
    with frozen_statistics(network), torch.enable_grad():
        found = torch.autograd.grad(loss(), weights, allow_unused=True)
    pairs: Any = zip(weights, found, strict=True)  # None for a weight that has no part in it
    return [torch.zeros_like(weight) if each is None else each for weight, each in pairs]


@torch.no_grad()
def response(
    network: nn.Module,
    logits: Callable[[], Float[Tensor, "batch classes"]],
    along: Sequence[Float[Tensor, "..."]],
) -> Float[Tensor, "batch classes"]:
    """Return z'_i = J_i v: how fast each instance's logits move as the weights move along v.

    By a central difference of two forward passes in float32, which costs half of what forward-mode
    differentiation does on a CPU and is exact to a few hundredths. The weights are afterwards what
    they were, to the bit. Call it before the pass that trains.

    Args:
        network: in the mode that it trains in.
        logits: calls the network on the batch; twice, with the same random numbers.
        along: v, see `direction`.
    """
    weights, buffers = _trained(network), list(network.buffers())
    held = [each.detach().clone() for each in weights]
    held_buffers = [each.clone() for each in buffers]
    step = _RELATIVE * _length(held) / _length(along).clamp_min(torch.finfo(torch.float32).tiny)
    moved = [step * each for each in along]
    found: list[Tensor] = []
    try:
        for sign in (1, -1):
            for weight, old, each in zip(weights, held, moved, strict=True):
                weight.copy_(old + sign * each)
            with frozen_statistics(network), _same_draws(held[0].device), _whole_float32():
                torch.clear_autocast_cache()
                with torch.autocast(held[0].device.type, enabled=False):
                    # Compiled into CUDA graphs, a network overwrites its logits.
                    found.append(logits().float().clone())
            for buffer, old in zip(buffers, held_buffers, strict=True):
                buffer.copy_(old)
    finally:
        for each, old in zip((*weights, *buffers), (*held, *held_buffers), strict=True):
            each.copy_(old)
        torch.clear_autocast_cache()
    return (found[0] - found[1]) / (2 * step)


def _trained(network: nn.Module) -> list[nn.Parameter]:
    return [each for each in network.parameters() if each.requires_grad]


@contextmanager
def _whole_float32() -> Generator[None]:
    """Have a GPU multiply in float32: TF32 has ten bits, and would not see so short a step."""
    cudnn: Any = torch.backends.cudnn
    matmul = torch.backends.cuda.matmul
    held = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = held


def check_student(network: nn.Module) -> None:
    """Refuse a network whose logits do not follow short steps of its weights.

    Raises:
        UserError: if it is quantised in training, or has weights of less than float32.
    """
    reason = ""
    if any(hasattr(each, "fake_quant_enabled") for each in network.modules()):
        reason = "is quantised in training, so that its logits move in jumps"
    if any(each.dtype in (torch.float16, torch.bfloat16) for each in _trained(network)):
        reason = "has weights of half precision, too coarse for the short steps of a look-ahead"
    if reason:
        raise UserError(
            f"the student {reason}: choose temperature.reward_source=probe, or a temperature that "
            "does not look ahead"
        )


@contextmanager
def _same_draws(device: torch.device) -> Generator[None]:
    """Leave the random numbers that dropout takes as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def _length(tensors: Sequence[Tensor]) -> Float[Tensor, ""]:
    return torch.stack([each.float().norm() for each in tensors]).norm()


def moving(
    student: nn.Module,
    image: Float[Tensor, "batch c h w"],
    held: Float[Tensor, "held c h w"],
    target: Int[Tensor, " held"],
    kind: HeldOut,
) -> Float[Tensor, "batch classes"]:
    """Return z' of a batch as the loss on other images falls, see `response`.

    Args:
        student: in the mode that it trains in.
        image: of the batch.
        held: the other images.
        target: their classes.
        kind: what the loss is, see `held_out_loss`.
    """
    along = direction(student, lambda: held_out_loss(student(held), target, kind))
    return response(student, lambda: student(image), along)


class LookAhead:
    """Finds how a student's logits move as a held-out loss falls, for a loop of one's own.

    Where `source.look_ahead_due`, in this order, before the student's update::

        moving = ahead(image, turn=source.updates)        # before the student's own pass
        logits = student(image)
        source.look_ahead(
            lambda of: gains(lambda z: kd(z, teacher_logits, of(z)), logits, moving)
        )
        temperatures = source(logits, teacher_logits, target)

    Args:
        student: in the mode that it trains in.
        image: of the images that are held out of training, on the student's device.
        target: their classes.
        held_out: what the loss is, see `held_out_loss`.
        at_once: how many of the images a look-ahead takes at most; the parts are alike in size.

    Raises:
        UserError: for a value out of range, or a student whose logits do not follow short steps.
    """

    def __init__(
        self,
        student: nn.Module,
        image: Float[Tensor, "probe c h w"],
        target: Int[Tensor, " probe"],
        *,
        held_out: HeldOut = "cross_entropy",
        at_once: int = 64,
    ) -> None:
        arguments.count("at_once", at_once)
        check_held_out(held_out)
        check_student(student)
        self.student = student
        self.held_out: HeldOut = held_out
        # Evenly spaced rows, for those of a class may stand together; all of them, in turns.
        parts = -(-len(target) // at_once)
        self._parts = [(image[part::parts], target[part::parts]) for part in range(parts)]

    def __call__(
        self, image: Float[Tensor, "batch c h w"], *, turn: int
    ) -> Float[Tensor, "batch classes"]:
        """Return z' of a batch, see `response`.

        Args:
            image: of the batch.
            turn: how many look-aheads came before, which chooses the part of the held-out images.
        """
        held, target = self._parts[turn % len(self._parts)]
        return moving(self.student, image, held, target, self.held_out)


class Paid(NamedTuple):
    """What a group of actions for each instance brought."""

    rollout: Rollout
    """A trajectory for each member of the group; a step for each action of each instance."""
    reward: Float[Tensor, "group step"]
    """The gain over the mean of the instance's group, or the gain itself where the group is one."""
    hotter_gained: Float[Tensor, ""]
    """How rewards go along with the student's temperature: (1 + their correlation) / 2."""


def paid(
    state: Float[Tensor, "batch actions size"],
    policy: BoundedGaussian,
    group: Float[Tensor, "group batch actions"],
    gain_of: Callable[[Float[Tensor, "own actions"]], Gains],
    learn_from: Bool[Tensor, " batch"],
    *,
    equal_steps: bool,
    kept: slice = slice(None),
) -> Paid:
    """Pay a group of actions for each instance.

    Where the teacher's temperature is an action of its own, each of an instance's two is paid what
    it brings beside the policy's mean for the other.

    Args:
        state: of all ranks' instances, as `policy`, `group` and `learn_from` are.
        policy: in these states.
        group: actions u, for both networks or for each.
        gain_of: temperatures of this rank's instances to what they bring.
        learn_from: the instances that may be learnt from; those without a finite gain are not.
        equal_steps: whether gradients count as if all of an instance's group had one length.
        kept: the instances that enter the trajectories.
    """
    rank, own, actions = distributed.this_rank(), list[Tensor](), state.shape[1]
    for raw_action in group:
        for action in range(actions):
            drawn = policy.mean.clone()
            drawn[:, action] = raw_action[:, action]
            gains = gain_of(rank.share_of(policy.temperature(drawn)))
            own += [gains.gain, gains.size]
    found = distributed.gather_rows(torch.stack(own, dim=1).float())
    known = found.isfinite().all(dim=1) & learn_from
    found = torch.where(known[:, None], found, 0.0).unflatten(1, (len(group), actions, 2))
    gain, size = found.transpose(0, 1).unbind(dim=3)  # each (group, batch, actions)
    if equal_steps:
        gain = gain * size.mean(dim=0) / size.clamp_min(_SHORTEST)
    reward = gain - gain.mean(dim=0) if len(group) > 1 else gain
    total = gain.mean(dim=2).sum(dim=1)
    hotter = policy.temperature(group)[..., 0]
    hotter = torch.where(known, hotter - hotter.mean(dim=0), 0.0)
    lengths = (hotter.square().sum() * reward[..., 0].square().sum()).sqrt()
    along = torch.where(lengths > 0, (hotter * reward[..., 0]).sum() / lengths, 0.0)
    rows = state[kept].flatten(0, 1)
    rollout = Rollout(
        state=rows.expand(len(group), *rows.shape),
        raw_action=group[:, kept].flatten(1),
        mask=known[kept].to(state)[:, None].expand(-1, actions).flatten().expand(len(group), -1),
        raw_reward=total,
        reward=total,
    )
    return Paid(rollout, reward[:, kept].flatten(1), (1 + along) / 2)


class Looking:
    """When an agent looks ahead, and what it makes of it.

    Args:
        held_out: what it looks at.
        interval: updates from one look-ahead to the next.
        group_size: temperatures of each instance that are compared.
        equal_steps: see `paid`.
    """

    def __init__(
        self, held_out: HeldOut, interval: int, group_size: int, *, equal_steps: bool
    ) -> None:
        check_held_out(held_out)
        arguments.count("group_size", group_size, most=_MOST_IN_GROUP)
        arguments.flag("equal_steps", equal_steps)
        self.held_out: HeldOut = held_out
        self.interval, self.group_size, self.equal_steps = interval, group_size, equal_steps
        self.since = 0
        self._given: GainOf | None = None
        self._answered = False

    @property
    def due(self) -> bool:
        """True if the loop must say now what temperatures of the coming batch would bring."""
        return self.since == 0

    @property
    def overdue(self) -> bool:
        """True if it must, and has not."""
        return self.due and not self._answered

    def take(self, gain_of: GainOf | None) -> None:
        """Take the answer; None where there is nothing to look at."""
        if self.due:
            self._given, self._answered = gain_of, True

    def next(self, passes: int) -> GainOf | None:
        """Pass on to the next batch, and return what was answered for this one."""
        given, self._given, self._answered = self._given, None, False
        self.since = (self.since + 1) % (self.interval * passes)
        return given

    def pay(
        self,
        gain_of: Callable[[Float[Tensor, "own actions"]], Gains],
        state: Float[Tensor, "batch actions size"],
        policy: BoundedGaussian,
        learn_from: Bool[Tensor, " batch"],
        generator: torch.Generator,
        kept: slice,
    ) -> Paid:
        """Draw groups of actions, and pay them; see `paid`."""
        group = policy.group(self.group_size, generator)
        equal = self.equal_steps
        return paid(state, policy, group, gain_of, learn_from, equal_steps=equal, kept=kept)
