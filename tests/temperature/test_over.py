"""An agent's temperatures over the logits as another source leaves them."""

from typing import Any

import pytest
import torch
from tests.agent.loop import logits_of, make_agent

from rlkd.errors import UserError
from rlkd.losses import kd, standardise
from rlkd.temperature import (
    DTKD,
    GreedyLookAhead,
    LogitStandardisation,
    NormKD,
    RandomTemperature,
)
from rlkd.temperature.look_ahead import Gains, gains
from rlkd.temperature.over import check_over, over

SOURCES: dict[Any, Any] = {"standardised": LogitStandardisation, "normkd": NormKD, "dtkd": DTKD}


@pytest.mark.parametrize("name", SOURCES)
def test_one_temperature_for_all_is_the_source_itself(name: Any) -> None:
    seen = logits_of(0)
    student = seen.student.requires_grad_()
    given = over(name, seen.teacher, seen.target, torch.full((8, 1), 3.0), student)
    expected = SOURCES[name](base_temperature=3.0)(student, seen.teacher, seen.target)
    for part in ("student", "teacher", "factor"):
        torch.testing.assert_close(getattr(given, part), getattr(expected, part))
    torch.testing.assert_close(given.at_one.student, expected.at_one.student)
    losses = [kd(student, seen.teacher, each) for each in (given, expected)]
    one, other = (torch.autograd.grad(each, student)[0] for each in losses)
    torch.testing.assert_close(one, other)


def test_over_standardised_logits_each_instance_has_its_own() -> None:
    """KD at these temperatures is KD of standardised logits, at a T for each instance."""
    agent, seen = make_agent(over="standardised", base_temperature=2.0), logits_of(3)
    temperature = agent(seen.student, seen.teacher, seen.target)
    own = agent._last_temperature
    assert own is not None
    own = own[:, 0]
    assert own.unique().numel() == 8
    student, teacher = standardise(seen.student), standardise(seen.teacher)
    torch.testing.assert_close(
        kd(seen.student, seen.teacher, temperature), kd(student, teacher, own), rtol=1e-4, atol=1e-5
    )


def test_what_a_look_ahead_sees_is_what_trains() -> None:
    """The gradient by the student's own deviation is part of the gain."""
    agent = make_agent(over="standardised", reward_source="look_ahead", probe_interval=1)
    seen, moving, asked = logits_of(1), logits_of(2).student, []

    def gain_of(temperatures_of: Any) -> Any:
        found = gains(
            lambda logits: kd(logits, seen.teacher, temperatures_of(logits)), seen.student, moving
        )
        asked.append((temperatures_of(seen.student), found.gain))
        return found

    agent.look_ahead(gain_of)
    agent(seen.student, seen.teacher, seen.target)
    assert len(asked) == 8
    temperatures, gain = asked[0]
    tau = (
        temperatures.student
        / LogitStandardisation(base_temperature=1.0)(
            seen.student, seen.teacher, seen.target
        ).student
    )
    leaf = seen.student.clone().requires_grad_()
    loss = kd(standardise(leaf), standardise(seen.teacher), tau)
    (gradient,) = torch.autograd.grad(loss, leaf)
    torch.testing.assert_close(gain, (gradient * moving).sum(dim=1), rtol=1e-3, atol=1e-5)


def test_what_is_no_base_is_refused() -> None:
    with pytest.raises(UserError, match="over=raw: choose one of plain, standardised, "):
        check_over("raw")


@pytest.mark.parametrize("name", SOURCES)
def test_random_and_greedy_temperatures_multiply_the_same(name: Any) -> None:
    seen = logits_of(5)
    plain, scaled = RandomTemperature(seed=3), RandomTemperature(seed=3, over=name)
    drawn = plain(seen.student, seen.teacher, seen.target).student
    expected = over(name, seen.teacher, seen.target, drawn[:, None], seen.student)
    assert torch.equal(scaled(seen.student, seen.teacher, seen.target).student, expected.student)

    greedy = GreedyLookAhead(temperatures=[2.0], over=name, base_temperature=1.0)
    greedy.look_ahead(lambda of: Gains(of(seen.student).student, of(seen.student).student))
    expected = over(name, seen.teacher, seen.target, torch.full((8, 1), 2.0), seen.student)
    assert torch.equal(greedy(seen.student, seen.teacher, seen.target).student, expected.student)
    base = SOURCES[name](base_temperature=1.0)(seen.student, seen.teacher, seen.target)
    torch.testing.assert_close(
        greedy.eval()(seen.student, seen.teacher, seen.target).student, base.student
    )


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("source", [RandomTemperature, GreedyLookAhead])
def test_what_nothing_is_over_is_refused(source: Any) -> None:
    with pytest.raises(UserError, match=r"^over=raw: choose one of plain, standardised"):
        source(over="raw")
