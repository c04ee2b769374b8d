"""What makes a run the one it is, and what may change when it goes on."""

import io
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file
from tests.data.streams import write_folder
from tests.support.refusal import Refuse
from tests.support.runs import fingerprint

from rlkd.config.compose import as_yaml, configure, defaults, options
from rlkd.config.settings import flat
from rlkd.engine import run as running
from rlkd.engine.identity import NO_PART, difference
from rlkd.engine.run_folder import RunFolder, as_stored
from rlkd.errors import UserError
from rlkd.reporting import ImageCounts

pytestmark = pytest.mark.usefixtures("plainly")

IMAGES = ImageCounts(training=40, probe=8)
BEGUN = ("data=imagenet", "data.root=/a")


def begun(path: Path, *overrides: str) -> RunFolder:
    folder = RunFolder(path)
    folder.claim(as_yaml(configure([*BEGUN, *overrides])), IMAGES, "a")
    return folder


@pytest.mark.parametrize(
    "changed",
    ["data.root=/b", "data.workers=9", "data.prefetch=3", "output=/elsewhere", "trainer.threads=2",
     "trainer.log_every_steps=7", "trainer.checkpoint_every_steps=7", "trainer.keep_checkpoints=7",
     "trainer.checkpoint_every_minutes=null", "lock=wait", "logger=csv"],
)  # fmt: skip
def test_where_and_how_a_run_reads_and_saves_is_no_part_of_it(tmp_path: Path, changed: str) -> None:
    folder = begun(tmp_path / "run")
    now = as_yaml(configure([*BEGUN, changed]))
    assert as_stored(now) != folder.config.read_text()
    folder.claim(now, IMAGES, "a")
    assert folder.config.read_text() == as_stored(now)


@pytest.mark.parametrize(
    "changed",
    ["seed=1", "data.limit=7", "data.image_size=64", "trainer.batch_size=32", "trainer.epochs=3",
     "trainer.precision=bf16-mixed", "optimizer.lr=0.1", "probe.size=7", "teacher.checkpoint=/b",
     "trainer.evaluate_every=3"],
)  # fmt: skip
def test_what_shapes_its_figures_is(tmp_path: Path, changed: str) -> None:
    folder = begun(tmp_path / "run")
    before = fingerprint(tmp_path)
    key = changed.partition("=")[0]
    with pytest.raises(UserError, match=rf"different run \({key} is .* there, .* here\)"):
        folder.claim(as_yaml(configure([*BEGUN, changed])), IMAGES, "a")
    assert fingerprint(tmp_path) == before


def test_a_setting_that_is_new_since_a_run_began_is_no_difference_at_its_default(
    tmp_path: Path,
) -> None:
    folder = begun(tmp_path / "run")
    old = folder.config.read_text()
    for new in ("  accumulate: 1\n", "  max_instances: null\n", "  held_out: cross_entropy\n"):
        assert new in old
        old = old.replace(new, "")
    folder.config.write_text(old)
    folder.require_same(as_yaml(configure(BEGUN)))
    for changed in (
        "trainer.accumulate=2",
        "task.max_instances=7",
        "temperature.held_out=soft_error",
    ):
        with pytest.raises(UserError, match=rf"{changed.partition('=')[0]} is None there"):
            folder.require_same(as_yaml(configure([*BEGUN, changed])))
    assert folder.config.read_text() == old


def test_no_method_and_no_source_is_taken_for_another() -> None:
    for group, begun_with in (("method", ("alone", "kd")), ("temperature", ("constant", "rlkd"))):
        made = {name: configure([*BEGUN, f"{group}={name}"]) for name in options(group)}
        held: dict[str, Any] = {
            name: OmegaConf.to_container(OmegaConf.create(as_yaml(config)))
            for name, config in made.items()
        }
        for one, other in product(begun_with, held):
            found = difference(held[one], held[other], partial(defaults, made[other]))
            assert (found is None) is (one == other), (one, other)


def test_a_run_from_before_there_was_a_group_goes_on(tmp_path: Path) -> None:
    folder = begun(tmp_path / "run")
    held = yaml.safe_load(folder.config.read_text())
    del held["chosen"]["logger"], held["logger"], held["task"]["label_smoothing"]
    folder.config.write_text(yaml.safe_dump(held))
    folder.require_same(as_yaml(configure(BEGUN)))
    with pytest.raises(UserError, match=r"label_smoothing is None there, 0\.1"):
        folder.require_same(as_yaml(configure([*BEGUN, "task.label_smoothing=0.1"])))


def test_a_new_setting_that_refers_to_others_has_its_default_too(tmp_path: Path) -> None:
    folder = begun(tmp_path / "run", "trainer.epochs=24")
    old = folder.config.read_text()
    assert "  gate_epochs: 8\n" in old
    folder.config.write_text(old.replace("  gate_epochs: 8\n", ""))
    folder.require_same(as_yaml(configure([*BEGUN, "trainer.epochs=24"])))
    changed = [*BEGUN, "trainer.epochs=24", "temperature.gate_epochs=80"]
    with pytest.raises(UserError, match=r"gate_epochs is None there, 80"):
        folder.require_same(as_yaml(configure(changed)))


def test_the_run_that_a_control_follows_may_lie_elsewhere(tmp_path: Path) -> None:
    followed = ["temperature=recorded_mean", "temperature.like=/runs/one/arm=a,seed=0"]
    folder = begun(tmp_path / "run", *followed)
    followed[1] = "temperature.like=elsewhere/arm=a,seed=0"
    folder.require_same(as_yaml(configure([*BEGUN, *followed])))
    followed[1] = "temperature.like=elsewhere/arm=a,seed=1"
    with pytest.raises(UserError, match=r"temperature\.like"):
        folder.require_same(as_yaml(configure([*BEGUN, *followed])))


