"""What a run leaves behind, and what the other verbs print."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tests.support.runs import SOURCES, fingerprint, tiny

import rlkd
from rlkd import models
from rlkd.cli import main
from rlkd.config.compose import as_yaml, configure, options
from rlkd.data.datasets import digits
from rlkd.engine import run as running
from rlkd.engine.run_folder import RunFolder
from rlkd.reporting import Result, read_metrics

pytestmark = pytest.mark.usefixtures("plainly")

Command = Callable[..., list[str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command that succeeds and prints no error; return the lines that it prints."""

    def command(*arguments: str) -> list[str]:
        code = main(arguments)
        out, told = capsys.readouterr()
        assert (code, told) == (0, "")
        return out.splitlines()

    return command


def test_a_run_leaves_its_folder_complete_and_prints_what_it_came_to(
    command: Command, teacher_file: Path, tmp_path: Path
) -> None:
    settings = tiny(teacher_file, tmp_path / "run", *SOURCES["rlkd"])
    taught, *printed = command("distill", *settings)
    assert taught.startswith("teacher: top-1 ")
    assert [line[:9] for line in printed[:3]] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert "loss" in printed[0]
    assert "img/s" in printed[0]
    assert "T 4.00 ± 0.00" in printed[0]
    assert all("  test top-1 " in line for line in printed[:3])
    folder = RunFolder(tmp_path / "run")
    names = sorted(str(path.relative_to(folder.path)) for path in folder.path.rglob("*"))
    events = [name for name in names if name.startswith("tensorboard/events")]
    assert len(events) == 1
    assert set(names) - {*events, "tensorboard/hparams.yaml"} == {
        "checkpoints",
        "checkpoints/SHA256SUMS",
        "checkpoints/step-6.ckpt",
        "checkpoints/step-9.ckpt",
        "class_names.json",
        "config.yaml",
        "images.json",
        "metrics.csv",
        "policy.json",
        "preprocessing.json",
        "report.html",
        "result.json",
        "student.safetensors",
        "tensorboard",
    }
    held = json.loads(folder.result.read_text())
    assert list(held) == [
        "format",
        "test",
        "teacher",
        "teacher_sha256",
        "images",
        "epochs",
        "seed",
        "images_per_second",
        "wall_seconds",
        "hardware",
        "versions",
        "config_sha256",
        "validation",
        "student_sha256",
    ]
    assert list(held["test"]) == list(held["teacher"]) == ["top1", "top5", "loss", "per_class"]
    assert list(held["test"]["per_class"]) == [str(digit) for digit in range(10)]
    assert held["validation"] is None
    assert held["epochs"] == 3
    # 16 of 64 held out; the band of ranks 10 to 20 % of 48, rounded at its ends: 5 to 10
    taught_by = models.create("convnet_small", num_classes=10, in_channels=1)
    models.load_weights(taught_by, teacher_file)
    assert held["teacher_sha256"] == models.weights_sha256(taught_by)
    counts = {"training": 48, "probe": 16, "validation": 0, "mixed": 5, "mixed_epochs": 1}
    assert held["images"] == counts
    assert held["student_sha256"] == hashlib.sha256(folder.student.read_bytes()).hexdigest()
    assert held["config_sha256"] == hashlib.sha256(folder.config.read_bytes()).hexdigest()
    assert held["images_per_second"] > 0
    assert printed[3] == "scored on 360 test images"
    assert printed[4].startswith("loss on the probe's 16 images, which rewards are measured on: ")
    assert any(re.match(" *pictures and tables +report.html *$", line) for line in printed[5:-2])
    assert f"test top-1 {100 * held['test']['top1']:.2f} % (epoch 3, the last)" in printed[-2]
    assert printed[-1] == f"everything is in {folder.path}"


def test_a_finished_run_is_not_repeated(
    command: Command, teacher_file: Path, tmp_path: Path
) -> None:
    settings = tiny(teacher_file, tmp_path / "run", *SOURCES["constant"])
    command("distill", *settings)
    before = fingerprint(tmp_path)
    assert command("distill", *settings)[0] == f"{tmp_path / 'run'} is complete already"
    assert fingerprint(tmp_path) == before


def test_the_student_of_a_run_is_the_next_ones_teacher(command: Command, tmp_path: Path) -> None:
    common = [each for each in tiny(tmp_path, tmp_path) if not each.startswith(("teacher", "out"))]
    command("train", *common, "student=convnet_small", f"output={tmp_path / 'teacher'}")
    file = tmp_path / "teacher" / "student.safetensors"
    scored = Result.read(tmp_path / "teacher" / "result.json").test
    assert (
        load_file(file).keys()
        == models.create("convnet_small", num_classes=10, in_channels=1).state_dict().keys()
    )
    settings = [f"output={tmp_path / 'run'}", f"teacher.checkpoint={file}", *SOURCES["constant"]]
    result = rlkd.distill([*common, *settings])
    assert result.teacher == scored


def test_evaluate_prints_a_teachers_score_and_what_its_file_says(
    command: Command, teacher_file: Path
) -> None:
    printed = command(
        "evaluate", "data=digits", f"teacher.checkpoint={teacher_file}", "trainer.accelerator=cpu"
    )
    assert printed[0].startswith("teacher convnet_small: top-1 ")
    assert printed[0].endswith("on 360 test images")
    assert printed[1] == "  its file says 8.61 %"
    assert printed[2].startswith("  hardest classes: ")


