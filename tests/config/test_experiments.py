"""The paper's pairs of networks on CIFAR-100, and the settings published for each."""

from dataclasses import dataclass
from functools import partial

import pytest
import torch
from omegaconf import DictConfig
from torch.nn import functional as F

from rlkd import models
from rlkd.config.compose import as_yaml, configure, options
from rlkd.engine import build
from rlkd.errors import UserError
from rlkd.losses import LossInputs, kd, supervised_views

pytestmark = [pytest.mark.usefixtures("plainly"), pytest.mark.long]


@dataclass(frozen=True)
class Pair:
    teacher: str
    student: str
    rate: float
    """Of the student's optimiser. HobbitLong/RepDistiller train_student.py, which says 0.01 for
    MobileNet, ShuffleV1 and ShuffleV2; so do megvii-research/mdistiller configs/cifar100/dkd."""
    beta: float
    """DKD's. megvii-research/mdistiller configs/cifar100/dkd/*.yaml, engine/cfg.py where they have
    none (8); resnet110 to resnet20 from Zhengbo-Zhang/ITKD config/cifar100/rl."""
    kd: tuple[float, float]
    """Base temperature and weight with logit standardisation: the logs that the README of
    sunshangquan/logit-standardization-KD links, KD_TYPE,TEACHER,STUDENT,TEMPERATURE,WEIGHT."""
    dkd: tuple[float, float, float]
    """The same for DKD, and its beta then: the last number of a log's name, or 8 without one."""
    review: float = 1.0
    """ReviewKD's weight: dvlab-research/ReviewKD CIFAR-100/script/reviewKD.sh, else its default."""

    @property
    def name(self) -> str:
        return f"cifar100_{self.teacher}_{self.student}".lower()


PAIRS = [
    Pair("resnet56", "resnet20", 0.05, 2, (2, 9), (3, 18, 2), 0.6),
    Pair("resnet110", "resnet20", 0.05, 2, (4, 12), (2, 15, 2)),
    Pair("resnet110", "resnet32", 0.05, 2, (2, 9), (2, 15, 2), 1.0),
    Pair("resnet32x4", "resnet8x4", 0.05, 8, (2, 9), (2, 9, 8), 5.0),
    Pair("wrn_40_2", "wrn_16_2", 0.05, 6, (2, 9), (2, 12, 2), 5.0),
    Pair("wrn_40_2", "wrn_40_1", 0.05, 6, (2, 9), (2, 12, 2), 5.0),
    Pair("vgg13", "vgg8", 0.05, 6, (3, 9), (2, 15, 2)),
    Pair("vgg13", "MobileNetV2", 0.01, 6, (3, 9), (3, 9, 2)),
    Pair("ResNet50", "MobileNetV2", 0.01, 8, (3, 1), (2, 15, 2)),
    Pair("ResNet50", "vgg8", 0.05, 8, (2, 9), (2, 9, 8)),  # nothing published: the general ones
    Pair("resnet32x4", "ShuffleV1", 0.01, 8, (2, 9), (2, 9, 8), 5.0),
    Pair("resnet32x4", "ShuffleV2", 0.01, 8, (2, 9), (2, 9, 8), 8.0),
    Pair("wrn_40_2", "ShuffleV1", 0.01, 8, (2, 9), (2, 9, 8), 5.0),
]
LIGHT = {"MobileNetV2", "ShuffleV1", "ShuffleV2"}
METHODS = {
    # Zhengbo-Zhang/ITKD config/cifar100/rl and zhengli97/CTKD scripts/run_cifar_distill.sh, the
    # same for all their pairs. DKD has no KD term; its beta is by pair.
    "kd": {"cross_entropy": 0.1, "kd": 0.9},
    "dkd": {"cross_entropy": 1.0, "dkd": 1.0},
    "pkt": {"cross_entropy": 0.1, "kd": 0.9, "pkt": 30000.0},
    "sp": {"cross_entropy": 0.1, "kd": 0.9, "sp": 3000.0},
    "vid": {"cross_entropy": 0.1, "kd": 0.9, "vid": 1.0},
    "crd": {"cross_entropy": 0.1, "kd": 0.9, "crd": 0.8},
    "srrl": {"cross_entropy": 0.1, "kd": 0.9, "srrl": 1.0},
}

each_pair = pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)


def composed(pair: Pair, method: str, temperature: str = "constant") -> DictConfig:
    experiment = f"experiment={pair.name}"
    return configure([experiment, f"method={method}", f"temperature={temperature}", "data.root=."])


def weights(config: DictConfig) -> dict[str, float]:
    return {name: term.weight for name, term in config.method.terms.items()}


def test_the_experiments_are_the_papers_pairs_and_no_others() -> None:
    on_cifar = [each for each in options("experiment") if each.startswith("cifar100_")]
    assert on_cifar == sorted(pair.name for pair in PAIRS)
    assert {each for pair in PAIRS for each in (pair.teacher, pair.student)} <= set(models.names())


