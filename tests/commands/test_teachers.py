"""`rlkd teachers`, and the experiments that train the paper's own."""

import re

import pytest
from tests.support.refusal import Refuse, assert_told

from rlkd import models
from rlkd.cli import main
from rlkd.commands.teachers import known
from rlkd.config.compose import configure, options
from rlkd.engine import build

pytestmark = pytest.mark.usefixtures("plainly")

ROWS = [(collection, row) for collection in known() for row in collection["teachers"]]
# HobbitLong/RepDistiller README.md, "Benchmark Results on CIFAR-100", the rows Teacher.
REPDISTILLER = {
    "resnet56": 72.34,
    "resnet110": 74.31,
    "resnet32x4": 79.42,
    "wrn_40_2": 75.61,
    "vgg13": 74.64,
    "ResNet50": 79.34,
}


def test_the_papers_teachers_are_listed_with_their_published_accuracy() -> None:
    for name in ("RepDistiller", "mdistiller"):
        (found,) = (each for each in known() if each["collection"] == name)
        assert [each["network"] for each in found["teachers"]] == list(REPDISTILLER)
    (own,) = (each for each in known() if each["collection"] == "RepDistiller")
    assert {each["network"]: each["top1"] for each in own["teachers"]} == REPDISTILLER


def test_torchvisions_figures_and_files_are_its_own() -> None:
    from torchvision.models import get_model_weights

    checked = 0
    for collection, row in ROWS:
        if not collection["collection"].startswith("torchvision"):
            continue
        (weights,) = (
            each
            for each in get_model_weights(row["network"].partition(":")[2])
            if each.url == row["where"]
        )
        metrics = weights.meta["_metrics"]
        if "ap" in row:
            assert row["ap"] == metrics["COCO-val2017"]["box_map"]
        else:
            assert row["top1"] == metrics["ImageNet-1K"]["acc@1"]
        assert f"-{row['sha256']}.pth" in row["where"]
        checked += 1
    assert checked > 10


def test_every_row_is_a_network_that_can_be_made_and_every_collection_has_its_source() -> None:
    timm = pytest.importorskip("timm")
    for collection, row in ROWS:
        network, sha256 = row["network"], row["sha256"]
        assert collection["source"]
        assert sha256 is None or re.fullmatch(r"[0-9a-f]{8,64}", sha256)
        if network.startswith("timm:"):
            assert row["where"] == f"hf://timm/{network.removeprefix('timm:')}"
            assert network.removeprefix("timm:") in timm.list_pretrained()
        elif ":" not in network:
            assert network in models.names()
            assert 0 < (row["top1"] or 50) < 100


def test_the_list_is_of_all_or_of_what_is_named(
    capsys: pytest.CaptureFixture[str], refuse: Refuse
) -> None:
    assert main(["teachers"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(ROWS) + 2 * len(known())
    assert main(["teachers", "ResNet34"]) == 0
    shown = capsys.readouterr().out
    assert "SHA-256 b627a593" in shown
    assert "hf://timm/resnet34.a1_in1k" in shown
    assert "resnet50" not in shown
    assert main(["teachers", "cifar100", "resnet56"]) == 0
    shown = capsys.readouterr().out
    assert "top1 72.34 %" in shown
    assert "rlkd train experiment=teacher_" in shown
    assert_told(refuse("teachers", "resnet57"), "no teacher is known for resnet57")


@pytest.mark.parametrize("network", REPDISTILLER)
def test_each_of_the_papers_teachers_has_an_experiment_of_its_published_recipe(
    network: str,
) -> None:
    name = f"teacher_{network.lower()}"
    assert name in options("experiment")
    config = configure([f"experiment={name}", "data.root=."])
    assert (config.student.name, config.teacher.name) == (network, None)
    # HobbitLong/RepDistiller train_teacher.py, its defaults.
    assert (config.trainer.epochs, config.trainer.batch_size) == (240, 64)
    optimizer = config.optimizer
    assert (optimizer.lr, optimizer.momentum, optimizer.weight_decay) == (0.05, 0.9, 5e-4)
    assert list(config.scheduler.milestones) == [150, 180, 210]
    assert config.scheduler.gamma == 0.1
    assert config.trainer.validation_size == config.probe.size == 0
    assert [*build.objective(config).terms] == ["cross_entropy"]
