"""Kind `commands`: overrides of every setting and every group, for every verb."""

import shutil
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from random import Random

from omegaconf import DictConfig, OmegaConf

from rlkd.config.compose import GROUPS, options
from rlkd.config.settings import NETWORKS

from .command import check_result, command
from .values import spoilt_text, value
from .verdict import Case, Place

_PACKAGED = Path(str(files("rlkd.configs")))
SMALL = [
    *("data.limit=64", "trainer.epochs=1", "trainer.threads=1", "trainer.accelerator=cpu"),
    *("probe.size=16", "temperature=constant", "student=convnet_tiny", "teacher=convnet_tiny"),
]
"""What makes a run end in a third of a second."""
TRAINS = ("distill", "train", "compare")
VERBS = (
    *("show", "show", *TRAINS, *TRAINS, *TRAINS, "distill", "distill", "evaluate", "predict"),
    *("export", "evaluate", "predict", "export", "ls", "demo", "nothing"),
)
SHORT = "trainer.max_steps=2"
"""Goes after what is drawn, so that no number of epochs is a long run."""
_NOT_HERE = ("trainer.compile", "data.download", "launcher.cluster", "data.memory_limit_gib")
"""Settings that would compile, download or start processes, as they should."""
TARGETS = (
    *("os.system", "subprocess.run", "builtins.open", "builtins.eval", "builtins.exec", "os.mkdir"),
    *(
        "shutil.copy",
        "shutil.rmtree",
        "pathlib.Path.touch",
        "distutils.spawn.spawn",
        "torch.hub.load",
    ),
    *(
        "importlib.import_module",
        "webbrowser.open",
        "torch.load",
        "rlkd.nothing",
        "nothing.at.all",
        "os",
    ),
    *(
        "torch.optim.Adam",
        "torch.optim.LBFGS",
        "rlkd.TemperatureAgent",
        "rlkd.losses.kd",
        "builtins.dict",
        "",
    ),
    *(
        "torch.nn.Linear",
        "torch.optim.lr_scheduler.StepLR",
        "rlkd.data.datasets.digits",
        "builtins.print",
        "5",
    ),
)


NETWORK_NAMES = (
    *("os:system", "builtins:exec", "torch.nn:Linear", "timm:", "torchvision:resnet18", "timm:x"),
    *("torchvision:x", "x:y", ":", "a:b:c", "5", "os:", ":x", "rlkd:distill", "torch:zeros"),
)
_SECTIONS = ("optimizer", "scheduler", "temperature", "data", "task", "method.terms.kd.loss")
OF_A_RUN = ("evaluate", "predict", "export")


def prepare(shared: Path) -> None:
    """Train a teacher, and distil a run."""
    command(["train", *SMALL, SHORT, "output=teacher"])
    command(
        [
            "distill",
            *SMALL,
            SHORT,
            f"teacher.checkpoint={shared}/teacher/student.safetensors",
            "output=run",
        ]
    )
    images = shared / "images"
    images.mkdir()
    from PIL import Image

    for number in range(2):
        Image.new("L", (8, 8), 40 * number).save(images / f"{number}.png")


@cache
def keys() -> tuple[tuple[str, str], ...]:
    """Return every setting of every option of every group, each with the words that bring it."""
    found = [("", each) for each in _keys(OmegaConf.load(_PACKAGED / "config.yaml"))]
    for file in sorted(_PACKAGED.glob("*/*.yaml")):
        group, whole = file.parent.name, "@package _global_" in file.read_text(encoding="utf-8")
        words = f"{group}={file.stem}"
        if group != "launcher" or file.stem != "local":
            held = _keys(OmegaConf.load(file))
            words = "" if group == "launcher" else words
            found += [(words, each if whole else f"{group}.{each}") for each in held]
    own = [("", f"{role}.{key}") for role, names in NETWORKS.items() for key in names]
    return tuple(each for each in (*found, *own) if each[1] not in _NOT_HERE)


def _keys(config: DictConfig) -> Iterator[str]:
    for key, each in config.items_ex(resolve=False):
        if key != "defaults":
            yield str(key)
            if OmegaConf.is_dict(each):
                yield from (f"{key}.{below}" for below in _keys(each))


