"""The paper's pairs of detectors on COCO, and the settings published for them."""

from dataclasses import dataclass

import pytest
import torch
from omegaconf import DictConfig
from torch import nn

from rlkd.config.compose import as_yaml, configure, options
from rlkd.engine import build
from rlkd.tasks.detection.task import Detection

pytestmark = pytest.mark.usefixtures("plainly")

IMAGES = 118_287
"""Of COCO's train2017; 117,266 of them have an object."""
STEPS_PER_EPOCH = 14_786
"""IMAGES / 8, rounded up."""
PUBLISHED = {0: 0.00001, 500: 0.005005, 1_000: 0.01, 119_999: 0.01, 120_001: 0.001, 160_001: 0.0001}
"""The rate by step. megvii-research/mdistiller detection/configs/DKD: batch 8, rate 0.01, drops
after 120,000 and 160,000 of 180,000 steps; detectron2's defaults: x 0.1, warm-up of 1,000 steps,
linear from a thousandth."""


@dataclass(frozen=True)
class Pair:
    name: str
    teacher: str
    student: str
    frozen_levels: int | None = None
    """mdistiller sets FREEZE_AT 0 for MobileNetV2; else detectron2's default freezes stem and first
    stage, as a pretrained backbone here does of itself."""


PAIRS = [
    Pair("coco_resnet101_resnet18", "fasterrcnn_resnet101", "fasterrcnn_resnet18"),
    Pair("coco_resnet101_resnet50", "fasterrcnn_resnet101", "fasterrcnn_resnet50"),
    Pair("coco_resnet50_mobilenetv2", "fasterrcnn_resnet50", "fasterrcnn_mobilenet_v2", 0),
]
each_pair = pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)


def composed(pair: Pair, *overrides: str) -> DictConfig:
    return configure([f"experiment={pair.name}", "data.root=.", *overrides])


def test_the_experiments_are_the_papers_pairs_and_no_others() -> None:
    on_coco = [each for each in options("experiment") if each.startswith("coco_")]
    assert on_coco == sorted(pair.name for pair in PAIRS)


@each_pair
def test_a_pair_has_its_detectors_and_the_fields_settings(pair: Pair) -> None:
    config = composed(pair)
    as_yaml(config)
    assert (config.teacher.name, config.student.name) == (pair.teacher, pair.student)
    assert config.output.startswith(f"runs/coco_{pair.teacher}_{pair.student}_kd")
    assert config.data._target_ == "rlkd.data.detection.coco.coco"
    assert config.data.keep_ids
    assert config.task.student_pretrained == "imagenet"
    assert config.task.teacher_pretrained is None
    detector = config.task.detector
    assert detector.min_size == [640, 672, 704, 736, 768, 800]
    assert (detector.max_size, detector.rpn_post_nms_top_n_train) == (1333, 1000)
    assert detector.get("frozen_levels") == pair.frozen_levels
    optimizer = config.optimizer
    assert optimizer._target_ == "torch.optim.SGD"
    assert (optimizer.momentum, optimizer.weight_decay) == (0.9, 1e-4)
    assert config.trainer.batch_size == 8


@each_pair
def test_the_rate_is_the_published_one_at_every_turn(pair: Pair) -> None:
    config = composed(pair)
    assert -(-IMAGES // config.trainer.batch_size) == STEPS_PER_EPOCH
    assert config.trainer.max_steps == 180_000
    # the last epoch is begun, and no other would be
    assert (config.trainer.epochs - 1) * STEPS_PER_EPOCH < 180_000
    assert config.trainer.epochs * STEPS_PER_EPOCH >= 180_000
    maker, by = build.scheduler(config, steps_per_epoch=STEPS_PER_EPOCH)
    assert by == "step"
    base = config.optimizer.lr
    schedule = maker(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=base))
    (factor,) = schedule.lr_lambdas  # pyright: ignore[reportAttributeAccessIssue]
    found = {step: base * factor(step) for step in PUBLISHED}
    assert found == pytest.approx(PUBLISHED, rel=1e-9)
    turns = {999: False, 119_999: False, 120_000: True, 159_999: False, 160_000: True}
    assert {step: factor(step) < factor(step - 1) for step in turns} == turns
    assert factor(999) < factor(1_000) == factor(1_001)


@each_pair
def test_the_losses_have_their_published_weights_and_temperature(pair: Pair) -> None:
    # mdistiller detection/model/config.py: alpha 1, beta 0.25, T 1, beside the detector's own
    dkd = composed(pair, "method=dkd", "temperature=constant")
    terms = dkd.method.terms
    assert (terms.cross_entropy.weight, terms.dkd.weight) == (1, 1)
    assert (terms.dkd.loss.alpha, terms.dkd.loss.beta) == (1, 0.25)
    assert dkd.temperature.temperature == 1
    kd = composed(pair, "method=kd", "temperature=rlkd")
    assert (kd.method.terms.cross_entropy.weight, kd.method.terms.kd.weight) == (1, 1)
    assert kd.temperature.base_temperature == 1


def test_to_validate_a_pair_fetches_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("weights are fetched")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refused)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refused)
    config = composed(PAIRS[2])
    task = build.task(config)
    assert isinstance(task, Detection)
    task.validate(config)
