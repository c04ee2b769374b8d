"""Checks of an agent's and of optimisers' states in a checkpoint, before they are loaded.

Each function raises a ValueError that names what does not fit.
"""

import copy
import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rlkd.agent.state import STATE_SIZE

_SIZES = {
    "state": (None, -1),
    "raw_action": (None,),
    "mask": (None,),
    "performance_before": (),
    "noise_field": (STATE_SIZE + 1,),
    "raw_reward": (),
    "reward": (),
}
"""Of what a window or a trajectory holds; None for its steps, -1 for the features of a state."""
_STEPS = {"state", "raw_action", "mask"}
_REWARDS = {"raw_reward", "reward"}


def require(right: object, what: str) -> None:
    """Raise a ValueError unless something is right."""
    if not right:
        raise ValueError(what)


def check_numbers(tensor: object, shape: tuple[int, ...], what: str) -> None:
    """Require a tensor of finite floats of a shape."""
    require(isinstance(tensor, Tensor) and tensor.shape == shape, f"{what} has another shape")
    assert isinstance(tensor, Tensor)
    require(tensor.is_floating_point() and tensor.isfinite().all(), f"{what} is not finite")


def check_agent(state: Mapping[str, Any], features: int) -> None:
    """Check what `TemperatureAgent.get_extra_state` returned: counters, transitions, figures.

    Args:
        state: what it returned.
        features: of a state of the agent's.
    """
    for name in ("epoch", "updates", "batches", "since_look"):
        require(type(state[name]) is int and state[name] >= 0, f"{name} is no count")
    window, closed = state["window"], state["closed"]
    names = set(window)
    whole = names >= _STEPS or not names & _STEPS
    require(whole and not names & _REWARDS, "the open trajectory lacks something")
    require(names <= _SIZES.keys(), "the open trajectory holds something else")
    for held in (window, *closed):
        _check_steps(held, features)
    for held in closed:
        require(set(held) == _STEPS | _REWARDS, "a closed trajectory lacks something")
    bad_rows = state["bad_rows"]
    counted = isinstance(bad_rows, Tensor) and bad_rows.dtype == torch.int64 and not bad_rows.dim()
    require(counted and bool(bad_rows >= 0), "bad_rows is no count")
    for name, figure in state["figures"].items():
        require(isinstance(figure, Tensor) and figure.numel() == 1, f"{name} is no figure")


def check_past(past: Mapping[str, Any], buffer: int) -> None:
    """Check trajectories that are remembered side by side, at most `buffer` of them."""
    if all(held is None for held in past.values()):
        return
    count, steps = cast(Tensor, past["mask"]).shape
    require(count <= buffer, "more trajectories are remembered than may be")
    for name, held in past.items():
        check_numbers(held, (count, *_size(name, steps, STATE_SIZE)), name)


def restore_optimizer(optimizer: Optimizer, held: Mapping[str, Any]) -> None:
    """Load an optimiser's state once all of it fits."""
    check_optimizer(optimizer, held)
    optimizer.load_state_dict(dict(held))


def check_optimizer(optimizer: Optimizer, held: Mapping[str, Any], *, begun: bool = False) -> None:
    """Check an optimiser's state by loading it into a stand-in, and by what a step would make.

    Args:
        optimizer: that is to have it; is left as it is.
        held: the state.
        begun: whether it has made a step, so that it cannot be without a state if it keeps one.
    """
    for state in held["state"].values():
        for name, value in state.items():
            complex_ = isinstance(value, Tensor) and value.is_complex()
            require(not complex_, f"the optimiser's {name} is complex")
    loaded = copy.copy(optimizer)
    loaded.load_state_dict(copy.deepcopy(dict(held)))
    for own, group in zip(optimizer.param_groups, loaded.param_groups, strict=True):
        for name, value in own.items():
            require(name in group, f"the optimiser's {name} is missing")
            if name != "params":
                _check_option(name, value, group[name])
    fresh = _fresh_state(optimizer)
    require(loaded.state or not begun or not any(fresh or ()), "the optimiser's state is missing")
    weights = [each for group in optimizer.param_groups for each in group["params"]]
    require(loaded.state.keys() <= {*weights}, "the optimiser's state is of other weights")
    for index, weight in enumerate(weights):
        state = loaded.state.get(weight, {})
        wanted = None if fresh is None else fresh[index]
        # A weight that no loss has reached has no state.
        require(not state or wanted is None or state.keys() == wanted.keys(), _OTHER)
        for name, value in state.items():
            like = None if wanted is None else wanted[name]
            _check_moment(name, value, like)


_OTHER = "the optimiser's state is another optimiser's"


def _size(name: str, steps: int, features: int) -> tuple[int, ...]:
    known = {None: steps, -1: features}
    return tuple(known.get(each, each or 0) for each in _SIZES[name])


def _check_steps(held: Mapping[str, Any], features: int) -> None:
    steps = len(held["mask"]) if "mask" in held else 0
    require(len({value.dtype for value in held.values()}) <= 1, "precisions are mixed")
    for name, value in held.items():
        check_numbers(value, _size(name, steps, features), name)


def _check_option(name: str, own: Any, value: Any) -> None:
    """Require an option that is of the kind of one's own, and not below 0 unless that is."""
    what = f"the optimiser's {name} is no such"
    if isinstance(own, list | tuple):
        require(isinstance(value, list | tuple) and len(value) == len(own), what)
        for each, other in zip(own, value, strict=True):
            _check_option(name, each, other)
    elif isinstance(own, bool) or own is None:
        require(isinstance(value, bool) or value is None, what)
    elif isinstance(own, int | float):
        require(isinstance(value, int | float) and not isinstance(value, bool), what)
        require(math.isfinite(value) and (value >= 0 or own < 0), what)


def _check_moment(name: str, value: object, like: object) -> None:
    what = f"the optimiser's {name}"
    if isinstance(like, Tensor):
        check_numbers(value, tuple(like.shape), what)
    elif isinstance(value, Tensor):
        require(like is None and value.isfinite().all(), _OTHER)
    if isinstance(value, Tensor) and (name == "step" or name.endswith("_sq")):
        require((value >= 0).all(), f"{what} is below 0")


def _fresh_state(optimizer: Optimizer) -> list[dict[str, Any]] | None:
    """Return the state of each weight after a first step; None where that cannot be tried out."""
    stand_in = copy.copy(optimizer)
    stand_in.state = defaultdict(dict)
    stand_in.param_groups = []
    for group in optimizer.param_groups:
        weights = [nn.Parameter(torch.empty_like(each, device="meta")) for each in group["params"]]
        for each in weights:
            each.grad = torch.empty_like(each)
        fused = {"fused": False} if "fused" in group else {}
        stand_in.param_groups.append({**group, **fused, "params": weights})
    try:
        type(optimizer).step(stand_in)
    except Exception:  # somebody's own optimiser may ask anything of its weights
        return None
    return [stand_in.state[each] for group in stand_in.param_groups for each in group["params"]]