@cache
def known(group: str) -> tuple[str, ...]:
    """Return what a group may be set to; of networks, those that are quickly made."""
    slow = ("resnet110", "resnet56", "wrn_40_2", "fasterrcnn", "shuffle", "mobilenet", "resnet50")
    every = options(group)
    return tuple(each for each in every if group != "student" or not each.lower().startswith(slow))


def make(draw: Random, place: Place) -> Case:
    """Draw a verb and its words."""
    verb = draw.choice(VERBS)
    words = _start(draw, place, verb)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        words += _override(draw, verb)
    if draw.random() < 0.03:
        words.append(
            draw.choice(("--debug", "--multirun", "-m", "--help", "-h", "--version", "-x"))
        )
    if verb in TRAINS:
        words += [SHORT] if not any("max_steps" in each for each in words) else []
    arguments = [verb, *words]
    if draw.random() < 0.02:
        arguments[draw.randrange(len(arguments))] = value(draw)

    def act() -> str:
        printed = command(arguments)
        if verb in TRAINS:
            results = [check_result(each.parent) for each in place.out.rglob("result.json")]
            return "; ".join(results) or printed
        return printed

    return Case(" ".join(map(ascii, arguments)), act)


def _start(draw: Random, place: Place, verb: str) -> list[str]:
    shared = place.shared
    if verb in TRAINS:
        small = list(SMALL)
        if verb != "train":
            small.append(f"teacher.checkpoint={shared}/teacher/student.safetensors")
        if verb == "compare":
            small.append(draw.choice(("temperature=constant,random", "seed=0,1", "method=kd,dkd")))
        return [*small, "output=o"]
    if verb in ("evaluate", "predict", "export"):
        shutil.copytree(shared / "run", place.out / "r")  # where predictions go by default
        words = ["run=r"]
        words += [f"images={shared}/images", "output=p"] if verb == "predict" else []
        words += ["format=safetensors", "to=x.safetensors"] if verb == "export" else []
        if draw.random() < 0.3:
            words.pop(draw.randrange(len(words)))
        return words
    if verb == "demo":
        return ["seeds=0", "output=o", "trainer.epochs=1", SHORT, "data.limit=200", "probe.size=16"]
    return []


def _override(draw: Random, verb: str) -> list[str]:
    kind = draw.random()
    own = {"predict": ("run", "images", "output", "threshold", "skip_unreadable")}
    own["export"], own["evaluate"] = ("run", "format", "to"), ("run",)
    own["demo"], own["compare"] = ("seeds", "output"), ("baseline", "launcher")
    own |= dict.fromkeys(("distill", "train"), ("output", "configs"))
    if kind < 0.1 and verb in own:
        return [f"{draw.choice(own[verb])}={value(draw)}"]
    if kind < 0.2:
        group = draw.choice(GROUPS)
        return [f"{group}={draw.choice(known(group))}"]
    words, key = draw.choice(keys())
    if verb in OF_A_RUN and draw.random() < 0.9:
        words, key = draw.choice([each for each in keys() if not each[0]])
    brought = [words] if words and draw.random() < 0.95 else []
    if kind < 0.26:
        top, prefix = key.partition(".")[0], draw.choice(("~", "+", "++", ""))
        given = draw.choice(("", "=", "=null", "={}", "=[]", "=5"))
        return [*brought, f"{prefix}{draw.choice((top, key))}{given}"]
    if kind < 0.34:
        section = draw.choice((*_SECTIONS, key.rpartition(".")[0] or key))
        return [f"{draw.choice(('', '+', '++'))}{section}._target_={draw.choice(TARGETS)}"]
    if kind < 0.38:
        network = draw.choice(("student", "teacher"))
        return [f"{network}{draw.choice(('', '.name'))}={draw.choice(NETWORK_NAMES)}"]
    if kind < 0.42:
        key = spoilt_text(draw, key)[:200]
    prefix = draw.choice(("+", "++", "~")) if draw.random() < 0.1 else ""
    return [*brought, f"{prefix}{key}={value(draw)}"]
