"""Trackers get what metrics.csv holds, without gap or repetition, and never harm a run."""

import csv
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import lightning as L
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.marks import but_long
from tests.support import tracked
from tests.support.refusal import Refuse, assert_told
from tests.support.runs import SOURCES, metrics_but_time, silent, tiny, tiny_config

from rlkd.commands.compare import compare
from rlkd.config.compose import as_yaml, configure
from rlkd.distributed import Rank
from rlkd.engine import run as running
from rlkd.engine import trackers
from rlkd.engine.callbacks.checkpoint import KeepLast
from rlkd.engine.run_folder import RunFolder
from rlkd.errors import Notice
from rlkd.reporting import ImageCounts, read_metrics
from rlkd.text_files import read_object

pytestmark = pytest.mark.usefixtures("plainly")

PICTURES = ("accuracy", "losses", "temperature", "policy")


class KilledError(Exception):
    """Stands in for a kill."""


class Recorder:
    """Stands in for a tracker: what it was given, and where it is to fail."""

    records: list["Recorder"]
    fails_at = ""

    def __init__(self, options: Any, folder: Path, name: str, held: str | None) -> None:
        self._told("init")
        self.name, self.group, self.held = name, options.group, held
        self.version = held or f"id{len(self.records)}"
        self.rows: list[tuple[int | None, dict[str, float]]] = []
        self.config: dict[str, Any] = {}
        self.result: dict[str, float] = {}
        self.pictures: dict[str, str] = {}
        self.table: list[dict[str, Any]] = []
        self.ends: list[bool] = []
        self.records.append(self)

    def _told(self, what: str) -> None:
        print(what)
        warnings.warn("of a library", RuntimeWarning, stacklevel=2)
        if what == self.fails_at:
            raise ConnectionError("the server\nis gone")

    def log_hyperparams(self, params: Any) -> None:
        self._told("config")
        self.config = params

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self._told("metrics")
        self.rows.append((step, metrics))

    def log_result(self, figures: Any, step: int) -> None:
        self._told("result")
        self.result = figures

    def log_pictures(self, pictures: Any) -> None:
        self._told("pictures")
        self.pictures = pictures

    def log_rows(self, name: str, rows: Any) -> None:
        self._told("table")
        self.table = rows

    def close(self, *, failed: bool) -> None:
        self._told("close")
        self.ends.append(failed)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    made = type("Made", (Recorder,), {"records": []})
    monkeypatch.setattr(trackers, "_SERVICES", {"wandb": made, "mlflow": made})
    monkeypatch.setattr("rlkd.config.options.find_spec", lambda _: True)
    return made


