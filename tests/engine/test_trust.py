"""A run folder is data: what it names is built only if it is of its kind, or trusted by name."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from tests.marks import but_long
from tests.support.refusal import Refuse, assert_told
from tests.support.run_folders import classifier_run

from rlkd import models
from rlkd.cli import main
from rlkd.commands import compare as comparing
from rlkd.config.compose import as_yaml, configure
from rlkd.engine import build
from rlkd.engine.finished_run import configured
from rlkd.engine.parts import PLACES
from rlkd.engine.run_folder import RunFolder
from rlkd.errors import UserError
from rlkd.sweep import submitit_jobs as jobs
from rlkd.sweep.plan import plan
from rlkd.trust import packages

pytestmark = pytest.mark.usefixtures("plainly")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return classifier_run(tmp_path / "run")


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package that leaves a file when it is imported, and has things of its own and others.

    Beside it is another, `other`.
    """
    (tmp_path / "other.py").touch()
    (tmp_path / "mine.py").write_text(
        "from os import system\n"
        "from subprocess import run\n"
        "from torch.optim import SGD\n"
        "from rlkd.data.datasets import digits\n"
        "from rlkd import models\n"
        f"open({str(tmp_path / 'imported')!r}, 'w').close()\n"
        "def data(**options): return digits(**options)\n"
        "def network(**options): return models.create('convnet_tiny', **options)\n"
        "def three(): return 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield "mine"
    sys.modules.pop("mine", None)


def _put(run: RunFolder, key: str, value: Any) -> None:
    held: Any = OmegaConf.to_container(OmegaConf.load(run.config))
    node, names = held, key.split(".")
    for name in names[:-1]:
        node = node[name]
    node[names[-1]] = value
    OmegaConf.save(OmegaConf.create(held), run.config)


def _calls(target: str, **values: Any) -> Callable[[Path], Any]:
    """What a hostile folder would have called, with paths in a folder."""

    def node(folder: Path) -> dict[str, Any]:
        at = str(folder / "canary")
        return {"_target_": target} | {
            key: [at if word == "AT" else word for word in value]
            if isinstance(value, list)
            else value.replace("AT", at)
            if isinstance(value, str)
            else value
            for key, value in values.items()
        }

    return node


HOSTILE: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "distutils": ("data", _calls("distutils.spawn.spawn", cmd=["touch", "AT"])),
    "open": ("data", _calls("builtins.open", file="AT", mode="w")),
    "copy": ("data", _calls("shutil.copy", src=__file__, dst="AT")),
    "save": ("data", _calls("torch.save", obj=1, f="AT")),
    "hub": ("data", _calls("torch.hub.download_url_to_file", url=f"file://{__file__}", dst="AT")),
    "a function of rlkd that writes": (
        "data",
        _calls("rlkd.text_files.write_text", path="AT", text=""),
    ),
    "the command line": ("data", _calls("rlkd.cli.main", arguments=["demo", "output=AT"])),
    "in an argument": ("data.limit", _calls("builtins.open", file="AT", mode="w")),
    "in a list": ("data.limit", lambda at: [_calls("builtins.open", file="AT", mode="w")(at)]),
    "a task": ("task", _calls("builtins.open", file="AT", mode="w")),
    "in a task": ("task.probe_size", _calls("builtins.open", file="AT", mode="w")),
    "an import": ("data", _calls("mine.data")),
    "a network": ("student.name", lambda _: "mine:network"),
    "decoded": (
        "data",
        lambda at: f"${{oc.decode:'{{_target_: builtins.open, file: {at / 'canary'}, mode: w}}'}}",
    ),
    "decoded later": ("data.limit", lambda _: r"\${oc.decode:'{_target_: mine.data}'}"),
    "the environment": ("data.root", lambda _: "${oc.env:HOME}"),
    "trust": ("trust", lambda _: ["mine"]),
}


@pytest.mark.parametrize("what", but_long(HOSTILE, "open", "an import", "decoded", "trust"))
def test_a_run_folder_calls_nothing_and_imports_nothing(
    what: str, run: RunFolder, mine: str, refuse: Refuse, tmp_path: Path
) -> None:
    key, node = HOSTILE[what]
    if what == "trust":
        _put(run, "data._target_", "mine.data")
    _put(run, key, node(tmp_path))
    told = refuse("evaluate", f"run={run.path}", "probe.size=0")  # no file was left, see `refuse`
    assert_told(told, key)
    assert "mine" not in sys.modules


