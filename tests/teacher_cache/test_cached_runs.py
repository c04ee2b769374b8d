"""Whole runs that read their teacher's logits from a store, and the verb that keeps one."""

import json
import os
import shutil
from pathlib import Path

import pytest
from tests.support.refusal import Refuse
from tests.support.runs import SOURCES, fingerprint, metrics_but_time, silent, tiny, tiny_config

from rlkd.cli import main
from rlkd.engine import run as running
from rlkd.engine.callbacks.checkpoint import KeepLast
from rlkd.engine.run_folder import RunFolder
from rlkd.engine.signals import Interrupted
from rlkd.errors import Notice
from rlkd.models import Teacher
from rlkd.teacher_cache.records import LOGITS
from rlkd.teacher_cache.store import Store

pytestmark = pytest.mark.usefixtures("plainly")


def run(teacher: Path, output: Path, *more: str) -> RunFolder:
    running.run(tiny_config(teacher, output, *more), console=silent())
    return RunFolder(output)


def cached(folder: Path) -> str:
    return f"teacher.cache={folder}"


@pytest.mark.parametrize("source", ["constant", "rlkd", "rlkd_paper", "standardised, two views"])
def test_cold_and_warm_runs_are_the_same_to_the_bit(
    tmp_path: Path, teacher_file: Path, source: str
) -> None:
    cold = run(teacher_file, tmp_path / "cold", *SOURCES[source], cached(tmp_path / "store"))
    held = Store.found(tmp_path / "store").records.count()
    warm = run(teacher_file, tmp_path / "warm", *SOURCES[source], cached(tmp_path / "store"))
    assert metrics_but_time(cold.metrics) == metrics_but_time(warm.metrics)
    assert cold.student.read_bytes() == warm.student.read_bytes()
    assert Store.found(tmp_path / "store").records.count() == held > 0
    live = run(teacher_file, tmp_path / "live", *SOURCES[source])
    for one, other in zip(
        metrics_but_time(cold.metrics), metrics_but_time(live.metrics), strict=True
    ):
        assert float(one["train/loss"]) == pytest.approx(float(other["train/loss"]), rel=1e-2)


