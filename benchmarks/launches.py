"""What a step asks of its device, part by part: operations, each a kernel at the least.

On a GPU small networks wait for the host that launches their kernels; a graph launches all of its
own at once. So this says what is left to launch where networks, losses and figures are graphs. It
times nothing; it counts the operations of torch that compute, views and new memory left out, in a
plain step (none in which the agent learns or is paid). A CPU has fewer of the teacher: its ReLUs
and additions are part of the convolutions there.

    python benchmarks/launches.py
"""

import argparse
from collections import Counter
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table
from torch.utils._python_dispatch import TorchDispatchMode

from steps import Steps

WEIGHTS = "weights of the losses"
PARTS = (
    "loading",
    "student, forward",
    "teacher",
    "temperatures",
    "losses, forward",
    WEIGHTS,
    "losses, backward",
    "student, backward",
    "optimiser",
    "figures",
    "watch and ranking",
)
RECORDED = ("student", "teacher", "losses", "figures")
IN_GRAPHS = {each for each in PARTS if each.startswith(RECORDED)}


class Counted(TorchDispatchMode):
    """Counts operations under the name of the part that is being done."""

    def __init__(self) -> None:
        super().__init__()
        self.part, self.counts = "loading", Counter[str]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        returned = [each.alias_info for each in func._schema.returns]
        views = any(each is not None and not each.is_write for each in returned)
        name = func.overloadpacket.__name__
        if not views and "empty" not in name and "record_function" not in name:
            self.counts[self.part] += 1
        return func(*args, **(kwargs or {}))

    def within(
        self, part: str, does: Callable[..., Any], then: str | None = None
    ) -> Callable[..., Any]:
        """Return a callable whose operations count under a part; all after them under another."""

        def done(*args: Any, **kwargs: Any) -> Any:
            self.part = part
            made = does(*args, **kwargs)
            self.part = then or part
            return made

        return done


def counted(overrides: list[str]) -> Counter[str]:
    """Return how many operations each part of a step has."""
    steps, mode = Steps(overrides), Counted()
    module, optimizer = steps.distiller, steps.distiller.optimizers()
    steps(2)  # the optimiser has its momentum by then
    calls: Any = vars(module)
    named = {"_temperatures": "temperatures", "_count": "figures", "_record": "watch and ranking"}
    for method, part in named.items():
        calls[method] = mode.within(part, getattr(module, method))
    networks: Any = module.forward_pass

    def forward(batch: Any) -> Any:
        mode.part = "student, forward"
        forwarded = networks(batch)
        forwarded.inputs.student_logits.register_hook(
            lambda _: setattr(mode, "part", "student, backward")
        )
        return forwarded

    networks._teacher = mode.within("teacher", networks._teacher)
    forward.moving = networks.moving  # pyright: ignore[reportFunctionMemberAccess]
    module.forward_pass = forward  # pyright: ignore[reportAttributeAccessIssue]
    losses = mode.within("losses, forward", module.objective.values, then=WEIGHTS)

    def values(inputs: Any) -> Any:
        found = losses(inputs)
        for value in found.values():
            value.register_hook(lambda _: setattr(mode, "part", "losses, backward"))
        return found

    module.objective.values = values
    calls["manual_backward"] = mode.within(WEIGHTS, calls["manual_backward"])
    optimizer.step = mode.within("optimiser", optimizer.step)  # pyright: ignore
    with mode:
        steps(1)
    return mode.counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*", help="of every step, such as student=resnet8")
    overrides = parser.parse_args().overrides
    arms = {
        "constant T": ["temperature=constant"],
        "rlkd": ["temperature=rlkd", "temperature.warmup_epochs=0"],
    }
    # As torch does of itself on a GPU, and not on a CPU.
    given = ["+optimizer.foreach=true", *overrides]
    found = {name: counted([*arm, *given]) for name, arm in arms.items()}
    table = Table("part", *found)
    for part in PARTS:
        table.add_row(part, *(str(each[part]) for each in found.values()))
    table.add_row("all", *(str(each.total()) for each in found.values()))
    shares = (sum(each[part] for part in IN_GRAPHS) / each.total() for each in found.values())
    table.add_row("of which in graphs", *(f"{share:.1%}" for share in shares))
    Console().print(table)


if __name__ == "__main__":
    main()