@pytest.fixture
def kill_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Have runs end right after the checkpoint of an epoch."""
    save = KeepLast.on_train_epoch_end

    def kill(epoch: int) -> None:
        def save_and_die(self: KeepLast, trainer: L.Trainer, module: L.LightningModule) -> None:
            save(self, trainer, module)
            if trainer.current_epoch + 1 == epoch:
                raise KilledError

        monkeypatch.setattr(KeepLast, "on_train_epoch_end", save_and_die)

    return kill


def test_a_tracker_gets_settings_epochs_result_and_pictures(
    recorder: type[Recorder], teacher_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(tmp_path / "run")
    words = tiny(teacher_file, folder.path, *SOURCES["random"], "logger=wandb", "seed=3")
    result = running.distill(words, console=silent())
    assert capfd.readouterr() == ("", "")
    (record,) = recorder.records
    assert (record.name, record.group, record.held, record.ends) == ("run", None, None, [False])
    assert record.config["seed"] == 3
    rows = read_metrics(folder.metrics)
    assert [step for step, _ in record.rows] == [1, 2, 3]
    assert [row for _, row in record.rows] == rows
    assert record.result["result/test/top1"] == result.test.top1
    assert record.result["result/images/training"] == 48
    assert record.pictures == dict.fromkeys(PICTURES, "<svg/>")
    assert not folder.events.exists()  # of TensorBoard


FAULTS = ["init", "metrics", "close", "config", "result", "pictures"]


@pytest.mark.parametrize("at", but_long(FAULTS, *FAULTS[:3]))
def test_a_tracker_that_fails_costs_a_line_and_changes_no_bit(
    at: str, recorder: type[Recorder], teacher_file: Path, tmp_path: Path
) -> None:
    settings = ("temperature=constant", "trainer.epochs=1")
    runs = [tiny(teacher_file, tmp_path / name, *settings) for name in ("a", "b")]
    alone = running.distill([*runs[0], "logger=csv"], console=silent())
    recorder.fails_at = at
    with pytest.warns(Notice) as told:
        result = running.distill([*runs[1], "logger=mlflow"], console=silent())
    assert [str(each.message) for each in told] == [
        "logger=mlflow failed and gets no more of this run, which goes on (the server is gone); "
        "metrics.csv has all of it"
    ]
    assert result.student_sha256 == alone.student_sha256
    rows = [metrics_but_time(tmp_path / name / "metrics.csv") for name in ("a", "b")]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("epoch", but_long([1, 2, 3], 2))
def test_a_run_that_goes_on_goes_on_there_without_gap_or_repetition(
    epoch: int,
    recorder: type[Recorder],
    kill_after: Callable[[int], None],
    teacher_file: Path,
    tmp_path: Path,
) -> None:
    words = tiny(teacher_file, tmp_path / "run", "temperature=constant", "logger=wandb")
    kill_after(epoch)
    with pytest.raises(KilledError):
        running.distill(words, console=silent())
    kill_after(0)
    running.distill(words, console=silent())
    first, second = recorder.records
    assert (first.held, second.held, second.version) == (None, "id0", "id0")
    assert (first.ends, second.ends) == ([True], [False])
    steps = [[step for step, _ in each.rows] for each in (first, second)]
    assert steps == [[1, 2, 3][:epoch], [1, 2, 3][epoch:]]
    assert first.config == second.config
    assert first.result == {}
    assert "result/test/top1" in second.result


def test_a_tracker_that_comes_later_gets_the_epochs_before_it(
    recorder: type[Recorder],
    kill_after: Callable[[int], None],
    teacher_file: Path,
    tmp_path: Path,
) -> None:
    words = tiny(teacher_file, tmp_path / "run", "temperature=constant")
    kill_after(2)
    with pytest.raises(KilledError):
        running.distill([*words, "logger=mlflow"], console=silent())
    kill_after(0)
    running.distill([*words, "logger=wandb", "logger.name=x"], console=silent())
    later = recorder.records[1]
    assert (later.held, later.name) == (None, "x")
    assert [step for step, _ in later.rows] == [1, 2, 3]
    assert [row for _, row in later.rows] == read_metrics(tmp_path / "run" / "metrics.csv")
    noted = read_object(tmp_path / "run" / "tracker.json", "")
    assert noted == {
        "mlflow, offline": {"id": "id0", "epochs": 2},
        "wandb, offline": {"id": "id1", "epochs": 3, "concluded": True},
    }


def test_a_run_that_was_killed_at_its_end_is_concluded_by_the_same_command(
    recorder: type[Recorder],
    teacher_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = tiny(teacher_file, tmp_path / "run", "temperature=constant", "logger=wandb")
    with monkeypatch.context() as patched:
        patched.setattr(trackers.Tracker, "conclude", Mock(side_effect=KilledError))
        with pytest.raises(KilledError):
            running.distill(words, console=silent())
    assert (tmp_path / "run" / "result.json").is_file()
    for _ in range(2):
        running.distill(words, console=silent())
    first, second = recorder.records  # a third would be another time
    assert (first.result, second.held, second.rows) == ({}, "id0", [])
    assert "result/test/top1" in second.result
    assert (first.ends, second.ends) == ([True], [False])


@pytest.mark.usefixtures("recorder")
def test_a_run_is_complete_without_its_metrics(teacher_file: Path, tmp_path: Path) -> None:
    words = tiny(teacher_file, tmp_path / "run", "temperature=constant", "trainer.epochs=1")
    result = running.distill(words, console=silent())
    (tmp_path / "run" / "metrics.csv").unlink()
    assert running.distill(words, console=silent()) == result
    with pytest.warns(Notice, match="logger=wandb failed"):
        recorded = running.distill([*words, "logger=wandb"], console=silent())
    assert recorded == result


def test_a_kill_between_two_epochs_of_many_repeats_none(
    recorder: type[Recorder], tmp_path: Path
) -> None:
    options = running.logger_options(configure(["logger=wandb"]))
    rows = [{"epoch": epoch} for epoch in range(1, 5)]
    with trackers.tracking(options, tmp_path) as tracker:
        tracker.start({})
        with pytest.raises(KeyboardInterrupt):
            tracker.follow(_until_killed(rows))
    with trackers.tracking(options, tmp_path) as tracker:
        tracker.start({})
        tracker.follow(rows)
    assert [step for each in recorder.records for step, _ in each.rows] == [1, 2, 3, 4]


def _until_killed(rows: list[dict[str, int]]) -> Iterator[dict[str, int]]:
    yield from rows[:3]
    raise KeyboardInterrupt


def test_a_note_that_is_damaged_is_named_and_harms_nothing(
    recorder: type[Recorder], teacher_file: Path, tmp_path: Path
) -> None:
    config = tiny_config(teacher_file, tmp_path / "run", "temperature=constant", "logger=wandb")
    RunFolder(tmp_path / "run").claim(as_yaml(config), ImageCounts(48), "a")
    (tmp_path / "run" / "images.json").unlink()
    (tmp_path / "run" / "tracker.json").write_text('{"format": 1, "wandb, offline": 7}')
    with pytest.warns(Notice, match="logger=wandb failed"):
        running.run(config, console=silent())
    assert len(read_metrics(tmp_path / "run" / "metrics.csv")) == 3


def test_one_rank_alone_has_a_record(
    recorder: type[Recorder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers.distributed, "this_rank", lambda: Rank(1, 2))
    options = running.logger_options(configure(["logger=wandb"]))
    with trackers.tracking(options, tmp_path) as tracker:
        tracker.start({})
        tracker.follow([{"epoch": 1}])
    assert recorder.records == []
    assert list(tmp_path.iterdir()) == []


def test_the_runs_of_a_comparison_are_one_group_and_its_table_is_beside_them(
    recorder: type[Recorder], teacher_file: Path, tmp_path: Path
) -> None:
    kept = [each for each in tiny(teacher_file, tmp_path / "out") if "temperature" not in each]
    words = [*kept, "trainer.epochs=1", "temperature=constant,random", "logger=wandb"]
    compared = compare(words, console=silent())
    *runs, whole = recorder.records
    assert [each.name for each in runs] == [
        *("temperature=constant,seed=0", "temperature=random,seed=0"),
    ]
    assert {each.group for each in recorder.records} == {"out"}
    assert whole.name == "out"
    assert [row["temperature"] for row in whole.table] == ["constant", "random"]
    assert [row["top1_mean"] for row in whole.table] == [row.mean for row in compared.rows]
    assert whole.pictures == {"every_seed": "<svg/>"}

    compare([*words, "logger.group=ours"], console=silent())
    assert len(recorder.records) == 4  # complete runs are not repeated
    assert (recorder.records[3].held, recorder.records[3].group) == (whole.version, "ours")


def test_where_it_is_shown_is_no_part_of_a_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.claim(as_yaml(configure([])), ImageCounts(1), "a")
    for words in (["logger=wandb", "logger.name=b"], ["logger=csv"], ["logger=mlflow"]):
        folder.require_same(as_yaml(configure(words)))
    config = configure([])
    del config.logger, config.chosen.logger  # of a run of an earlier commit
    folder.require_same(as_yaml(config))


IMPOSSIBLE = {
    "logger=wand": "logger=wand: did you mean wandb",
    "logger.project=x": "no setting logger.project",  # TensorBoard has none
    "logger.tracker=x": "logger=x: choose one of tensorboard, csv, wandb, mlflow, trackio",
    "logger.project=": "logger.project is missing",
    "logger.offline=x": "logger.offline=x: give true or false$",
    "logger.tags=x": "logger.tags",
}


@pytest.mark.parametrize("setting", IMPOSSIBLE)
def test_an_impossible_value_is_refused_by_its_name(
    setting: str, refuse: Refuse, teacher_file: Path, tmp_path: Path
) -> None:
    chosen = ["logger=wandb"] if setting in list(IMPOSSIBLE)[2:] else []
    words = tiny(teacher_file, tmp_path / "run", "temperature=constant", *chosen, setting)
    assert_told(refuse("distill", *words), IMPOSSIBLE[setting])


@pytest.mark.parametrize("verb", ["distill", "compare"])
@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_a_tracker_that_is_not_installed_is_refused_with_the_command(
    name: str,
    verb: str,
    refuse: Refuse,
    teacher_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rlkd.config.options.find_spec", lambda _: None)
    swept = "temperature=constant" if verb == "distill" else "temperature=constant,random"
    told = refuse(verb, *tiny(teacher_file, tmp_path / "run", swept, f"logger={name}"))
    assert told == f"rlkd: logger={name} needs its package: pip install {name}"


def test_a_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run" / "wandb").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Exception, match="wandb is a link"):
        RunFolder(tmp_path / "run").claim(as_yaml(configure([])), ImageCounts(1), "a")


def test_tensorboards_own_reader_finds_what_metrics_csv_holds(
    teacher_file: Path, tmp_path: Path
) -> None:
    running.distill(tiny(teacher_file, tmp_path, *SOURCES["random"]), console=silent())
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    rows = read_metrics(tmp_path / "metrics.csv")
    columns = dict.fromkeys(column for row in rows for column in row)
    assert {*events.Tags()["scalars"]} == {*columns}
    for column in columns:
        drawn = {each.step: each.value for each in events.Scalars(column)}
        held = {int(row["epoch"]): row[column] for row in rows if column in row}
        assert drawn == pytest.approx(held, rel=1e-6)  # it keeps float32
    with (tmp_path / "metrics.csv").open(newline="") as file:
        cells = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    assert cells == rows


def process(home: Path, *arguments: str) -> str:
    """Run `tests.support.tracked` with a home folder of its own; return what it prints."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, tracked.__file__, *arguments],
        env={k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "MLFLOW"))}
        | {"PYTHONPATH": f"{root}{os.pathsep}{root / 'src'}", "OMP_NUM_THREADS": "1"}
        | {"HOME": str(home)},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr == ""
    return done.stdout


