"""Studies: named arms over pairs of networks and seeds, packaged or in a file of one's own."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from rlkd import arguments
from rlkd.config.compose import configure, options, packaged
from rlkd.config.options import probe_options, read_options
from rlkd.config.overrides import path_value
from rlkd.errors import UserError, did_you_mean
from rlkd.sweep.plan import Planned, named_run, take_place
from rlkd.text_files import read_config

STUDY = "study"
"""The word that asks for one."""
_REMEDY = "give a study of `rlkd ls study`"
_WORDS = (STUDY, "arm", "pair", "seed", "teachers", "output")
_FOLLOWED = "temperature.like=@"
_WEIGHTS = (".safetensors", ".pth", ".pt", ".ckpt")
_BY_EXPERIMENT = ("teacher", "student", "optimizer", "scheduler", "published", "task", "method")
"""What an experiment chooses."""


@dataclass
class Study:
    """What a study compares; its file has these keys.

    Raises:
        UserError: There is no arm, a name is none of an arm, or a seed is none.
    """

    arms: dict[str, list[str]]
    """The overrides of each arm. `temperature.like=@NAME` is the run folder of arm NAME, of the
    same pair and seed, which is run before."""
    about: str = ""
    """What it asks, in a line."""
    extends: str | None = None
    """A packaged study, whose keys this one has but for those it gives itself; arms are added."""
    settings: list[str] = field(default_factory=list[str])
    """Overrides of every run."""
    pairs: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    """The overrides of each pair of networks; none for one pair, that of `settings`."""
    baseline: str | None = None
    """The arm that the others are compared with; None for the first, as in a part without it."""
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    """The seeds of every arm."""
    more_seeds: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    """Those that some arms have beside them."""

    def __post_init__(self) -> None:
        if not self.arms:
            raise UserError("arms={}: give each arm its overrides")
        self.baseline = self.baseline or next(iter(self.arms))
        for arm in (self.baseline, *self.more_seeds, *map(self.followed, self.arms)):
            if arm is not None:
                require_one_of("arm", [arm], self.arms)
        for arm, given in self.arms.items():
            followed = self.followed(arm)
            if followed is not None and self.followed(followed) is not None:
                raise UserError(
                    f"arm={arm} follows {followed}, which follows another: name one arm"
                )
            odd = [each for each in given if "=@" in each and not each.startswith(_FOLLOWED)]
            if odd:
                raise UserError(f"arm={arm}: {odd[0]}: only {_FOLLOWED}ARM is the folder of an arm")
        if not self.seeds:
            raise UserError("seeds=[]: give whole numbers, such as seeds=[0,1,2]")
        for seed in (*self.seeds, *(each for more in self.more_seeds.values() for each in more)):
            arguments.seed("seeds", seed)

    @property
    def chosen(self) -> frozenset[str]:
        """The settings, and groups of them, that the name of an arm or a pair stands for."""
        lists = (*self.arms.values(), *self.pairs.values())
        keys = {each.lstrip("+~").partition("=")[0] for given in lists for each in given}
        return frozenset(keys.union(_BY_EXPERIMENT if "experiment" in keys else ()))

    def followed(self, arm: str) -> str | None:
        """Return the arm whose run folder an arm reads; None for an arm that reads none."""
        found = (each for each in self.arms[arm] if each.startswith(_FOLLOWED))
        return next((each.removeprefix(_FOLLOWED) for each in found), None)

    def seeds_of(self, arm: str) -> list[int]:
        """Return the seeds of an arm."""
        return [*self.seeds, *self.more_seeds.get(arm, ())]


def read_study(name: str) -> Study:
    """Return a study by its name, or from a file of one's own.

    Args:
        name: one of `rlkd ls study`, or a path that ends in .yaml.

    Raises:
        UserError: There is no such study, or the file is none.
    """
    path = Path(name) if name.endswith(".yaml") else _packaged(name)
    try:
        return read_options(Study, _extended(path), "")
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _extended(path: Path, *, deep: int = 0) -> DictConfig:
    held = read_config(path, _REMEDY)
    if held.get("extends") is None:
        return held
    if deep > len(options(STUDY)):
        raise UserError(f"extends={held.extends}: it extends itself")
    merged = OmegaConf.merge(_extended(_packaged(str(held.extends)), deep=deep + 1), held)
    assert isinstance(merged, DictConfig)
    return merged


def _packaged(name: str) -> Path:
    known = options(STUDY)
    if name not in known:
        hint = did_you_mean(name, known)
        raise UserError(f"study={name}: {hint}one of {', '.join(known)}, or a file NAME.yaml")
    return packaged(STUDY, name)


def plan_study(overrides: Iterable[str]) -> tuple[Study, list[Planned]]:
    """Return a study and its runs, or those of a part of it: seeds last, arms first.

    All of them hold the same images out of training, whatever the part: as many as the largest
    probe of any arm has.

    Args:
        overrides: `study=NAME`; `arm=A,B`, `pair=A,B` and `seed=0,1` for a part of it;
            `teachers=DIR`, where the weights of each pair's teacher have its name; `output=DIR`;
            and settings of every run.

    Raises:
        UserError: There is no such study, arm, pair or teacher; an arm is asked for without the one
            that it follows; or an arm does not compose.
    """
    own, others = dict[str, str](), list[str]()
    for each in overrides:
        key, _, value = each.partition("=")
        if key in _WORDS:
            own[key] = value
        else:
            others.append(each)
    study = read_study(own[STUDY])
    arms = _asked(own, "arm", study.arms)
    pairs = _asked(own, "pair", study.pairs) or [None]
    for arm in arms:
        followed = study.followed(arm)
        if followed not in (None, *arms):
            raise UserError(f"arm={arm} follows the runs of {followed}: give arm={followed},{arm}")
    seeds = _seeds(own["seed"]) if "seed" in own else None
    folder = Path(path_value("output", own.get("output")) or f"runs/{Path(own[STUDY]).stem}")
    teachers = path_value("teachers", own.get("teachers"))

    @cache
    def composed(arm: str, pair: str | None) -> DictConfig:
        networks = [] if pair is None else study.pairs[pair]
        config = configure([*study.settings, *networks, *others, *study.arms[arm]])
        if teachers is not None and config.teacher.name is not None:
            config.teacher.checkpoint = _weights(Path(teachers), config.teacher.name)
        return config

    def planned(arm: str, pair: str | None, seed: int) -> Planned:
        labels = ({} if pair is None else {"pair": pair}) | {"arm": arm}
        config, follows = composed(arm, pair).copy(), None
        config.seed = seed
        take_place(config, folder, labels, seed)
        if followed := study.followed(arm):
            follows = named_run(folder, labels | {"arm": followed}, seed)
            config.temperature.like = str(follows)
        return Planned(labels, config, follows)

    every = sorted({each for arm in arms for each in study.seeds_of(arm)})
    for seed in seeds or ():
        if seed not in every:
            listed = ", ".join(map(str, every))
            raise UserError(
                f"seed={seed}: these arms have seeds {listed}, and a study has no others"
            )
    runs = [
        planned(arm, pair, seed)
        for seed in seeds or every
        for pair in pairs
        for arm in arms
        if seed in study.seeds_of(arm)
    ]
    if "probe.size" not in study.chosen:
        largest = max(probe_options(composed(arm, pairs[0]).probe).size for arm in study.arms)
        for run in runs:
            run.config.probe.size = largest
    return study, runs


def require_one_of(word: str, names: Iterable[str], known: Collection[str]) -> None:
    """Refuse a name that is none of a study's.

    Raises:
        UserError: naming the nearest.
    """
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known)
            choices = f"{hint}one of {', '.join(known)}" if known else f"the study has no {word}s"
            raise UserError(f"{word}={name}: {choices}")


def _asked(own: Mapping[str, str], word: str, known: Mapping[str, object]) -> list[str]:
    if word not in own:
        return list(known)
    names = own[word].split(",")
    require_one_of(word, names, known)
    return [each for each in known if each in names]


def _seeds(given: str) -> list[int]:
    if not all(each.isdecimal() for each in given.split(",")):
        raise UserError(f"seed={given}: give whole numbers, such as seed=0,1,2")
    seeds = list(dict.fromkeys(map(int, given.split(","))))
    for each in seeds:
        arguments.seed("seed", each)
    return seeds


def _weights(folder: Path, name: str) -> str:
    for ending in _WEIGHTS:
        if (folder / f"{name}{ending}").is_file():
            return str(folder / f"{name}{ending}")
    raise UserError(
        f"teachers={folder}: no {name}{_WEIGHTS[0]} there, nor {', '.join(_WEIGHTS[1:])}"
    )