def test_the_light_students_and_only_they_start_at_a_rate_of_a_hundredth() -> None:
    assert {pair.student for pair in PAIRS if pair.rate == 0.01} == LIGHT
    assert {pair.student for pair in PAIRS if pair.rate == 0.05}.isdisjoint(LIGHT)


@each_pair
def test_a_pair_has_its_networks_its_rate_and_its_published_beta(pair: Pair) -> None:
    config = composed(pair, "dkd")
    assert (config.teacher.name, config.student.name) == (pair.teacher, pair.student)
    assert config.data._target_ == "rlkd.data.datasets.cifar100"
    assert config.optimizer.lr == pair.rate
    assert config.method.terms.dkd.loss.beta == pair.beta
    assert config.method.terms.dkd.weight == 1
    assert config.temperature.temperature == 4
    assert config.published.reviewkd_weight == pair.review


@each_pair
def test_standardised_logits_bring_the_pairs_base_temperature_and_weight(pair: Pair) -> None:
    kd = composed(pair, "kd", "standardised")
    assert (kd.temperature.base_temperature, kd.method.terms.kd.weight) == pair.kd
    assert kd.method.terms.cross_entropy.weight == 0.1
    dkd = composed(pair, "dkd", "standardised")
    term = dkd.method.terms.dkd
    assert (dkd.temperature.base_temperature, term.weight, term.loss.beta) == pair.dkd
    assert (kd.optimizer.lr, dkd.optimizer.lr) == (pair.rate, pair.rate)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("pair", [PAIRS[0], PAIRS[8]], ids=lambda pair: pair.name)
def test_the_papers_methods_have_their_published_weights(pair: Pair, method: str) -> None:
    assert weights(composed(pair, method)) == METHODS[method]


@each_pair
def test_every_pair_composes_with_each_of_the_papers_methods(pair: Pair) -> None:
    for method, expected in METHODS.items():
        config = composed(pair, method, "ctkd")
        as_yaml(config)
        assert weights(config) == expected
        assert config.optimizer.lr == pair.rate
        assert config.output.endswith(f"{pair.teacher}_{pair.student}_{method}_ctkd_seed0")


def test_reviewkd_has_the_weight_of_its_pair() -> None:
    assert weights(composed(PAIRS[0], "reviewkd"))["reviewkd"] == 0.6
    usual = configure(["method=reviewkd"])
    assert weights(usual)["reviewkd"] == 1
    term = usual.method.terms.reviewkd
    assert (term.warmup_epochs, term.loss.max_channels) == (20, 512)


MLKD_STANDARDISED = {"vgg13_vgg8": 6, "vgg13_mobilenetv2": 6, "resnet32x4_shufflev2": 6}
"""Where the name of a log in logs/MLKD of logit-standardization-KD has another weight than 9."""


@each_pair
def test_mlkd_has_a_cross_entropy_on_either_view_and_its_own_weight_when_standardised(
    pair: Pair,
) -> None:
    assert weights(composed(pair, "mlkd")) == {
        "cross_entropy": 0.1,
        "mlkd": 0.9,
    }
    term = build.objective(composed(pair, "mlkd")).terms["cross_entropy"]
    assert isinstance(term.loss, partial)
    assert term.loss.func is supervised_views
    standardised = composed(pair, "mlkd", "standardised")
    assert standardised.temperature.base_temperature == 4
    expected = MLKD_STANDARDISED.get(pair.name.removeprefix("cifar100_"), 9)
    assert weights(standardised)["mlkd"] == expected


@pytest.mark.parametrize(("method", "temperature"), [("nkd", 3), ("wttm", 5), ("dkd", 4)])
def test_a_method_starts_from_the_temperature_that_its_weights_were_published_with(
    method: str, temperature: float
) -> None:
    for source, name in (("constant", "temperature"), ("rlkd", "base_temperature")):
        config = configure([f"method={method}", f"temperature={source}"])
        assert config.temperature[name] == temperature


def test_dtkd_adds_kd_at_a_constant_temperature_to_the_term_that_its_source_steers() -> None:
    config = configure(["method=dtkd", "temperature=dtkd", "trainer.epochs=240"])
    assert weights(config) == {"cross_entropy": 1, "kd": 3, "kd_constant": 1}
    assert config.method.terms.kd_constant.loss.temperature == 4
    assert [term.get("warmup_epochs", 0) for term in config.method.terms.values()] == [0, 20, 20]
    objective = build.objective(config)
    objective.start_epoch(20)
    student, teacher = torch.randn(4, 10), 3 * torch.randn(4, 10)
    target = torch.arange(4)
    both = build.temperature(config, num_classes=10)(student, teacher, target)
    total, _ = objective(LossInputs(student, target, teacher, both))
    expected = F.cross_entropy(student, target) + kd(student, teacher, 4.0)
    torch.testing.assert_close(total, expected + 3 * kd(student, teacher, both))


