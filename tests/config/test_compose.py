"""From overrides to a configuration, and what the packaged numbers come to."""

import math
import re
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from tests.marks import but_long
from torch import nn

import rlkd.configs
from rlkd.commands import validate as validation
from rlkd.config.compose import GROUPS, as_yaml, configure, options, portion, sweep
from rlkd.engine import build
from rlkd.errors import UserError
from rlkd.losses import LossInputs
from rlkd.temperature import ConstantTemperature

pytestmark = pytest.mark.usefixtures("plainly")

EXPERIMENTS = sorted((Path(rlkd.configs.__file__).parent / "experiment").glob("*.yaml"))


def test_what_is_shown_is_the_whole_configuration() -> None:
    config = configure(["student=resnet8", "trainer.epochs=24", "output=here"])
    shown = OmegaConf.create(as_yaml(config))
    OmegaConf.resolve(config)
    assert shown == config
    assert shown.student.name == "resnet8"
    assert shown.trainer.epochs == 24
    assert shown.scheduler.milestones == [15, 18, 21]


def test_the_same_overrides_give_the_same_text() -> None:
    assert as_yaml(configure(["seed=3"])) == as_yaml(configure(["seed=3"]))
    assert as_yaml(configure(["seed=3"])) != as_yaml(configure(["seed=4"]))


def test_the_run_folder_is_named_by_the_choices_and_the_seed() -> None:
    config = configure(["data=cifar100", "teacher=resnet56", "student=resnet20", "seed=2"])
    assert config.output == "runs/cifar100_resnet56_resnet20_kd_rlkd_seed2"
    assert configure(["output=elsewhere"]).output == "elsewhere"


