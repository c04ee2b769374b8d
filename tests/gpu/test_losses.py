"""Every loss, and every source of temperatures, where their inputs are."""

from dataclasses import replace

import pytest
import torch
from tests.gpu.parts import CLASSES, METHODS, SOURCES, Pair, batch_of, source_of
from tests.gpu.places import Place, places
from torch.nn import functional as F

pytestmark = pytest.mark.usefixtures("plainly")
DRAWS = {"crd"}
"""Losses that draw on the device: other numbers on each."""
SLOW = {*METHODS} - {"kd", "dkd", "sp"}
"""Left to the long tests: a GPU that is not there takes seconds to answer."""


@pytest.mark.parametrize(
    "method",
    [pytest.param(each, marks=pytest.mark.long) if each in SLOW else each for each in METHODS],
)
def test_a_loss_goes_with_sources_without_waiting_for_the_device(method: str, place: Place) -> None:
    pair, batch = Pair(method, place), place.put(batch_of())
    pair.losses(pair.forward(batch).inputs, place.put(source_of("constant")))  # a bank settles
    with place.without_waiting():
        seen = pair.forward(batch).inputs
    mixed = replace(seen, target=F.one_hot(seen.target, CLASSES).float())
    for name in SOURCES if method == "kd" else SOURCES[-1:]:
        source = place.put(source_of(name))
        with place.without_waiting():
            loss, parts = pair.losses(seen, source)
        place.check(loss, *parts.values())
    with place.without_waiting():
        loss.backward()
        of_mixed, _ = pair.losses(mixed, source)
    place.check(of_mixed)
    gradients = [each.grad for each in pair.trained() if each.grad is not None]
    place.check(*gradients)
    assert any(each.grad is not None for each in pair.student.parameters())


SAME_FIGURES = [
    *(("cpu", method) for method in ("kd", "reviewkd")),  # which shows that this runs
    *(
        pytest.param("cuda", method, marks=pytest.mark.gpu)
        for method in METHODS
        if method not in DRAWS
    ),
]


def figures(method: str, place: Place, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Return losses and gradients, by formulas that draw nothing, on the CPU."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    pair = Pair(method, place)
    found: list[torch.Tensor] = []
    for name in sorted(set(SOURCES) - {"random", "rlkd", "rlkd_paper"}):
        source = place.put(source_of(name))
        loss, parts = pair.losses(pair.forward(place.put(batch_of())).inputs, source)
        trained = [*pair.trained(source)]
        gradients = torch.autograd.grad(loss, trained, allow_unused=True, materialize_grads=True)
        found += [loss.detach(), *parts.values(), *gradients]
    return [each.cpu() for each in found]


@pytest.mark.parametrize(("where", "method"), SAME_FIGURES)
def test_losses_and_gradients_are_those_of_the_cpu(
    where: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, expected = (
        figures(method, place, monkeypatch) for each in (where, "cpu") for place in places(each)
    )
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
