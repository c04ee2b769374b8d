"""The losses of every method, compiled without a break: what `python -m` prints is `METHOD GRAPHS`.

Raises where a loss breaks its graph, or differs from itself as it is.
"""

import torch
from tests.gpu.parts import METHODS, Pair, batch_of, source_of
from tests.gpu.places import places

from rlkd.checks import values_unchecked

_TURNS = 3


def main() -> None:
    (place,) = places("cpu")
    for method in METHODS:
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        plain, fast = Pair(method, place), Pair(method, place)
        vars(fast.objective)["values"] = torch.compile(
            fast.objective.values, backend="eager", fullgraph=True, dynamic=False
        )
        for turn in range(_TURNS):
            found: list[torch.Tensor] = []
            for pair in (plain, fast):
                torch.manual_seed(turn)
                with values_unchecked():  # as a step does
                    seen = pair.forward(batch_of()).inputs
                    found.append(pair.losses(seen, source_of("standardised"))[0])
            torch.testing.assert_close(*found)
        print(method, torch._dynamo.utils.counters["stats"]["unique_graphs"])


if __name__ == "__main__":
    main()