FIGURES = (
    *("seed", "method", "temperature", "optimizer", "scheduler", "probe", "exploration"),
    *("teacher", "student", "trainer.epochs", "trainer.max_steps", "trainer.batch_size"),
    *("trainer.accumulate", "trainer.gradient_clip", "trainer.ema"),
    *("trainer.sync_batch_norm", "trainer.precision"),
    *("trainer.channels_last", "trainer.compile", "trainer.accelerator"),
    *("trainer.evaluate_every", "trainer.validation_size", "trainer.early_stopping"),
    *("task._target_", "task.base_temperature", "task.probe_size", "task.max_instances"),
    *("task.label_smoothing", "task.class_weights", "task.mix", "task.mix_alpha"),
    *("task.performance", "task.flip", "task.group_by_aspect", "task.detector"),
    *("task.student_pretrained", "task.teacher_pretrained"),
    *("data._target_", "data.limit", "data.mean", "data.std", "data.image_size", "data.channels"),
    *("data.resize", "data.smallest_area", "data.flip", "data.views", "data.groups_at_once"),
    "data.unreadable",
    *("data.train", "data.test", "data.test_fraction", "data.class_names", "data.size"),
    *("data.seed", "data.train_images", "data.train_annotations", "data.test_images"),
    *("data.test_annotations", "data.keep_ids", "data.image_column", "data.label_column"),
    "data.label_key",
)
"""What can change a run's figures, sections with all that is in them."""


@pytest.mark.long
def test_every_setting_is_known_to_change_figures_or_not_to() -> None:
    settings: dict[str, None] = {}
    for group in ("data", "task"):  # all others' settings are of FIGURES as they are
        for name in options(group):
            held: Any = OmegaConf.to_container(configure([f"{group}={name}"]), resolve=False)
            settings |= dict.fromkeys(key for key, _ in flat(held))
    unknown = {
        key: [each for each in (*FIGURES, *NO_PART) if f"{key}.".startswith(f"{each}.")]
        for key in settings
    }
    # A setting that is new: is it one of FIGURES, or, with the reason, of identity.NO_PART?
    assert [key for key, found in unknown.items() if len(found) != 1] == []
    assert {each for found in unknown.values() for each in found} == {*FIGURES, *NO_PART}


def test_the_workers_of_a_detection_run_are_no_part_of_it_either(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.claim(as_yaml(configure(["task=detection"])), IMAGES, "a")
    folder.claim(as_yaml(configure(["task=detection", "task.workers=4"])), IMAGES, "a")


def test_a_run_does_not_go_on_with_other_images(tmp_path: Path) -> None:
    folder = begun(tmp_path / "run")
    before = fingerprint(tmp_path)
    with pytest.raises(UserError, match=r'other images .*"training": 40, .*"training": 41, '):
        folder.claim(as_yaml(configure(BEGUN)), replace(IMAGES, training=41), "a")
    with pytest.raises(UserError, match=r'other images .*"sha256": "a".*"sha256": "b"'):
        folder.claim(as_yaml(configure([*BEGUN, "data.root=/b"])), IMAGES, "b")
    assert fingerprint(tmp_path) == before


@pytest.mark.parametrize("layout", ["folder", "imagenet"])
@pytest.mark.parametrize("complete", [True, False])
def test_data_of_the_same_names_and_counts_are_not_taken_for_the_runs_own(
    layout: str, complete: bool, refuse: Refuse, tmp_path: Path
) -> None:
    roots = [write_folder(tmp_path / name) for name in ("first", "second")]
    for path in sorted(roots[1].rglob("*.*")):
        with Image.open(path) as opened:
            other = opened.convert("RGB").transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        other.save(path)
    small = ("data.image_size=16", "trainer.batch_size=8", "trainer.epochs=1")
    given = [f"data={layout}", *small, f"output={tmp_path / 'run'}", "trainer.accelerator=cpu"]
    given += ["data.resize=18", "data.workers=0"] if layout == "imagenet" else []
    running.train([*given, f"data.root={roots[0]}"], console=Console(quiet=True))
    if not complete:
        RunFolder(tmp_path / "run").result.unlink()
    assert "was begun on other images" in refuse("train", *given, f"data.root={roots[1]}")


def test_a_run_goes_on_where_its_images_have_moved_to(tmp_path: Path) -> None:
    def train(root: Path, *more: str) -> tuple[str, dict[str, torch.Tensor]]:
        told = io.StringIO()
        small = ("data.image_size=16", "data.resize=18", "trainer.batch_size=8", "trainer.epochs=2")
        given = ["data=imagenet", *small, f"data.root={root}", f"output={folder.path}", *more]
        running.train([*given, "trainer.accelerator=cpu"], console=Console(file=told, width=1000))
        return told.getvalue(), load_file(folder.student)

    folder = RunFolder(tmp_path / "run")
    first, second = write_folder(tmp_path / "first"), tmp_path / "second"
    _, weights = train(first, "data.workers=0")
    first.rename(second)
    told, _ = train(second, "data.workers=0")
    assert told == f"{folder.path} is complete already\n"

    folder.result.unlink()
    folder.checkpoints.place(6).unlink()
    told, resumed = train(second, "data.workers=1", "trainer.log_every_steps=1")
    assert f"resuming from {folder.checkpoints.place(3)}\n" in told
    assert all(torch.equal(resumed[name], each) for name, each in weights.items())
