"""Coherent exploration: what like instances have in common, and what each keeps for itself."""

import pytest
import torch
from tests.marks import but_long

from rlkd.agent.agent import TemperatureAgent
from rlkd.agent.learner import Learner
from rlkd.agent.noise import coherent_noise, draw_field
from rlkd.errors import UserError

CPU = torch.device("cpu")


def draws(state: torch.Tensor, share: float, count: int = 4000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.stack(
        [
            coherent_noise(state, draw_field(generator, CPU), generator, share=share)
            for _ in range(count)
        ]
    )


@pytest.mark.parametrize("share", but_long([0.0, 0.5, 1.0], 0.5))
def test_each_row_alone_is_standard_normal_whatever_the_share(share: float) -> None:
    drawn = draws(torch.rand(5, 3, generator=torch.Generator().manual_seed(1)), share)
    # 4,000 draws: the standard errors of mean and variance are 0.016 and 0.022
    torch.testing.assert_close(drawn.mean(0), torch.zeros(5), atol=0.07, rtol=0)
    torch.testing.assert_close(drawn.var(0), torch.ones(5), atol=0.1, rtol=0)
    within = (drawn.abs() < 1).float().mean(0)
    torch.testing.assert_close(within, torch.full((5,), 0.6827), atol=0.03, rtol=0)


@pytest.mark.parametrize("share", but_long([0.0, 0.25, 1.0], 0.25))
def test_rows_of_one_state_correlate_by_the_share(share: float) -> None:
    drawn = draws(torch.full((2, 3), 0.3), share)
    correlation = torch.corrcoef(drawn.T)[0, 1].item()
    assert correlation == pytest.approx(share, abs=0.06)


def test_the_field_of_opposite_corners_is_not_the_same() -> None:
    # inputs (1, -1, -1, -1) and (1, 1, 1, 1) over 2: correlation (1 - 3) / 4 = -1/2
    drawn = draws(torch.tensor([[0.0, 0, 0], [1, 1, 1]]), 1.0)
    assert torch.corrcoef(drawn.T)[0, 1].item() == pytest.approx(-0.5, abs=0.06)


def test_all_batches_of_a_window_share_a_field_and_the_next_window_draws_anew() -> None:
    agent = TemperatureAgent(reward_source="probe", probe_interval=2, coherence=1.0)
    logits = torch.tensor([[2.0, 0.0, 0.0]])
    target = torch.tensor([0])
    drawn = []
    for _ in range(4):
        drawn.append(agent(logits, logits, target).student.item())
        if agent.observation_due:
            agent.observe(torch.tensor(0.5))
    # the first observation only opens: it comes after batch 1; then a window of two batches
    assert drawn[1] == drawn[2]
    assert drawn[0] != drawn[1]
    assert drawn[2] != drawn[3]


def test_a_share_outside_the_unit_interval_is_refused() -> None:
    with pytest.raises(UserError, match=r"coherence=1\.5"):
        Learner(coherence=1.5)