def test_torch_loads_no_code_and_no_pickle(run: RunFolder, refuse: Refuse, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    (tmp_path / "hubconf.py").write_text(f"open({str(canary)!r}, 'w').close()\ndef net(): pass\n")

    class Opened:
        def __reduce__(self) -> Any:
            return open, (str(canary), "w")

    torch.save(Opened(), tmp_path / "pickle.pt")
    hub = {"repo_or_dir": str(tmp_path), "model": "net", "source": "local"}
    for target, values in {
        "torch.hub.load": hub,
        "torch.load": {"f": str(tmp_path / "pickle.pt"), "weights_only": False},
    }.items():
        _put(run, "data", {"_target_": target, **values})
        assert_told(
            refuse("evaluate", f"run={run.path}", "probe.size=0"), f"{target}: data is made"
        )


NOT_FOR_IT = {
    "optimizer._target_=torch.save": "optimizer is made of what torch.optim",
    "optimizer._target_=torch.optim.lr_scheduler.StepLR": "optimizer is made of what torch.optim",
    "optimizer._target_=torch.os.system": "cannot import 'torch.os'",
    "optimizer._target_=torch.optim.Optimizer": "optimizer is made of what torch.optim",
    "optimizer._target_=torch.optim.swa_utils.update_bn": "optimizer is made of what torch.optim",
    "scheduler._target_=torch.optim.lr_scheduler.LRScheduler": "scheduler is made of what torch",
    "scheduler._target_=timm.scheduler.CosineLRScheduler": "wrap it in .*add trust=that_package",
    "data._target_=rlkd.data.datasets.Dataset": "data is made of what rlkd.data",
    "data._target_=rlkd.data.detection.coco.DetectionSets": "data is made of what rlkd.data",
    "method.terms.kd.loss._target_=torch.nn.functional.cross_entropy": "wrap it in a function",
    "optimizer._target_=torch.nn.Linear": "optimizer is made of what torch.optim",
    "scheduler._target_=torch.optim.SGD": "scheduler is made of what torch.optim",
    "temperature._target_=rlkd.losses.kd": "temperature is made of what rlkd.agent",
    "method.terms.kd.loss._target_=torch.load": "method is made of what rlkd.losses",
    "method.terms.kd.loss._target_=rlkd.errors.notice": "method is made of what rlkd.losses",
    "method._target_=rlkd.losses.Term": "method does not build",
    "task._target_=rlkd.engine.run.distill": "task is made of what rlkd.tasks.classification.task",
    "data._target_=rlkd.data.loaders.memory.ImageSet": "data is made of what rlkd.data",
    "data._target_=rlkd.data.sources.listing": "data is made of what rlkd.data|rlkd.data has no",
    "data._target_=torch.testing._internal.common_utils.shell": "no part of a run is made of",
    "data._target_=5": "data._target_=5: give a name in a module",
    "student.name=os:system": "student.name=os:system: no part of a run is made of that",
    "student.name=rlkd.engine.run:distill": "'rlkd.engine.run:distill' is no factory of",
    "student.name=torch.hub:load": "'torch.hub:load' is no factory of",
}


@pytest.mark.parametrize(
    "setting",
    but_long(
        NOT_FOR_IT,
        "optimizer._target_=torch.save",
        "data._target_=5",
        "student.name=rlkd.engine.run:distill",
    ),
)
def test_what_is_named_is_of_the_kind_of_its_place(
    setting: str, refuse: Refuse, tmp_path: Path, teacher_file: Path
) -> None:
    given = [f"teacher.checkpoint={teacher_file}", f"output={tmp_path / 'run'}"]
    given += ["data.limit=48", "temperature=constant", "trainer.accelerator=cpu", setting]
    assert_told(refuse("distill", *given), NOT_FOR_IT[setting])


def test_what_a_place_takes_is_built() -> None:
    assert set(PLACES) == {"data", "method", "temperature", "optimizer", "scheduler", "task"}
    config = configure(["optimizer=adamw", "optimizer._target_=torch.optim.RMSprop"])
    assert isinstance(build.optimizer(config)([torch.zeros(1)]), torch.optim.RMSprop)


def test_a_schedule_of_transformers_is_built() -> None:
    name = "transformers.get_cosine_schedule_with_warmup"
    settings = ["scheduler=constant", "~scheduler.factor", f"scheduler._target_={name}"]
    settings += ["+scheduler.num_warmup_steps=2", "+scheduler.num_training_steps=8"]
    maker, by = build.scheduler(configure(settings))
    assert by == "epoch"
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    schedule: Any = maker(optimizer)
    assert schedule.get_last_lr() == [0.0]
    optimizer.step()
    schedule.step()
    assert schedule.get_last_lr() == [0.05]


@pytest.mark.parametrize("name", ["fused", "foreach"])
def test_a_flag_that_is_null_by_default_may_be_set(name: str) -> None:
    maker = build.optimizer(configure(["optimizer=adamw", f"+optimizer.{name}=true"]))
    assert maker([torch.zeros(1)]).defaults[name] is True


@pytest.mark.long
def test_an_optimiser_of_timm_is_built() -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    lamb = build.optimizer(configure(["optimizer._target_=timm.optim.Lamb", "~optimizer.momentum"]))
    assert type(lamb([torch.zeros(1)])).__name__ == "Lamb"


def test_a_trusted_package_may_be_named_and_is_stored_nowhere(
    run: RunFolder, mine: str, capsys: pytest.CaptureFixture[str], refuse: Refuse
) -> None:
    del mine
    _put(run, "data._target_", "mine.data")
    assert "whose it is, add trust=mine" in refuse("evaluate", f"run={run.path}", "probe.size=0")
    assert main(["evaluate", f"run={run.path}", "probe.size=0", "trust=mine"]) == 0
    assert "on 360" in capsys.readouterr().out
    assert main(["evaluate", f"run={run.path}", "probe.size=0", "trust=[other,mine]"]) == 0
    shown = as_yaml(configured(["trust=mine"], run=str(run.path)))
    assert "\ntrust:" not in shown
    assert "mine.data" in shown
    models.create("mine:network", num_classes=2)  # the caller's own word, no configuration's
    with pytest.raises(UserError, match="add trust=mine"):
        models.create("mine:network", num_classes=2, trusted=("another",))


@pytest.mark.parametrize("name", ["system", "run"])
def test_what_a_trusted_package_imported_is_not_trusted(
    name: str, run: RunFolder, mine: str, refuse: Refuse, tmp_path: Path
) -> None:
    (tmp_path / "imported").touch()
    _put(run, "data", {"_target_": f"{mine}.{name}", "command": "x", "args": ["x"]})
    told = refuse("evaluate", f"run={run.path}", "probe.size=0", "trust=mine")
    assert_told(told, f"data._target_=mine.{name}: data is made of")
    _put(run, "data", {"_target_": "rlkd.data.datasets.digits", "limit": 48})
    _put(run, "student.name", f"{mine}:{name}")
    told = refuse("evaluate", f"run={run.path}", "probe.size=0", "trust=mine")
    assert_told(told, f"'mine:{name}' is no factory of")


def test_what_a_trusted_package_imported_is_taken_where_it_is_of_the_kind(mine: str) -> None:
    config = configure([f"optimizer._target_={mine}.SGD", "trust=mine"])
    assert isinstance(build.optimizer(config)([torch.zeros(1)]), torch.optim.SGD)
    no_source = ("temperature=constant", "~temperature.temperature", "trust=mine")
    config = configure([*no_source, f"temperature._target_={mine}.three"])
    with pytest.raises(UserError, match=r"^temperature\._target_=mine.three made a int: give what"):
        build.temperature(config, num_classes=10)


def test_a_package_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"^trust=rlkd_own\.net: there is no package rlkd_own;"):
        configure(["trust=rlkd_own.net"])


