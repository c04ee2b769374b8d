"""Settings that are impossible or unknown: one line, exit code 2, nothing written."""

from pathlib import Path

import pytest
from tests.training.refusal import Refuse, assert_told, pictures
from tests.training.runs import SOURCES, tiny

pytestmark = pytest.mark.usefixtures("plainly")

IMPOSSIBLE = {
    "trainer.batch_size=0": "trainer.batch_size=0: give at least 1",
    "trainer.epochs=0": "trainer.epochs=0: give at least 1",
    "trainer.epochs=abc": "trainer.epochs: Value 'abc'",
    "trainer.epochs=1.5": "trainer.epochs: Value '1.5'",
    "trainer.evaluate_every=0": "trainer.evaluate_every=0: give at least 1",
    "trainer.threads=0": "trainer.threads=0: give at least 1",
    "trainer.checkpoint_every_steps=0": "trainer.checkpoint_every_steps=0: give at least 1",
    "trainer.precision=foo": "trainer.precision=foo: choose one of 32-true, bf16-mixed",
    "trainer.precision=16-mixed": "trainer.precision=16-mixed needs a GPU",
    "trainer.accelerator=tpu": "trainer.accelerator=tpu: choose auto, cpu or gpu",
    "trainer.validation_size=64": "trainer.validation_size=64: cannot hold out 64 of 64 images",
    "seed=abc": "seed: Value 'abc'",
    "probe.size=64": "probe.size=64: cannot hold out 64 of 64 images: give 0 to 63",
    "probe.size=-1": "probe.size=-1: cannot hold out -1",
    "probe.size=abc": "probe.size: Value 'abc'",
    "probe.size=0": "temperature.reward_source=probe needs images: give probe.size=512",
    "data.limit=0": "data.limit=0: there are 1437 training images, give 1 to 1437",
    "temperature.max_temperature=0": "max_temperature=0: give a number above 0",
    "temperature.max_temperature=-1": "max_temperature=-1: give a number above 0",
    "temperature.max_temperature=abc": "temperature does not build: .*max_temperature=abc",
    "temperature.base_temperature=11": "base_temperature=11: .* between 0 and max_temperature=10",
    "temperature.initial_std=0": "initial_std=0: give a number above 0",
    "temperature.calibration=lstm": "calibration=lstm: choose one of additive, recurrent, none",
    "temperature.reward_source=test": "reward source=test: choose one of next_batch, same_batch",
    "temperature.metric=f1": "reward metric=f1: choose one of accuracy, loss",
    "temperature.probe_interval=0": "probe_interval=0: give a whole number of at least 1",
    "temperature.update_interval=0": "update_interval=0: give a number of at least 1",
    "temperature.warmup_epochs=-1": "warmup_epochs=-1: give a number of at least 0",
    "temperature.discount=2": "discount=2: give a number from 0 to 1",
    "exploration.selected=1.5": r"selected=1\.5 .*: selected must lie in \(0, 1\]",
    "exploration.selected=abc": "exploration.selected: Value 'abc'",
    "exploration.mixed=[0.3,0.1]": r"mixed=\[0\.3, 0\.1\] .*: mixed must be two rising fractions",
    "exploration.mixed=[0.1]": r"exploration.mixed=\[0\.1\]: give two fractions",
    "exploration.mixed=[0.15,0.25]": "the mixed band must be part of the selected one",
    "exploration.partners=[0.15,0.25]": "the partners must not overlap the selected band",
    "exploration.partners=[0.4,0.6]": "mixed and partners must be equally wide",
    "exploration.partners=[0.95,1.05]": "partners must be two rising fractions",
    "exploration.mix_weight=2": "exploration.mix_weight=2.0: give a number from 0 to 1",
    "exploration.mix_weight=-0.1": "exploration.mix_weight=-0.1: give a number from 0 to 1",
    "exploration.epochs=-1": "exploration.epochs=-1: give a number of at least 0",
    "optimizer.lr=abc": "optimizer does not build: .*lr=abc",
    "optimizer.lr=-1": "optimizer does not build: Invalid learning rate: -1.*lr=-1",
    "scheduler.gamma=abc": "scheduler does not build: .*gamma=abc",
    "method.terms.kd.weight=abc": "method.terms.kd does not build: .*weight=abc",
    "method.terms.kd.weight=inf": "method.terms.kd does not build: its weight must be finite",
}


@pytest.mark.parametrize("setting", IMPOSSIBLE)
def test_an_impossible_value_is_refused_by_its_name(
    setting: str, refuse: Refuse, teacher_file: Path, tmp_path: Path
) -> None:
    settings = tiny(teacher_file, tmp_path / "run", *SOURCES["rlkd"], setting)
    assert_told(refuse("distill", *settings), IMPOSSIBLE[setting])


UNKNOWN = {
    "trainer.epoch=3": "no setting trainer.epoch: did you mean trainer.epochs",
    "trainr.epochs=3": "no setting trainr.epochs: did you mean trainer.epochs",
    "temperature.temprature=3": "did you mean temperature.temperature",
    "zzzz=3": "no setting zzzz: see them all with `rlkd show`",
    "temperature=rldk": "temperature=rldk: did you mean rlkd",
    "teacher=resnet57": "teacher=resnet57: did you mean resnet56",
    "student=resnet21": "student=resnet21: did you mean resnet20",
    "method=reviwkd": "method=reviwkd: did you mean reviewkd",
    "data=cifar_100": "data=cifar_100: did you mean cifar100",
    "experiment=cifar100_resnet56_resnet21": "did you mean cifar100_resnet56_resnet20",
    "student=torchvision:resnet19": "did you mean 'torchvision:resnet18'",
    "student=nowhere:net": "cannot import 'nowhere'",
    "student": "give overrides as key=value",
    "trainer.epochs=[": "give overrides as key=value",
    "~exploration": "exploration cannot be left out",
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
