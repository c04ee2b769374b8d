"""Settings that are impossible or unknown: one line, exit code 2, nothing written."""

import contextlib
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf
from tests.support.refusal import Refuse, assert_told, pictures
from tests.support.runs import SOURCES, tiny

from rlkd.config.compose import as_yaml, configure, sweep
from rlkd.engine import build
from rlkd.errors import UserError
from rlkd.tasks.classification.data import load_dataset

pytestmark = pytest.mark.usefixtures("plainly")

IMPOSSIBLE = {
    "trainer.batch_size=0": "trainer.batch_size=0: give a whole number of at least 1",
    "trainer.epochs=0": "trainer.epochs=0: give a whole number of at least 1",
    "trainer.epochs=abc": r"trainer\.epochs=abc: give a whole number$",
    "trainer.epochs=1.5": r"trainer\.epochs=1\.5: give a whole number$",
    "trainer.evaluate_every=0": "trainer.evaluate_every=0: give a whole number of at least 1",
    "student.freeze=[layer9.*]": r"student.freeze=layer9.\* matches no parameter of SmallConvNet: "
    r"give patterns such as layers.\*, fc.\*",
    "student.freeze=['*']": "student.freeze leaves no parameter to train: give fewer patterns",
    "student.freeze=[1]": r"student.freeze=\[1\]: give patterns of names",
    "teacher.also=a.pth": "teacher.also is a list of further teachers, such as",
    "teacher.also=[{file: a.pth}]": "teacher.also is a list of further teachers, such as",
    "teacher.also=[{name: resnet20}]": r"teacher.also\[0\]: the teacher resnet20 has no weights",
    "teacher.also=[{name: os:system, checkpoint: a}]": "os:system: no part of a run",
    "teacher.also=[{name: mine:net, checkpoint: a}]": r"teacher.also\[0\]: .*add trust=mine",
    "teacher.also=[{checkpoint: nowhere.pth}]": r"teacher.also\[0\]: .*nowhere.pth",
    "teacher.weight=0": "teacher.weight=0: give a number above 0",
    "task.mix=blend": "task.mix=blend: choose one of mixup, cutmix, null",
    "task.mix_alpha=0": "task.mix_alpha=0: give a number above 0",
    "task.mix=mixup": "task.mix=mixup mixes every image, and exploration ranks them",
    "task.label_smoothing=1": r"task.label_smoothing=1: give a number from 0 to below 1",
    "task.class_weights=even": "task.class_weights=even: give a number for each class, balanced",
    "task.class_weights=[1,0]": "task.class_weights=0: give a number above 0",
    "task.class_weights=[1,2]": "task.class_weights has 2 numbers, and there are 10 classes",
    "trainer.early_stopping=0": "trainer.early_stopping=0: give a whole number of at least 1",
    "trainer.early_stopping=3": "trainer.early_stopping=3 stops by validation images, for the test",
    "trainer.ema=1": "trainer.ema=1.*: give a number above 0, below 1, or null",
    "trainer.gradient_clip=0": "trainer.gradient_clip=0.*: give a number above 0",
    "trainer.gradient_clip=a": "trainer.gradient_clip=a: give a number$",
    "trainer.threads=0": "trainer.threads=0: give a whole number of at least 1",
    "trainer.checkpoint_every_steps=0": "every_steps=0: give a whole number of at least 1",
    "trainer.precision=foo": "trainer.precision=foo: choose one of 32-true, bf16-mixed",
    "trainer.precision=16-mixed": "trainer.precision=16-mixed needs a GPU",
    "trainer.accelerator=tpu": "trainer.accelerator=tpu: choose auto, cpu or gpu",
    "trainer.validation_size=64": "trainer.validation_size=64: cannot hold out 64 of 64 images",
    "seed=abc": "seed=abc: give a whole number$",
    "probe.size=64": "probe.size=64: cannot hold out 64 of 64 images: give 0 to 63",
    "probe.size=-1": "probe.size=-1: give a whole number of at least 0",
    "probe.size=abc": r"probe\.size=abc: give a whole number$",
    "probe.size=0": "temperature.reward_source=probe needs images: give a probe.size above 0",
    "data.limit=0": "data.limit=0: give a whole number of at least 1",
    "temperature.max_temperature=0": "max_temperature=0: give a number above 0",
    "temperature.max_temperature=-1": "max_temperature=-1: give a number above 0",
    "temperature.max_temperature=abc": "^rlkd: temperature.max_temperature='abc': give",
    "temperature.base_temperature=11": "base_temperature=11: give a number from 0.05 to below 10",
    "temperature.initial_std=0": "initial_std=0: give a number from 0.3",
    "temperature.calibration=lstm": "calibration=lstm: choose one of additive, recurrent, none",
    "temperature.reward_source=test": "reward source=test: choose one of next_batch, same_batch",
    "temperature.metric=f1": "reward metric=f1: choose one of accuracy, loss",
    "temperature.probe_interval=0": "probe_interval=0: give a whole number of at least 1",
    "temperature.update_interval=0": "^rlkd: temperature.update_interval=0: give a whole number",
    "temperature.warmup_epochs=-1": "warmup_epochs=-1: give a whole number of at least 0",
    "temperature.discount=2": "discount=2: give a number from 0 to 1",
    "exploration.selected=1.5": r"exploration\.selected=1\.5: give a number above 0, at most 1",
    "exploration.selected=abc": r"exploration\.selected=abc: give a number$",
    "exploration.enabled=perhaps": r"exploration\.enabled=perhaps: give true or false$",
    "exploration.mixed=[0.3,0.1]": r"mixed=\[0\.3, 0\.1\] .*: mixed must be two rising fractions",
    "exploration.mixed=[0.1]": r"exploration.mixed=\[0\.1\]: give two fractions",
    "exploration.mixed=[0.15,0.25]": "the mixed band must be part of the selected one",
    "exploration.partners=[0.15,0.25]": "the partners must not overlap the selected band",
    "exploration.partners=[0.4,0.6]": "mixed and partners must be equally wide",
    "exploration.partners=[0.95,1.05]": "partners must be two rising fractions",
    "exploration.mix_weight=2": "exploration.mix_weight=2.0: give a number from 0 to 1",
    "exploration.mix_weight=-0.1": "exploration.mix_weight=-0.1: give a number from 0 to 1",
    "exploration.epochs=-1": "exploration.epochs=-1: give a whole number of at least 0",
    "optimizer.lr=abc": "optimizer.lr='abc': give a number",
    "optimizer.lr=-1": r"optimizer.lr=-1: give a number from 0 to 1e\+06",
    "scheduler.gamma=abc": "scheduler.gamma='abc': give a number",
    "method.terms.kd.weight=abc": "^rlkd: method.terms.kd.weight='abc': give a number",
    "method.terms.kd.weight=inf": "method.terms.kd.weight=inf: give a number",
}