DTKD = {
    # JinYu1998/DTKD configs/cifar100/dtkd: ALPHA and BETA, 3 and 1 where a file has none
    "resnet56_resnet20": (1, 0.5),
    "resnet110_resnet32": (1, 0.5),
    "wrn_40_2_wrn_40_1": (1, 0.5),
    "resnet50_mobilenetv2": (3, 2),
    "wrn_40_2_shufflev1": (2, 0.5),
}


@each_pair
def test_of_a_pair_dtkd_has_its_own_weights(pair: Pair) -> None:
    dynamic, constant = DTKD.get(pair.name.removeprefix("cifar100_"), (3, 1))
    expected = {"cross_entropy": 1, "kd": dynamic, "kd_constant": constant}
    assert weights(composed(pair, "dtkd")) == expected


@pytest.mark.parametrize(
    "where",
    ["data=cifar100", "experiment=imagenet_resnet34_resnet18", "experiment=shapes_small_tiny"],
)
def test_both_terms_of_dtkd_start_from_the_same_temperature(where: str) -> None:
    config = configure([where, "method=dtkd", "temperature=dtkd"])
    constant = config.method.terms.kd_constant.loss.temperature
    assert config.temperature.base_temperature == constant


def test_rld_has_its_own_weight_when_standardised() -> None:
    config = configure(["method=rld", "temperature=standardised"])
    assert (config.temperature.base_temperature, weights(config)["rld"]) == (2, 9)


def test_without_an_experiment_the_settings_are_the_general_ones() -> None:
    assert configure(["method=dkd"]).method.terms.dkd.loss.beta == 8
    standardised = configure(["method=srrl", "temperature=standardised"])
    assert standardised.temperature.base_temperature == 2
    assert weights(standardised) == {"cross_entropy": 0.1, "kd": 9, "srrl": 1}


def test_what_is_given_wins_over_what_is_published() -> None:
    given = [f"experiment={PAIRS[8].name}", "method=dkd", "temperature=standardised"]
    config = configure([*given, "optimizer.lr=0.02", "published.standardised.dkd.beta=5"])
    assert config.optimizer.lr == 0.02
    assert config.method.terms.dkd.loss.beta == 5
    assert config.method.terms.dkd.weight == 15
    with pytest.raises(UserError, match=r"did you mean published\.plain"):
        configure([*given, "published.plane=1"])


@pytest.mark.parametrize(
    ("experiment", "networks", "published"),
    [
        ("imagenet_resnet34_resnet18", ("torchvision:resnet34", "torchvision:resnet18"), (0.5, 1)),
        ("imagenet_resnet50_mobilenetv1", ("torchvision:resnet50", "timm:mobilenetv1_100"), (2, 8)),
    ],
)
def test_imagenets_pairs_have_their_published_recipe(
    experiment: str, networks: tuple[str, str], published: tuple[float, float]
) -> None:
    # megvii-research/mdistiller configs/imagenet: reviewkd.yaml of either pair, DKD's beta of dkd.
    config = configure([f"experiment={experiment}", "data.root=."])
    assert (config.teacher.name, config.student.name) == networks
    assert (config.optimizer.lr, config.optimizer.momentum) == (0.1, 0.9)
    assert config.optimizer.weight_decay == 1e-4
    assert (config.trainer.epochs, config.trainer.batch_size) == (100, 256)
    assert list(config.scheduler.milestones) == [30, 60, 90]
    assert config.scheduler.gamma == 0.1
    assert (config.data.image_size, config.data.resize) == (224, 256)
    assert (config.published.plain.dkd.beta, config.published.reviewkd_weight) == published
    terms = configure([f"experiment={experiment}", "data.root=.", "method=kd"]).method.terms
    assert (terms.cross_entropy.weight, terms.kd.weight) == (0.5, 0.5)
    # kd, dkd: mdistiller; nkd: yzd-v/cls_KD; rld, mlkd: zju-SWJ/RLD; wttm has none for ImageNet
    term: dict[str, DictConfig] = {}
    for method, temperature in {"dkd": 1, "nkd": 1, "rld": 1, "wttm": 5, "mlkd": 4}.items():
        chosen = [f"method={method}", "temperature=constant"]
        composed = configure([f"experiment={experiment}", "data.root=.", *chosen])
        assert composed.temperature.temperature == temperature
        term[method] = composed.method.terms[method]
    assert (term["dkd"].loss.beta, term["rld"].loss.beta) == (published[0], published[0])
    assert (term["dkd"].warmup_epochs, term["rld"].warmup_epochs) == (1, 1)
    assert (term["nkd"].loss.gamma, term["mlkd"].weight) == (1.5, 0.5)
    review = configure([f"experiment={experiment}", "data.root=.", "method=reviewkd"]).method.terms
    most = {"imagenet_resnet34_resnet18": 512, "imagenet_resnet50_mobilenetv1": 256}[experiment]
    assert (review.reviewkd.warmup_epochs, review.reviewkd.loss.max_channels) == (1, most)
