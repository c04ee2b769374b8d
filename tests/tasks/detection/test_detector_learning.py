"""What an agent learns from where the instances are regions: chosen images, an even sample."""

import pytest
import torch
from tests.agent.loop import spy_on_learning
from tests.support.detection_parts import batch_of
from tests.support.watched_detector import Spy, agent_of, watched

from rlkd.agent import instance_state
from rlkd.config.compose import configure
from rlkd.engine import build
from rlkd.exploration import Bands, Explorer


def explorer() -> Explorer:
    """Selects the two images of highest entropy of eight, in epoch 2, and mixes none."""
    bands = Bands(selected=0.25, mixed=(0.0, 0.0))
    return Explorer(instances=8, num_classes=6, first_epoch=2, epochs=1, bands=bands)


def test_the_agent_learns_from_regions_of_selected_images_alone() -> None:
    source, exploring = Spy(asks=False), explorer()
    made = watched(source, explorer=exploring)
    for epoch in (1, 2, 3):
        exploring.record.entropy[[5, 2]] = 10.0  # above log 6, what any image can have
        exploring.start_epoch(epoch)
        for rows in ((5, 0), (1, 2), (3, 4)):
            _, regions = made.step(batch_of(*rows))
            learn_from = source.called[-1][3]
            if epoch != 2:
                assert learn_from is None
            else:
                assert learn_from is not None
                expected = [rows[place] in (5, 2) for place in regions.image.tolist()]
                assert learn_from.tolist() == expected
                assert sum(expected) == (0 if rows == (3, 4) else 16)


def test_the_entropy_of_an_image_is_the_mean_of_its_regions() -> None:
    exploring = explorer()
    made = watched(Spy(asks=False), explorer=exploring)
    seen, regions = made.step(batch_of(5, 1, 6))
    p = torch.softmax(seen.student_logits.detach().double(), dim=1)
    by_region = [-sum(float(x) * float(x.log()) for x in row if x > 0) for row in p]
    expected = torch.full((8,), torch.nan)
    for place, row in enumerate((5, 1, 6)):
        own = [h for h, at in zip(by_region, regions.image.tolist(), strict=True) if at == place]
        expected[row] = sum(own) / len(own)
    torch.testing.assert_close(
        exploring.record.entropy, expected, rtol=1e-4, atol=1e-5, equal_nan=True
    )
    assert (expected[[1, 5, 6]] > 0).all()


def test_no_image_is_mixed() -> None:
    config = configure(["task=detection", "exploration.enabled=true", "exploration.epochs=1"])
    exploring = build.explorer(
        config.exploration, instances=8, num_classes=6, first_epoch=2, seed=0, mixes=False
    )
    assert exploring is not None
    assert not exploring.mixed_rows
    made = watched(Spy(asks=False), explorer=exploring)
    exploring.start_epoch(2)
    assert exploring.active
    batch = batch_of(0, 1)
    seen, _ = made.step(batch)
    assert made.batches[-1] is batch
    assert seen.target.dtype == torch.int64
    torch.testing.assert_close(batch.image, batch_of(0, 1).image, rtol=0, atol=0)


def test_a_trajectory_is_a_bounded_even_sample_and_every_region_has_its_temperature(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    agent = agent_of("same_batch", max_instances=5)
    rollouts = spy_on_learning(agent, monkeypatch)
    made = watched(agent)
    seen, _ = made.step(batch_of(0, 1))
    assert seen.teacher_logits is not None
    state = instance_state(seen.student_logits, seen.teacher_logits).detach()
    (temperatures,) = made.temperatures
    assert temperatures.student.shape == (32,)
    assert len(temperatures.student.unique()) > 24
    # 32 rows, 5 at most: every seventh
    (rollout,) = rollouts
    assert torch.equal(rollout.state[0], state[[0, 7, 14, 21, 28]])
    torch.testing.assert_close(
        10 * torch.sigmoid(rollout.raw_action[0]), temperatures.student[[0, 7, 14, 21, 28]]
    )