@pytest.mark.parametrize("setting", IMPOSSIBLE)
def test_an_impossible_value_is_refused_by_its_name(
    setting: str, refuse: Refuse, teacher_file: Path, tmp_path: Path
) -> None:
    settings = tiny(teacher_file, tmp_path / "run", *SOURCES["rlkd"], setting)
    assert_told(refuse("distill", *settings), IMPOSSIBLE[setting])


def test_mixed_images_are_refused_by_a_loss_that_remembers_each_by_its_row(
    refuse: Refuse, teacher_file: Path, tmp_path: Path
) -> None:
    given = ("temperature=constant", "method=crd", "task.mix=cutmix")
    told = refuse("distill", *tiny(teacher_file, tmp_path / "run", *given))
    assert_told(told, "task.mix=cutmix makes one image of two, and loss crd .* task.mix=null")


UNKNOWN = {
    "trainer.epoch=3": "no setting trainer.epoch: did you mean trainer.epochs",
    "chosn=3": "no setting chosn: see them all",
    "epochs=3": r"no setting epochs: did you mean trainer\.epochs\? ",
    "lr=0.1": r"no setting lr: did you mean optimizer\.lr\? ",
    "trainer.max_epochs=3": r"no setting trainer\.max_epochs: did you mean trainer\.epochs\? ",
    "optimizer.learning_rate=1": r"no setting .*: did you mean optimizer\.lr\? ",
    "method._targt_=3": r"no setting method._targt_: (did you mean method\.terms\? )?see them all",
    "trainr.epochs=3": "no setting trainr.epochs: did you mean trainer.epochs",
    "temperature.temprature=3": "did you mean temperature.temperature",
    "zzzz=3": "no setting zzzz: see them all with `rlkd show`",
    "temperature.probe_interval=4": r"no setting \S+probe_interval: temperature=rlkd has it; see",
    "data.unreadable=skip": "no setting data.unreadable: data=folder, .* have it; see them all",
    "temperature=rldk": "temperature=rldk: did you mean rlkd",
    "teacher=resnet57": "teacher=resnet57: did you mean resnet56",
    "student=resnet21": "student=resnet21: did you mean resnet20",
    "method=reviwkd": "method=reviwkd: did you mean reviewkd",
    "data=cifar_100": "data=cifar_100: did you mean cifar100",
    "experiment=cifar100_resnet56_resnet21": "did you mean cifar100_resnet56_resnet20",
    "student=torchvision:resnet19": "did you mean 'torchvision:resnet18'",
    "student=nowhere:net": r"student\.name=nowhere:net is code from outside.*add trust=nowhere$",
    "student": "student is no setting: give KEY=VALUE",
    "trainer.epochs=[": "give overrides as key=value",
    "~exploration": "exploration cannot be left out",
    "~trainer.epoch": "no setting trainer.epoch: did you mean trainer.epochs",
    "optimizer.nesterov=true": r"no setting optimizer.nesterov yet: give \+optimizer.nesterov=",
    "trainer=5": r"trainer=5: trainer is a section; give single settings of it, such as trainer\.",
    "exploration=null": "exploration=null: exploration is a section; give single settings",
    "trainer={epoch: 3}": "no setting trainer.epoch: did you mean trainer.epochs",
    "trainer.epochs.x=3": "no setting trainer.epochs.x: did you mean trainer.epochs",
    "scheduler.milestones.7=3": r"^rlkd: scheduler\.milestones\.7=3: ",
    "trainer.epochs=${portion:1}": "portion",
    "seed=glob(*)": r"seed=glob\(\*\): several values are for `rlkd compare`",
    "method@other=kd": "method@other",
    "optimizer.lr@x=3": "there is no group optimizer.lr|optimizer.lr@x=3",
}


