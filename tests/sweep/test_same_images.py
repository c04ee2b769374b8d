"""The arms of a comparison train on the same images, and hold the same ones out."""

from pathlib import Path

import pytest
import torch
from tests.support.runs import silent, tiny

from rlkd.commands.compare import compare
from rlkd.data import ImageSet
from rlkd.engine import build
from rlkd.errors import UserError
from rlkd.reporting import ImageCounts
from rlkd.sweep.plan import plan
from rlkd.tasks.classification.data import load_sets
from rlkd.tasks.detection.data import hold_out

pytestmark = pytest.mark.usefixtures("plainly")


def probes(*overrides: str) -> list[int]:
    return [each.config.probe.size for each in plan(["data=digits", *overrides])]


def test_the_largest_probe_of_a_sweep_is_every_runs() -> None:
    assert probes("temperature=constant,random,rlkd", "seed=0,1") == [256] * 6
    assert probes("method=kd,alone", "temperature=rlkd") == [256, 256]
    assert probes("temperature=constant,ctkd") == [0, 0]


def test_a_probe_that_is_given_is_every_runs_and_one_that_is_swept_is_its_own() -> None:
    assert probes("temperature=constant,rlkd", "probe.size=64") == [64, 64]
    assert probes("temperature=constant,rlkd", "probe.size=16,32") == [16, 32, 16, 32]
    with pytest.raises(UserError, match=r"probe\.size=many: give a whole number"):
        probes("temperature=constant,rlkd", "probe.size=many")


def test_every_arm_and_seed_holds_out_the_same_classified_images() -> None:
    swept = ("method=kd,alone", "temperature=constant,random,rlkd", "seed=0,5")
    planned = plan(["data=digits", "data.limit=300", *swept])
    sets = [load_sets(each.config, build.trainer_options(each.config)) for each in planned]
    first = sets[0].probe
    assert first is not None
    assert len(first) == 256
    for each in sets:
        assert isinstance(each.train, ImageSet)
        assert isinstance(sets[0].train, ImageSet)
        assert each.probe is not None
        assert torch.equal(each.probe.image, first.image)
        assert torch.equal(each.train.image, sets[0].train.image)


def test_every_arm_and_seed_holds_out_the_same_images_with_objects() -> None:
    planned = plan(
        ["task=detection", "data.train=24", "data.test=4", "temperature=constant,rlkd", "seed=0,5"]
    )
    sets = [hold_out(each.config, build.trainer_options(each.config)) for each in planned]
    assert [len(each.train) for each in sets] == [8] * 4
    names = [[each.train.file_name(row) for row in range(8)] for each in sets]
    assert names == [names[0]] * 4


@pytest.mark.long
def test_arms_say_what_they_trained_on_where_one_mixes_images(
    teacher_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shared = ("probe.size=16", "data.limit=64", "trainer.epochs=1", "exploration.epochs=1")
    compared = compare(
        tiny(teacher_file, out, "temperature=constant,rlkd", *shared), console=silent()
    )
    counts = [cell.result.images for cell in compared.cells if cell.result is not None]
    # the band of ranks 10 to 20 % of 48, rounded at its ends: 5 to 10
    mixed = ImageCounts(training=48, probe=16, mixed=5, mixed_epochs=1)
    assert counts == [ImageCounts(training=48, probe=16), mixed]
    told = (
        "The arms did not train on the same images. constant: 48 trained on, 16 held out; "
        "rlkd: 48 trained on, 16 held out, 5 mixed in the explored epoch."
    )
    assert f"- {told}\n" in (out / "compare.md").read_text()
    assert (
        f"<dt>Images</dt><dd>{told.partition('. ')[2][:-1]}" in (out / "compare.html").read_text()
    )
