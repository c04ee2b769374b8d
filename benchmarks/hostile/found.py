"""Inputs that once ended in a traceback, a hang or worse: each is tried again, by name."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

from . import command_line, folders, images, numbers, sources
from .command import check_result, command
from .command_line import SHORT, SMALL
from .kinds import Kind
from .verdict import Case, Place

SETTINGS = {
    "a folder named by a year": ["output=2024"],
    "a checkpoint that is a number": ["teacher.checkpoint=12"],
    "a network that is a number": ["student.name=5"],
    "a variable that is not set": ["optimizer.lr=${oc.env:UNSET_HERE}"],
    "the home of nobody": ["output=~nobody-at-all/x"],
    "a name too long": [f"output={'é' * 300}"],
    "no exploration": ["exploration=null"],
    "no trainer": ["trainer=null"],
    "a term that is a text": ["method.terms.kd=abc"],
    "a scheduler of another signature": ["scheduler._target_=torch.optim.lr_scheduler.LambdaLR"],
    "a gamma beyond all": ["scheduler.gamma=1e30"],
    "a decay that is true": ["optimizer.weight_decay=true"],
    "a huge seed": ["seed=99999999999999999999"],
    "a number of 5,000 digits": [f"seed={'9' * 5000}"],
    "a list of 800 lists": [f"data.mean={'[' * 800}"],
    "a loss of no class": ["method=fitnet", "method.terms.fitnet.loss._target_=null"],
    "a loss of a number's class": ["method=dkd", "method.terms.dkd.loss._target_=5"],
    "no minibatches": ["temperature=rlkd", "temperature.minibatches=0"],
    "half a minibatch": ["temperature=rlkd", "temperature.minibatches=2.5"],
    "no epochs of the agent": ["temperature=rlkd", "+temperature.epochs=0"],
    "an interval that is NaN": ["temperature=rlkd", "temperature.update_interval=nan"],
    "a probe never": ["temperature=rlkd", "temperature.probe_interval=inf"],
    "a buffer of nothing": ["temperature=rlkd", "+temperature.calibration_buffer=0"],
    "markup in the output": ["output=o/[/b]x"],
    "an escape in the output": ["output=o/\x1b[2Jx"],
    "a learning rate that is NaN": ["optimizer.lr=nan"],
    "a band that is NaN": ["temperature=rlkd", "exploration.mixed=[nan,nan]"],
}
"""Overrides of a run of digits."""

REFUSED = frozenset(
    {
        "no minibatches",
        "half a minibatch",
        "no epochs of the agent",
        "an interval that is NaN",
        "a probe never",
        "a buffer of nothing",
        "a decay that is true",
        "a huge seed",
        "a number of 5,000 digits",
        "a name too long",
        "a network that is a number",
        "a learning rate that is NaN",
        "a band that is NaN",
    }
)
"""Those that make no sense, whatever a run of two steps makes of them."""
SEEDS = {
    "checkpoints": (1002, 1011, 1037, 1038, 1048),
    "coco": (2013, 2024, 300415),
    "folders": (2016, 2019, 2030, 200277),
    "numbers": (
        2002,
        2004,
        2011,
        2015,
        2018,
        2021,
        2023,
        2033,
        2041,
        2048,
        2049,
        200243,
        201095,
        201847,
        202302,
        202364,
    ),
    "parquet": (5, 37, 47, 49),
    "tar": (2038, 2049),
}
"""Inputs of the long form that failed, one of each root.

Whoever changes how a kind draws changes what they are."""


def _run(words: list[str], draw: Random, place: Place) -> Case:
    given = [*SMALL, f"teacher.checkpoint={place.shared}/teacher/student.safetensors", "output=o"]

    def act() -> str:
        command(["distill", *given, SHORT, *words])
        return "; ".join(check_result(each.parent) for each in place.out.rglob("result.json"))

    return Case(" ".join(map(ascii, words)), act)


def _image(write: Callable[[Path], object], draw: Random, place: Place) -> Case:
    write(place.given / "a.png")
    given = [f"run={place.shared}/run", f"images={place.given}", "output=p"]
    return Case("an image", lambda: images.predicted(given))


def _known(content: Callable[[], bytes], path: Path) -> None:
    path.write_bytes(content())


def _special(what: str, path: Path) -> None:
    images.special(path, what)


def _folder(number: int, draw: Random, place: Place) -> Case:
    return folders.calling(number, place)


def _cases() -> dict[str, Kind]:
    found = {
        name: Kind(command_line.prepare, partial(_run, words)) for name, words in SETTINGS.items()
    }
    writers = {name: partial(_known, content) for name, content in images.KNOWN.items()}
    writers |= {name: partial(_special, name) for name in images.SPECIAL}
    found |= {
        f"image: {name}": Kind(images.prepare, partial(_image, write))
        for name, write in writers.items()
    }
    for number, call in enumerate(folders.calls("")):
        name = f"config.yaml calls {call['_target_']} ({number})"
        found[name] = Kind(folders.prepare, partial(_folder, number))
    found |= {
        f"numbers: {name}": Kind(numbers.prepare, make) for name, make in sources.FOUND.items()
    }
    return found


FOUND = _cases()