@pytest.mark.parametrize("setting", UNKNOWN)
def test_an_unknown_name_is_refused_with_the_nearest(
    setting: str, refuse: Refuse, teacher_file: Path, tmp_path: Path
) -> None:
    settings = tiny(teacher_file, tmp_path / "run", "temperature=constant", "data=digits")
    if setting.startswith("student=torchvision"):
        settings += ["data=folder", f"data.root={pictures(tmp_path)}", "data.image_size=8"]
        settings.remove("data=digits")
        settings.remove("data.limit=48")
    assert_told(refuse("distill", *settings, setting), UNKNOWN[setting])


UNREAD = {
    "+student.pretrained=true": "nothing reads student.pretrained",
    "+student.chekpoint=a": "nothing reads student.chekpoint: did you mean student.checkpoint",
    "+teacher.head=new": "nothing reads teacher.head",
    "++teacher.pretrained=true": "nothing reads teacher.pretrained",
    "+early_stopping.patience=3": "nothing reads early_stopping.patience",
    "+trainer.foo=1": "nothing reads trainer.foo",
    "+trainer.epoch=1": "nothing reads trainer.epoch: did you mean trainer.epochs",
    "+trainer.epochs.x=1": "nothing reads trainer.epochs.x",
    "+patience=3": "nothing reads patience",
    "+exploration.patience=3": "nothing reads exploration.patience",
    "+published.temprature=3": "did you mean published.temperature",
    "+optimizer.nestrov=true": "nothing reads optimizer.nestrov: did you mean optimizer.nesterov",
    "+data.sampler=x": "nothing reads data.sampler",
    "+data.root=x": "nothing reads data.root",
    "+temperature.like=x": "nothing reads temperature.like",
    "+method.term.x=1": "nothing reads method.term.x: did you mean method.terms",
    "+method.terms.kd.wait=1": "did you mean method.terms.kd.weight",
    "+task.probe_sise=3": "nothing reads task.probe_sise: did you mean task.probe_size",
}


@pytest.mark.parametrize("setting", UNREAD)
def test_what_nothing_reads_is_refused_even_where_it_is_added(setting: str, refuse: Refuse) -> None:
    given = ("data=digits", "temperature=constant", setting)
    assert_told(refuse("show", *given), UNREAD[setting])


READ = {
    "+optimizer.nesterov=true": ("optimizer.nesterov", True),
    "++optimizer.nesterov=true": ("optimizer.nesterov", True),
    "++trainer.epochs=7": ("trainer.epochs", 7),
    "+optimizer._partial_=true": ("optimizer._partial_", True),
    "+method.terms.kd.layers=null": ("method.terms.kd.layers", None),
    "+method.terms.mine={weight: 2}": ("method.terms.mine.weight", 2),
    "+method.terms.mine._target_=rlkd.losses.Term": (
        "method.terms.mine._target_",
        "rlkd.losses.Term",
    ),
}


@pytest.mark.parametrize("setting", READ)
def test_what_something_reads_may_be_added(setting: str) -> None:
    key, value = READ[setting]
    assert OmegaConf.select(configure([setting]), key) == value