@pytest.mark.parametrize(
    "path", but_long(EXPERIMENTS, *EXPERIMENTS[::3]), ids=lambda path: path.stem
)
def test_every_experiment_is_a_short_difference_that_composes(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 23
    config = configure([f"experiment={path.stem}"])
    if config.chosen.teacher == "none":  # it trains a teacher
        assert path.stem == f"teacher_{config.student.name}".lower()
        return
    networks = [
        config[role].name.split(":")[-1].removeprefix("fasterrcnn_").removesuffix("_100")
        for role in ("teacher", "student")
    ]
    named = "_".join([config.chosen.data, *(each.replace("_v2", "v2") for each in networks)])
    assert path.stem == named.lower()


def test_there_is_an_experiment_for_each_of_the_papers_pairs() -> None:
    assert options("experiment") == [path.stem for path in EXPERIMENTS]
    assert len(EXPERIMENTS) >= 4


@pytest.mark.parametrize("group", GROUPS)
def test_each_group_lists_its_options(group: str) -> None:
    assert options(group)
    if group in ("teacher", "student"):
        assert "resnet20" in options(group)


@pytest.mark.parametrize(
    "name",
    ["torchvision:resnet18", "tests.support.runs:DroppingStudent"],
)
def test_a_network_may_come_from_elsewhere(name: str) -> None:
    config = configure([f"student={name}", f"teacher='{name}'", "trust=tests"])
    assert config.student.name == config.teacher.name == name
    image = torch.zeros(2, 3, 8, 8)
    network = rlkd.models.create(config.student.name, num_classes=7)
    assert network.eval()(image).shape == (2, 7)


@pytest.mark.parametrize(
    ("total", "part", "expected"),
    # 240 epochs keep the numbers of the recipe; 40 are a sixth of them: 20/6 = 3.33, 150/6 = 25.
    [(240, 20, 20), (240, 150, 150), (40, 20, 3), (40, 150, 25), (1, 20, 0), (3, 210, 3)],
)
def test_a_portion_is_the_same_point_of_another_run(total: int, part: int, expected: int) -> None:
    assert portion(total, part, 240) == expected


def test_a_portion_may_have_a_least_value() -> None:
    assert portion(1, 80, 240, 1) == 1
    assert configure(["trainer.epochs=1"]).temperature.gate_epochs == 1


def test_a_run_of_240_epochs_has_the_papers_numbers() -> None:
    config = configure(["temperature=rlkd"])
    assert config.trainer.epochs == 240
    assert config.trainer.batch_size == 64
    assert config.temperature.warmup_epochs == 20
    assert config.temperature.gate_epochs == 80
    assert config.temperature.base_temperature == 4
    assert config.temperature.max_temperature == 10
    assert config.exploration.enabled
    assert config.exploration.epochs == 20
    assert config.exploration.selected == 0.2
    assert config.exploration.mixed == [0.1, 0.2]
    assert config.exploration.partners == [0.4, 0.5]
    paper = configure(["temperature=rlkd_paper"])
    assert (paper.temperature.reward_source, paper.temperature.metric) == ("next_batch", "accuracy")
    assert paper.probe.size == 0


@pytest.mark.parametrize("task", [[], ["task=detection"]])
def test_a_probe_is_held_out_only_where_the_reward_is_measured_on_it(task: list[str]) -> None:
    probed = configure([*task, "temperature=rlkd"])
    assert probed.probe.size == probed.task.probe_size > 0
    for source in ("same_batch", "next_batch"):
        config = configure([*task, "temperature=rlkd", f"temperature.reward_source={source}"])
        assert config.probe.size == 0
    asked_for = configure([*task, "temperature=rlkd_paper", "probe.size=8"])
    assert asked_for.probe.size == 8


@pytest.mark.parametrize(
    ("settings", "updates"),
    [
        ((), 48),  # 12 x 256 images in batches of 64
        (("trainer.batch_size=100",), 32),  # 30.7 would be too few
        (("trainer.batch_size=7",), 439),  # 438.9
        (("probe.size=1000",), 188),  # 187.5
        (("probe.size=1000", "temperature.reward_source=look_ahead"), 32),
        (("temperature.probe_interval=5",), 5),
    ],
)
def test_a_probe_is_scored_once_for_twelve_times_its_images(
    settings: tuple[str, ...], updates: int
) -> None:
    config = configure(["student=resnet8", "temperature=rlkd", *settings])
    assert config.temperature.probe_interval == updates


def test_the_recipe_is_sgd_whose_rate_falls_at_150_180_and_210() -> None:
    config = configure([])
    optimizer = build.optimizer(config)(nn.Linear(1, 1).parameters())
    assert isinstance(optimizer, torch.optim.SGD)
    defaults = optimizer.defaults
    assert (defaults["lr"], defaults["momentum"], defaults["weight_decay"]) == (0.05, 0.9, 5e-4)
    scheduler = build.scheduler(config)[0](optimizer)
    rates: list[float] = []
    for _ in range(240):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    falls = [done for done in range(1, 240) if rates[done] < rates[done - 1]]
    assert falls == [150, 180, 210]  # the number of epochs that were trained at the higher rate
    assert rates[-1] == pytest.approx(0.05 * 0.1**3)


def test_the_objective_is_a_tenth_of_cross_entropy_and_nine_of_kd() -> None:
    # Student [0, 0]: cross-entropy log 2. Teacher [2 log 3, 0] at T = 2: p = (3/4, 1/4) against
    # (1/2, 1/2): KL = 3/4 log(3/2) + 1/4 log(1/2), times T^2 = 4.
    objective = build.objective(configure(["method=kd"]))
    student, teacher = torch.zeros(1, 2), torch.tensor([[2 * math.log(3), 0.0]])
    target = torch.tensor([0])
    temperatures = ConstantTemperature(2.0)(student, teacher, target)
    total, parts = objective(LossInputs(student, target, teacher, temperatures))
    kd = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert parts["cross_entropy"].item() == pytest.approx(0.1 * math.log(2), rel=1e-5)
    assert parts["kd"].item() == pytest.approx(0.9 * kd, rel=1e-5)
    assert total.item() == pytest.approx(0.1 * math.log(2) + 0.9 * kd, rel=1e-5)
    alone = build.objective(configure(["method=alone"]))
    assert alone(LossInputs(student, target))[0].item() == pytest.approx(math.log(2), rel=1e-5)


def test_a_weight_is_one_override() -> None:
    config = configure(["method.terms.kd.weight=0.5"])
    assert build.objective(config).terms["kd"].weight == 0.5


@pytest.mark.parametrize("given", ["temperature=rlkd_paper", "temperature=random", "method=alone"])
def test_every_packaged_choice_builds(given: str) -> None:
    validation.validate([given])


def test_a_choice_that_does_not_build_is_refused_by_validation() -> None:
    with pytest.raises(UserError, match="max_temperature=0"):
        validation.validate(["temperature.max_temperature=0"])
    with pytest.raises(UserError, match=r"scheduler\.gamma='abc': give a number"):
        validation.validate(["scheduler.gamma=abc"])


@pytest.mark.parametrize("given", ["experiment=null", "method=null", "method=[kd,dkd]"])
def test_what_is_no_name_of_a_choice_is_refused_in_the_users_words(given: str) -> None:
    with pytest.raises(UserError, match=rf"^{re.escape(given)}: one of "):
        configure([given])


def test_a_folder_of_ones_own_groups_is_searched_and_may_not_shadow(tmp_path: Path) -> None:
    own = tmp_path / "method" / "mine.yaml"
    own.parent.mkdir()
    packaged = Path(rlkd.configs.__file__).parent / "method" / "sp.yaml"
    own.write_text(packaged.read_text())
    assert "sp" in configure([f"configs={tmp_path}", "method=mine"]).method.terms
    with pytest.raises(UserError, match=r"trainer\.epoch: did you mean trainer\.epochs"):
        configure([f"configs={tmp_path}", "method=mine", "trainer.epoch=3"])
    own.rename(own.with_name("kd.yaml"))
    with pytest.raises(UserError, match="kd is packaged already"):
        configure([f"configs={tmp_path}", "method=kd"])
    with pytest.raises(UserError, match="there is no such folder"):
        configure([f"configs={tmp_path / 'none'}"])


def test_a_sweep_keeps_its_values_as_they_were_written() -> None:
    swept, single = sweep(["student=timm:resnet18,torchvision:resnet18", "++a.b=1,2", "seed=3"])
    assert swept == {"student": ["timm:resnet18", "torchvision:resnet18"], "++a.b": ["1", "2"]}
    assert single == ["seed=3"]
    with pytest.raises(UserError, match="several values are for `rlkd compare`"):
        configure(["method=kd,dkd"])