@pytest.mark.parametrize(
    "given", ["", "os", "mine,os", "rlkd", "torch.hub", "a-b", "mine:net", "builtins", "a,,b", "*"]
)
def test_only_packages_of_ones_own_can_be_trusted(given: str) -> None:
    with pytest.raises(UserError, match=r"^trust="):
        packages(given)
    with pytest.raises(UserError, match=r"^trust"):
        configure([f"trust={given}"])


def test_a_file_of_groups_says_nothing_of_trust(mine: str, tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "own.yaml").write_text("# @package _global_\ntrust: [mine]\n")
    with pytest.raises(UserError, match=r"holds trust, which is given on the command line alone"):
        configure([f"configs={tmp_path}", "experiment=own"])
    with pytest.raises(UserError, match=r"^~trust: nobody is trusted unless trust="):
        configure(["~trust"])
    for given in ("trust.0=os", "+trust=os", "~trust"):
        with pytest.raises(UserError):
            configure([f"trust={mine}", given])


def test_a_sweep_and_its_jobs_trust_what_the_command_does(mine: str, tmp_path: Path) -> None:
    given = ["trust=mine,other", "seed=0,1", f"output={tmp_path / 'out'}", "data.limit=48"]
    planned = plan([*given, "data._target_=mine.data", "temperature=constant,random"])
    assert len(planned) == 4
    trusted = planned[0].config.trust
    assert list(trusted) == [mine, "other"]
    settings = [as_yaml(each.config) for each in planned]
    assert not any("\ntrust:" in each for each in settings)
    (refused,) = jobs.RunCells()(settings[:1], None)
    assert refused is not None
    assert refused.endswith("add trust=mine")
    (failed,) = jobs.RunCells(tuple(trusted))(settings[:1], None)
    assert failed is not None
    assert "teacher convnet_small has no weights" in failed


def test_a_comparison_does_not_keep_whom_it_trusted(mine: str, tmp_path: Path) -> None:
    planned = plan([f"trust={mine}", "seed=0,1", f"output={tmp_path}"])
    assert all("trust" not in key for key in comparing._cell(planned[0]).config)


def test_a_stored_run_fetches_nothing(run: RunFolder) -> None:
    _put(run, "data.download", True)
    _put(run, "task.teacher_pretrained", "coco")
    assert configured([], run=str(run.path)).task.teacher_pretrained is None
    assert configured([], run=str(run.path)).data.download is False
    assert configured(["data.download=true"], run=str(run.path)).data.download is True


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("student", 5), ("teacher", None), ("data", []), ("trainer", "x"), ("task", {})),
        *(("student.name", 5), ("student.name", ["a"]), ("data._target_", None)),
        *(("trainer", {}), ("probe.size", {"a": 1}), ("optimizer", None), ("seed", "x")),
    ],
)
def test_a_stored_configuration_of_another_form_is_refused(
    key: str, value: Any, run: RunFolder, refuse: Refuse
) -> None:
    _put(run, key, value)
    assert_told(refuse("evaluate", f"run={run.path}"), key.partition(".")[0])