def test_the_teacher_is_not_called_where_all_is_kept(
    tmp_path: Path, teacher_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ("temperature=constant", cached(tmp_path / "store"))
    run(teacher_file, tmp_path / "first", *given)
    called: list[int] = []
    forward = Teacher.forward

    def counted(self: Teacher, image: object) -> object:
        called.append(len(image))  # type: ignore[arg-type]
        return forward(self, image)  # type: ignore[arg-type]

    monkeypatch.setattr(Teacher, "forward", counted)
    run(teacher_file, tmp_path / "second", *given)
    assert sum(called) == 8 + 32  # what tries the losses, and what the store is compared with


def test_a_run_that_was_stopped_while_it_filled_a_store_ends_as_the_unbroken_one(
    tmp_path: Path, teacher_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(teacher_file, tmp_path / "whole", *SOURCES["rlkd"], cached(tmp_path / "one"))
    given = (*SOURCES["rlkd"], cached(tmp_path / "two"))
    end_of_batch = KeepLast.on_train_batch_end

    def stop(self: KeepLast, trainer: object, *rest: object) -> None:
        if trainer.global_step == 4:  # type: ignore[attr-defined]
            os.kill(os.getpid(), 10)  # SIGUSR1
        end_of_batch(self, trainer, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(KeepLast, "on_train_batch_end", stop)
        with pytest.raises(Interrupted):
            run(teacher_file, tmp_path / "broken", *given)
    broken = run(teacher_file, tmp_path / "broken", *given)
    assert broken.student.read_bytes() == whole.student.read_bytes()
    assert metrics_but_time(broken.metrics) == metrics_but_time(whole.metrics)


def test_a_moved_store_is_no_other_run_and_none_at_all_is_one(
    tmp_path: Path, teacher_file: Path, refuse: Refuse
) -> None:
    given = ("temperature=constant", "trainer.epochs=1")
    run(teacher_file, tmp_path / "run", *given, cached(tmp_path / "store"))
    shutil.move(tmp_path / "store", tmp_path / "moved")
    run(teacher_file, tmp_path / "run", *given, cached(tmp_path / "moved"))
    refused = refuse("distill", *tiny(teacher_file, tmp_path / "run", *given))
    assert "already holds a different run (teacher.cache is kept there, None here)" in refused


def test_a_method_of_features_runs_its_teacher_and_says_so(
    tmp_path: Path, teacher_file: Path
) -> None:
    given = ("method=fitnet", "temperature=constant", "trainer.epochs=1")
    with pytest.warns(Notice, match="asks for the teacher's features too"):
        kept = run(teacher_file, tmp_path / "kept", *given, cached(tmp_path / "store"))
    live = run(teacher_file, tmp_path / "live", *given)
    assert kept.student.read_bytes() == live.student.read_bytes()
    assert not (tmp_path / "store").exists()


def test_a_store_is_built_looked_at_verified_and_removed(
    tmp_path: Path, teacher_file: Path, capsys: pytest.CaptureFixture[str], refuse: Refuse
) -> None:
    store = tmp_path / "a store"
    settings = tiny(teacher_file, tmp_path / "run", "temperature=constant", cached(store))

    def said(*words: str) -> str:
        assert main(["cache", *words]) == 0
        return " ".join(capsys.readouterr().out.split())

    assert "432 of 432 rows are there (100.0 %)" in said("build", *settings)
    assert not (tmp_path / "run").exists()
    built = fingerprint(store)
    assert "432 of 432 rows" in said("build", *settings)
    assert fingerprint(store) == built
    assert "views: 9" in said("info", str(store))
    assert "every row that is there is whole" in said("verify", str(store))
    assert "computes 432 of the rows again as they are kept" in said("verify", *settings)
    run(teacher_file, tmp_path / "run", "temperature=constant", cached(store))
    after = fingerprint(store)
    assert {name: after[name] for name in built} == built
    content = bytearray((store / LOGITS).read_bytes())
    content[77] ^= 1
    (store / LOGITS).write_bytes(content)
    assert "1 of 432 rows are damaged" in refuse("cache", "verify", str(store))
    assert "432 of 432 rows" in said("build", *settings)
    assert "every row that is there is whole" in said("verify", str(store))
    assert "removed" in said("remove", str(store))
    assert not store.exists()


def test_a_detector_keeps_no_logits(teacher_file: Path, tmp_path: Path, refuse: Refuse) -> None:
    given = ("task=detection", "data=shapes", "student=fasterrcnn_resnet18")
    teacher = ("teacher=fasterrcnn_resnet18", f"teacher.checkpoint={teacher_file}")
    said = refuse("distill", *given, *teacher, cached(tmp_path / "store"))
    assert "a detector's teacher scores the regions that the student proposes" in said


def test_no_store_may_be_asked_for_by_false_too(tmp_path: Path, teacher_file: Path) -> None:
    given = ("temperature=constant", "trainer.epochs=1")
    run(teacher_file, tmp_path / "run", *given, "teacher.cache=false")
    run(teacher_file, tmp_path / "run", *given)  # is the same run
    assert sorted(each.name for each in tmp_path.iterdir()) == ["run"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "give one of build, info, verify, remove"),
        (["bild"], "did you mean build?"),
        (["info"], "give one folder, rlkd cache info DIR"),
        (["info", "nowhere"], "nowhere is no store of a teacher's logits"),
        (["remove", "."], "is no store"),
        (["build"], "teacher.cache is missing"),
    ],
)
def test_what_the_verb_cannot_do_is_said(refuse: Refuse, words: list[str], expected: str) -> None:
    assert expected in refuse("cache", *words)


def test_what_no_store_can_hold_is_refused_before_training(
    tmp_path: Path, teacher_file: Path, refuse: Refuse
) -> None:
    given = tiny(teacher_file, tmp_path / "run", "temperature=constant", cached(tmp_path / "store"))
    assert "teacher.cache_dtype=int8" in refuse("distill", *given, "teacher.cache_dtype=int8")
    refused = refuse("cache", "build", *given, "task.mix=mixup")
    assert "task.mix=mixup has the teacher see mixed images, which no store keeps" in refused
    refused = refuse("cache", "build", *given, "method=fitnet")
    assert "method=fitnet asks for the teacher's features" in refused


def test_the_store_of_a_teacher_that_was_trained_on_is_refused(
    tmp_path: Path, teacher_file: Path, refuse: Refuse
) -> None:
    run(teacher_file, tmp_path / "run", "temperature=constant", cached(tmp_path / "store"))
    identity = json.loads((tmp_path / "store" / "teacher_cache.json").read_text())
    identity["teacher's weights"] = "0" * 64
    (tmp_path / "store" / "teacher_cache.json").write_text(json.dumps(identity))
    given = tiny(
        teacher_file, tmp_path / "other", "temperature=constant", cached(tmp_path / "store")
    )
    assert "is of another teacher's weights (000000000000... there" in refuse("distill", *given)


def test_verifying_makes_no_store(tmp_path: Path, teacher_file: Path, refuse: Refuse) -> None:
    given = tiny(teacher_file, tmp_path / "run", "temperature=constant", cached(tmp_path / "typo"))
    assert "typo is no store" in refuse("cache", "verify", *given)


def test_true_names_a_folder_of_its_own_for_each_teacher(
    tmp_path: Path, teacher_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number, dtype in enumerate(("float16", "float32")):
        more = ("temperature=constant", "teacher.cache=true", f"teacher.cache_dtype={dtype}")
        run(teacher_file, tmp_path / f"run{number}", *more)
    assert len(list((tmp_path / "teacher_cache").iterdir())) == 2