def test_evaluate_scores_where_there_are_fewer_training_images_than_a_probe_has(
    command: Command, teacher_file: Path
) -> None:
    words = ("data=digits", "data.limit=48", "temperature=rlkd", "trainer.accelerator=cpu")
    printed = command("evaluate", *words, f"teacher.checkpoint={teacher_file}")
    assert printed[0].startswith("teacher convnet_small: top-1 ")


AT_ONCE = ("temperature.evidence=false",)


@pytest.mark.parametrize(
    ("more", "first"),
    [
        # 16 of the 64 images are held out, so that an epoch has 3 batches; the first is a warm-up.
        ((*AT_ONCE, "temperature.probe_interval=2", "temperature.update_interval=4"), 3 + 1 + 8),
        ((*AT_ONCE, "temperature.probe_interval=3", "temperature.update_interval=2"), 3 + 1 + 6),
        ((*AT_ONCE, "temperature.probe_interval=5", "temperature.update_interval=1"), None),
        # Of the first update the evidence says nothing yet.
        (("temperature.probe_interval=4", "temperature.update_interval=1"), 3 + 1 + 2 * 4),
        (("temperature.probe_interval=2", "temperature.update_interval=1"), None),
        (("temperature.reward_source=look_ahead",), None),
        (("temperature.reward_source=look_ahead", "temperature.probe_interval=6"), 3 + 1 + 6),
    ],
)
def test_a_run_too_short_for_the_agent_to_learn_says_so(
    command: Command, teacher_file: Path, tmp_path: Path, more: tuple[str, ...], first: int | None
) -> None:
    printed = command("distill", *tiny(teacher_file, tmp_path / "run", *SOURCES["rlkd"], *more))
    said = [line for line in printed if "the policy does not move" in line]
    rows = read_metrics(tmp_path / "run" / "metrics.csv")
    went = [row["agent/evidence"] for row in rows if "agent/evidence" in row]
    if AT_ONCE[0] in more:
        learnt = any(key.startswith("agent/") for row in rows for key in row)
        assert learnt is (first is None)
    elif first is not None:
        assert not any(went)
    if first is None:
        assert said == []
    else:
        assert said[0].startswith(
            f"the policy does not move in a run of 9 steps: it would first do so at step {first};"
        )


@pytest.mark.parametrize(("size", "said"), [(16, False), (32, True)])
def test_a_probe_of_half_the_images_is_named(
    command: Command, teacher_file: Path, tmp_path: Path, size: int, said: bool
) -> None:
    more = (f"probe.size={size}", "trainer.epochs=1")
    printed = command("distill", *tiny(teacher_file, tmp_path / "run", *SOURCES["rlkd"], *more))
    line = "the probe holds out 32 of 64 training images: lower probe.size"
    assert (line in printed) is said


def test_evaluate_reads_a_fraction_as_a_fraction(
    command: Command, teacher_file: Path, tmp_path: Path
) -> None:
    torch.save({**torch.load(teacher_file), "accuracy": 0.0861}, tmp_path / "fraction.pth")
    student = f"student.checkpoint={tmp_path / 'fraction.pth'}"
    printed = command("evaluate", "data=digits", "student=convnet_small", student)
    assert printed[0].startswith("student convnet_small: top-1 ")
    assert printed[1] == "  its file says 8.61 %"


def test_show_prints_the_configuration_that_a_run_would_have(command: Command) -> None:
    printed = "\n".join(command("show", "student=resnet8", "trainer.epochs=24"))
    assert printed + "\n" == as_yaml(configure(["student=resnet8", "trainer.epochs=24"]))
    assert yaml.safe_load(printed)["scheduler"]["milestones"] == [15, 18, 21]


def test_ls_lists_groups_and_their_options(command: Command) -> None:
    printed = dict(line.split(": ") for line in command("ls"))
    for group, some in (("method", {"alone", "kd", "crd"}), ("temperature", {"ctkd", "rlkd"})):
        assert printed[group].split(", ") == sorted(options(group))
        assert some < set(options(group))
    assert "cifar100_resnet56_resnet20" in printed["experiment"]
    assert command("ls", "optimizer") == ["optimizer: adamw, sgd"]


def test_an_epoch_is_scored_when_it_is_due_and_at_the_end(
    command: Command, teacher_file: Path, tmp_path: Path
) -> None:
    more = ("trainer.evaluate_every=2", "trainer.epochs=5")
    command("distill", *tiny(teacher_file, tmp_path / "run", *SOURCES["constant"], *more))
    lines = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("test/top1")
    assert [bool(line.split(",")[column]) for line in lines[1:]] == [
        False,
        True,
        False,
        True,
        True,
    ]


def test_a_teachers_own_normalisation_counts_in_its_score(
    command: Command, teacher_file: Path
) -> None:
    given = ["data=digits", "teacher=convnet_small", f"teacher.checkpoint={teacher_file}"]
    (plain, *_) = command("evaluate", *given)
    (other, *_) = command("evaluate", *given, "teacher.mean=[0.9]")
    mean, std = digits().mean, digits().std
    (again, *_) = command(
        "evaluate", *given, f"teacher.mean={list(mean)}", f"teacher.std={list(std)}"
    )
    assert again == plain
    assert other != plain


def test_a_run_says_whether_its_agent_found_what_to_do() -> None:
    remark = running._remark_on_agent
    assert remark([{"train/loss": 1.0}]) == []
    nan = float("nan")
    rows = [{"train/loss": 1.0}, *({"agent/evidence": each} for each in (nan, 0.0, 0.5, 0.1))]
    (told,) = remark(rows)
    assert told.endswith("moved its policy, in 2 of 3 epochs (agent/evidence, mean 0.20 of 1)")
