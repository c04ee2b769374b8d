"""The settings of the step that `trainer.tune` finds, and who gets them."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import DictConfig
from tests.support.refusal import Refuse, assert_told
from tests.support.runs import silent, tiny, tiny_config

from rlkd.commands.compare import compare
from rlkd.config.options import TUNABLE, trainer_options
from rlkd.engine import tuning
from rlkd.engine.run import distill
from rlkd.engine.run_folder import RunFolder
from rlkd.errors import UserError
from rlkd.teacher_cache.store import Store

pytestmark = pytest.mark.usefixtures("plainly")

MAY_COMPILE = tuning._Variant.may_compile
FIRST = "trainer.channels_last=false"


def machine(seconds: Mapping[str, float], *, steps: int = 10**6, compiling: float = 40.0) -> Any:
    """Be a machine on which a step takes 1 second, times what each setting makes of it."""

    class Variant:
        def __init__(self, config: DictConfig, trainer: Mapping[str, Any]) -> None:
            self.options = SimpleNamespace(compile=trainer.get("compile", False))
            self.steps, self._seconds = steps, 1.0
            for key, value in trainer.items():
                if (factor := seconds[f"{key}={str(value).lower()}"]) < 0:
                    raise UserError("it cannot")
                self._seconds *= factor
            self.first_seconds = compiling if self.options.compile else self._seconds

        def seconds(self) -> float:
            return self._seconds

        def may_compile(self) -> bool:
            return MAY_COMPILE(self)  # pyright: ignore

    return Variant


def found(
    monkeypatch: pytest.MonkeyPatch, config: DictConfig, seconds: Mapping[str, float], **given: Any
) -> tuple[dict[str, Any], str]:
    said: list[str] = []
    with monkeypatch.context() as patched:
        patched.setattr(tuning, "_Variant", machine(seconds, **given))
        tuning.tune([config], said.append)
    (line,) = said
    return {key: config.trainer[key] for key in TUNABLE}, line


FAST = {"channels_last=true": 0.7, "precision=bf16-mixed": 0.5, "compile=true": 0.8}


@pytest.mark.parametrize(
    ("seconds", "given", "expected"),
    [
        ({}, {}, (True, "bf16-mixed", True)),
        ({"precision=bf16-mixed": 9.0}, {}, (True, "32-true", True)),
        ({"precision=bf16-mixed": -1.0}, {}, (True, "32-true", True)),
        ({"channels_last=true": 0.97}, {}, (False, "bf16-mixed", True)),  # inside the noise
        ({}, {"steps": 100}, (True, "bf16-mixed", False)),  # 0.35 s a step: 10 s to be saved
        ({}, {"steps": 400, "compiling": 60.0}, (True, "bf16-mixed", False)),  # 28 s saved
        ({}, {"steps": 400, "compiling": 20.0}, (True, "bf16-mixed", True)),
    ],
)
def test_what_is_faster_is_kept(
    tmp_path: Path,
    teacher_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    seconds: dict[str, float],
    given: dict[str, Any],
    expected: tuple[Any, ...],
) -> None:
    config = tiny_config(teacher_file, tmp_path / "run", FIRST, "trainer.tune=true")
    chosen, line = found(monkeypatch, config, FAST | seconds, **given)
    assert tuple(chosen.values()) == expected
    assert trainer_options(config).tunes == ()
    assert ("precision=bf16-mixed fails (it cannot)" in line) == (-1.0 in seconds.values())
    assert ("trainer.compile=true" in line) == expected[2]


def test_only_what_is_named_is_tried(
    tmp_path: Path, teacher_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(teacher_file, tmp_path / "run", FIRST, "trainer.tune=[precision]")
    chosen, line = found(monkeypatch, config, FAST)
    assert chosen == {"channels_last": False, "precision": "bf16-mixed", "compile": False}
    assert "channels_last" not in line


def test_what_is_not_tuned_stays_each_runs_own(
    tmp_path: Path, teacher_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = [
        tiny_config(teacher_file, tmp_path / each, f"trainer.precision={each}", FIRST,
                    "trainer.tune=[channels_last]")
        for each in ("32-true", "bf16-mixed")
    ]  # fmt: skip
    monkeypatch.setattr(tuning, "_Variant", machine(FAST))
    tuning.tune(configs, lambda _: None)
    assert [each.trainer.precision for each in configs] == ["32-true", "bf16-mixed"]
    assert [each.trainer.channels_last for each in configs] == [True, True]


def test_another_precision_than_a_run_began_with_is_another_run(
    tmp_path: Path, teacher_file: Path
) -> None:
    output, words = tmp_path / "run", ("temperature=constant", "trainer.epochs=1")
    distill(tiny(teacher_file, output, *words), console=silent())
    other = ("trainer.precision=bf16-mixed", "trainer.tune=[compile]")
    with pytest.raises(UserError, match=r"different run \(trainer\.precision is 32-true there"):
        distill(tiny(teacher_file, output, *words, *other), console=silent())


def test_a_tuned_run_is_the_run_of_the_settings_that_were_found(
    tmp_path: Path, teacher_file: Path
) -> None:
    words = ("temperature=rlkd", "probe.size=16", "trainer.epochs=1")
    tuned, plain = RunFolder(tmp_path / "tuned"), RunFolder(tmp_path / "plain")
    distill(tiny(teacher_file, tuned.path, *words, FIRST, "trainer.tune=true"), console=silent())
    held = tuned.settings.trainer
    assert held.tune is False
    given = [f"trainer.{key}={str(held[key]).lower()}" for key in TUNABLE]
    distill(tiny(teacher_file, plain.path, *words, *given), console=silent())
    assert tuned.student.read_bytes() == plain.student.read_bytes()


def test_a_run_goes_on_with_what_it_began_with(
    tmp_path: Path, teacher_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, words = tmp_path / "run", ("temperature=constant", "trainer.epochs=1")
    begun = tiny(teacher_file, output, *words, FIRST, "trainer.precision=bf16-mixed")
    distill(begun, console=silent())
    written = (output / "student.safetensors").stat().st_mtime_ns
    monkeypatch.setattr(tuning, "_Variant", None)  # nothing is tried
    distill(tiny(teacher_file, output, *words, "trainer.tune=true"), console=silent())
    assert (output / "student.safetensors").stat().st_mtime_ns == written


def test_with_a_store_it_is_the_rest_of_the_step_that_counts(
    tmp_path: Path, teacher_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    words = ("temperature=constant", "trainer.epochs=1", f"teacher.cache={store}")
    config = tiny_config(teacher_file, tmp_path / "run", *words, "trainer.tune=true")
    variant = tuning._Variant(config, {})
    called: list[int] = []
    teacher = variant.module.teacher
    assert teacher is not None
    teacher.register_forward_hook(lambda *_: called.append(1))
    variant.seconds()
    assert not called
    assert not store.exists()
    mixed = tiny_config(teacher_file, tmp_path / "run", *words, "task.mix=mixup")
    variant = tuning._Variant(mixed, {})  # nothing of it is stored
    teacher = variant.module.teacher
    assert teacher is not None
    teacher.register_forward_hook(lambda *_: called.append(1))
    variant.seconds()
    assert called
    distill(tiny(teacher_file, tmp_path / "begun", *words), console=silent())
    with pytest.raises(UserError, match="another precision"):  # which `tune` reports
        tuning._Variant(config, {"precision": "bf16-mixed"})
    assert Store.found(store).identity["precision"] == "32-true"


def test_the_runs_of_a_comparison_are_tuned_once_and_alike(
    tmp_path: Path, teacher_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "_Variant", machine(FAST, steps=10))
    words = [each for each in tiny(teacher_file, tmp_path / "out", FIRST, "trainer.epochs=1")
             if not each.startswith("temperature")]  # fmt: skip
    swept = [*words, "temperature=constant,random", "trainer.tune=true"]
    machine_calls: list[int] = []
    tune = tuning.tune

    def counted(configs: Any, show: Any) -> None:
        machine_calls.append(len(configs))
        tune(configs, show)

    monkeypatch.setattr("rlkd.sweep.runs.tune", counted)
    first = compare(swept, console=silent())
    again = compare(swept, console=silent())
    assert machine_calls == [2]
    assert [row.mean for row in first.rows] == [row.mean for row in again.rows]
    for path in sorted((tmp_path / "out").glob("*/config.yaml")):
        held = RunFolder(path.parent).settings.trainer
        assert (held.channels_last, held.precision, held.tune) == (True, "bf16-mixed", False)


def test_what_is_swept_cannot_be_chosen(refuse: Refuse, teacher_file: Path, tmp_path: Path) -> None:
    swept = [*tiny(teacher_file, tmp_path / "out"), "trainer.precision=32-true,bf16-mixed"]
    assert_told(
        refuse("compare", *swept, "trainer.tune=true"),
        r"trainer\.precision is swept, so trainer\.tune cannot choose it: name the others",
    )


@pytest.mark.parametrize("value", ["3", "precise", "[compile,epochs]", "null", "1.5"])
def test_what_is_no_choice_is_refused(refuse: Refuse, value: str) -> None:
    assert_told(refuse("distill", f"trainer.tune={value}"), r"trainer\.tune=.*: give true, false")


def test_the_machine_of_a_job_is_another(tmp_path: Path, teacher_file: Path) -> None:
    words = tiny(teacher_file, tmp_path / "out", "temperature=constant,random", "trainer.tune=true")
    with pytest.raises(UserError, match="jobs run on others"):
        compare([*words, "launcher=submitit_slurm"], console=silent())