def read(home: Path, tracker: str, folder: Path) -> list[tracked.Found]:
    return json.loads(process(home, "read", tracker, str(folder)))


def left_behind(home: Path) -> list[Path]:
    return [each for each in home.rglob("*") if each.is_file() and "matplotlib" not in each.parts]


@pytest.mark.long
@pytest.mark.parametrize("tracker", ["wandb", "mlflow", "trackio"])
def test_each_trackers_own_reader_finds_what_metrics_csv_holds(
    tracker: str, teacher_file: Path, tmp_path: Path
) -> None:
    pytest.importorskip(tracker)
    (home := tmp_path / "home").mkdir()
    folder = tmp_path / "a run, ü"
    settings = [*SOURCES["random"], f"logger={tracker}", "logger.project=mine"]
    settings += ["logger.group=ours", "logger.tags=[one,two]", "seed=3"]
    words = json.dumps(tiny(teacher_file, folder, *settings))
    assert process(home, "train", words, "2") == ""  # dies, and goes on
    assert process(home, "train", words, "0") == ""
    (found,) = read(home, tracker, folder)
    assert (found["name"], found["group"], sorted(found["tags"])) == (
        *("a run, ü", "ours", ["one", "two"]),
    )
    config = found["config"]
    assert str(config.get("trainer/batch_size") or config["trainer"]["batch_size"]) == "16"
    assert str(config["seed"]) == "3"
    rows = {str(int(row["epoch"])): row for row in read_metrics(folder / "metrics.csv")}
    assert found["rows"] == rows
    assert len(rows) == 3
    held = json.loads((folder / "result.json").read_text())
    for role in ("test", "teacher"):
        for name in ("top1", "top5", "loss"):  # accuracy by class stays in the report
            assert found["result"][f"result/{role}/{name}"] == held[role][name]
    assert found["result"]["result/images/training"] == held["images"]["training"]
    assert sorted(found["pictures"]) == sorted(PICTURES)
    assert all("<svg" in each for each in found["pictures"].values())
    assert left_behind(home) == []