def test_a_setting_may_be_added_before_or_after_what_refers_to_it() -> None:
    given = ["+published.mine=0.5", "optimizer.lr=${published.mine}"]
    for each in (given, given[::-1]):
        assert configure(each).optimizer.lr == 0.5


def test_an_added_setting_reaches_what_reads_it() -> None:
    made = build.optimizer(configure(["+optimizer.nesterov=true"]))([torch.zeros(1)])
    assert made.defaults["nesterov"] is True


def test_ones_own_groups_add_what_they_read(tmp_path: Path) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "trainer").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text(
        "_target_: rlkd.losses.Objective\nterms: {a: {weight: '${published.mine}'}}\n"
    )
    (tmp_path / "trainer" / "fast.yaml").write_text("epochs: 3\n")
    own = (f"configs={tmp_path}", "method=mine", "+trainer=fast", "+published.mine=5")
    config = configure(own)
    assert (config.trainer.epochs, config.method.terms.a.weight) == (3, 5)
    with pytest.raises(UserError, match=r"^\+trainer=fats: did you mean fast\? one of fast$"):
        configure([f"configs={tmp_path}", "+trainer=fats"])


KEYS = st.sampled_from(
    (
        *("seed", "output", "data.root", "student.name", "exploration.mixed", "method", "student"),
        *("configs", "trainer", "published.plain", "scheduler.milestones.0", "task._target_"),
        *("hydra.run.dir", "+trainer.x", "++a.b", "~seed", "chosen.data", "data@x", "", "+", "a b"),
    )
)
PIECES = st.sampled_from(
    (
        *"{}[](),:='\"\\$~/7 ü",
        *("${", "${seed}", "${a}", "${oc.env:NOPE}", "${portion:1}", "null", "true", "1e3", "???"),
        *("choice(", "range(1,3)", "glob(*)", "int(", "kd", "timm:x"),
    )
)


@settings(deadline=None)
@given(KEYS, st.sampled_from(("=", "")), st.lists(PIECES, max_size=4).map("".join))
def test_whatever_is_given_composes_or_is_refused(key: str, separator: str, value: str) -> None:
    for compose in (lambda word: as_yaml(configure([word])), lambda word: sweep([word])):
        with contextlib.suppress(UserError):
            compose(f"{key}{separator}{value}")


def test_data_of_one_class_are_refused(tmp_path: Path) -> None:
    root = pictures(tmp_path)
    for split in ("train", "test"):
        shutil.rmtree(root / split / "dog")
    given = ("data=folder", f"data.root={root}", "data.image_size=8")
    with pytest.raises(UserError, match="data=folder has one class, cat: give images of two"):
        load_dataset(configure(given))


def built(config: DictConfig) -> None:
    for make in (build.trainer_options, build.optimizer, build.scheduler, build.objective):
        make(config)
    build.temperature(config, num_classes=10)


TAKEN_BEFORE = {
    "temperature.update_interval=nan": "temperature.update_interval=nan: give a whole number",
    "temperature.update_interval=inf": "temperature.update_interval=inf: give a whole number",
    "temperature.probe_interval=nan": "temperature.probe_interval=nan: give a whole number",
    "temperature.minibatches=2.5": "temperature.minibatches=2.5: give a whole number",
    "temperature.minibatches=-1": "temperature.minibatches=-1: give a whole number",
    "+temperature.epochs=0": "temperature.epochs=0: give a whole number",
    "+temperature.calibration_buffer=0": "temperature.calibration_buffer=0: give a whole number",
    "temperature.gate=maybe": "temperature.gate='maybe': give true or false",
    "optimizer.lr=nan": "optimizer.lr=nan: give a number",
    "optimizer.weight_decay=true": "optimizer.weight_decay=true: give a number",
    "scheduler.gamma=1e30": r"scheduler.gamma=1e\+30: give a number",
    "scheduler.milestones=[nan]": "scheduler.milestones=nan: give a number",
    "method.terms.kd.weight=true": "method.terms.kd.weight=true: give a number",
    "method.terms.kd.warmup_epochs=2.5": "method.terms.kd.warmup_epochs=2.5: give a whole number",
    "task.probe_size=nan": "probe.size",
    "seed=99999999999999999999": "seed=99999999999999999999: give a whole number",
    "trainer.checkpoint_every_minutes=nan": "checkpoint_every_minutes=nan: give a number",
}


@pytest.mark.parametrize("setting", TAKEN_BEFORE)
def test_a_number_that_is_none_is_refused_when_it_is_composed_or_built(setting: str) -> None:
    given = ["temperature=rlkd", "+method.terms.kd.warmup_epochs=0", setting]
    with pytest.raises(UserError, match=TAKEN_BEFORE[setting]):
        built(configure(given))