@pytest.mark.long
@pytest.mark.parametrize("tracker", ["wandb", "mlflow", "trackio"])
def test_a_comparison_is_one_group_with_its_table_at_each_tracker(
    tracker: str, teacher_file: Path, tmp_path: Path
) -> None:
    pytest.importorskip(tracker)
    (home := tmp_path / "home").mkdir()
    out = tmp_path / "out"
    kept = [each for each in tiny(teacher_file, out) if "temperature" not in each]
    words = [*kept, "trainer.epochs=1", f"logger={tracker}", "logger.project=mine"]
    words = json.dumps([*words, "temperature=constant,random"])
    process(home, "compare", words)
    process(home, "compare", words)
    folders = sorted(each.parent for each in out.glob("*/result.json"))
    runs = [one for each in folders for one in read(home, tracker, each)]
    assert [each["name"] for each in runs] == [each.name for each in folders]
    (whole,) = read(home, tracker, out)
    assert {each["group"] for each in [*runs, whole]} == {"out"}
    assert [row["temperature"] for row in whole["table"]] == ["constant", "random"]
    for row, run in zip(whole["table"], runs, strict=True):
        assert float(row["top1_mean"]) == run["result"]["result/test/top1"]
    assert "<svg" in whole["pictures"].popitem()[1]
    assert left_behind(home) == []
