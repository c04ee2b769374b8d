"""Kind `folders`: the folder of a run that has ended, one of its files spoilt, and who reads it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import yaml

from rlkd.reporting import read_run

from . import command_line, images
from .command import check_result, command
from .command_line import SHORT, SMALL
from .json_values import DEEP, spoil, spoilt_json
from .values import spoilt_bytes, spoilt_text
from .verdict import Case, FailedError, Place

TEXTS = (
    "config.yaml",
    "config.yaml",
    "config.yaml",
    "result.json",
    "images.json",
    "metrics.csv",
    "policy.json",
    "class_names.json",
)
OTHERS = (
    "student.safetensors",
    "report.html",
    "checkpoints",
    "checkpoints/SHA256SUMS",
    "tensorboard",
)
AGENT = [*(each for each in SMALL if not each.startswith("temperature")), "temperature=rlkd"]
COMPARED = ["compare", *SMALL, SHORT, "temperature=constant,random", "output=c"]


def prepare(shared: Path) -> None:
    """Train a teacher; distil a run with an agent; compare two."""
    command_line.prepare(shared)
    teacher = f"teacher.checkpoint={shared}/teacher/student.safetensors"
    command(["distill", *AGENT, SHORT, teacher, "output=agent"])
    command([*COMPARED, teacher])


def calls(mark: str) -> tuple[dict[str, Any], ...]:
    """Return calls of code that is not ours, each of which would write a file.

    Args:
        mark: the file.
    """
    return (
        {"_target_": "os.system", "command": f"touch {mark}"},
        {"_target_": "builtins.open", "file": mark, "mode": "w"},
        {"_target_": "distutils.spawn.spawn", "cmd": ["touch", mark]},
        {"_target_": "shutil.copy", "src": "/etc/hostname", "dst": mark},
        {"_target_": "subprocess.run", "args": ["touch", mark]},
        {"_target_": "pathlib.Path.touch", "self": mark},
        {"_target_": "os.mkdir", "path": mark},
        {"_target_": "builtins.eval", "_args_": [f"open({mark!r}, 'w')"]},
        {"_target_": "hydra.utils.instantiate", "config": {"_target_": "os.mkdir", "path": mark}},
        {
            "_target_": "hydra.utils.call",
            "config": {"_target_": "builtins.open", "file": mark, "mode": "w"},
        },
        {
            "_target_": "torch.hub.load",
            "repo_or_dir": str(Path(mark).parent),
            "model": "x",
            "source": "local",
        },
        {"_target_": "torch.save", "obj": [], "f": mark},
        {"_target_": "torch.utils.cpp_extension.load", "name": "x", "sources": []},
        {"_target_": "rlkd.text_files.write_text", "path": mark, "text": "x"},
        {"_target_": "rlkd.engine.run.os.mkdir", "path": mark},
        {"_target_": "torch.os.mkdir", "path": mark},
        {"_target_": "torch.serialization.os.system", "command": f"touch {mark}"},
        {"_target_": "timm.models._hub.os.mkdir", "path": mark},
        {"_target_": "torchvision.datasets.utils.os.mkdir", "path": mark},
        {
            "_target_": "functools.partial",
            "_args_": [{"_target_": "builtins.open", "file": mark, "mode": "w"}],
        },
    )


def calling(number: int, place: Place) -> Case:
    """Return a run whose configuration makes one of `calls` of its data, to evaluate."""
    folder, call = place.given / "r", calls(_mark(place))[number]
    shutil.copytree(place.shared / "agent", folder)
    held = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    (folder / "config.yaml").write_text(yaml.safe_dump(held | {"data": call}), encoding="utf-8")

    def act() -> str:
        command(["evaluate", f"run={folder}"])
        raise FailedError("nonsense", f"{call} was taken for data", "a call was taken for data")

    return Case(str(call), act)


def _mark(place: Place) -> str:
    return str(place.given / "written-by-a-config")


def _with_target(draw: Random, place: Place, held: dict[str, Any]) -> str:
    """Put code of somebody's into a configuration, in the place of a section or in it."""
    call = draw.choice(calls(_mark(place)))
    section = draw.choice(
        ("data", "optimizer", "scheduler", "temperature", "task", "method", "student")
    )
    if section == "student":
        held["student"]["name"] = draw.choice(
            ("os:mkdir", "builtins:open", "os:system", "torch.hub:load")
        )
    elif draw.random() < 0.6:
        held[section] = {**call, **({"_partial_": True} if draw.random() < 0.2 else {})}
    else:
        held[section]["x"] = call
    return f"{section} {call['_target_']}"


def _json(text: str) -> Any:
    """Return what JSON says; None where it was spoilt before."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def _mapping(text: str) -> bool:
    try:
        return isinstance(yaml.safe_load(text), dict)
    except (yaml.YAMLError, RecursionError, ValueError):
        return False


def _spoil(draw: Random, place: Place, folder: Path) -> str:
    """Spoil one file of a run's folder; say how."""
    if draw.random() < 0.25:
        path = folder / draw.choice(OTHERS)
        what = draw.choice(("gone", "bytes", "special", "another's"))
        if not path.exists():
            return "in order"
        if what == "bytes" and path.is_file():
            path.write_bytes(spoilt_bytes(draw, path.read_bytes()))
        elif what == "another's" and path.suffix == ".safetensors":
            shutil.copy(place.shared / "images" / "0.png", path)
        else:
            _remove(path)
            if what == "special":
                images.special(path, what := draw.choice(images.SPECIAL))
        return f"{path.name} {what}"
    path = folder / draw.choice([each for each in TEXTS if (folder / each).is_file()])
    text = path.read_text(encoding="utf-8", errors="replace")
    what = draw.choice(
        ("values", "values", "values", "text", "bytes", "deep", "special", "gone", "code")
    )
    if what in ("values", "code") and path.suffix == ".yaml" and not _mapping(text):
        what = "bytes"  # of a file that is spoilt already
    if what == "code" and path.suffix == ".yaml":
        held = yaml.safe_load(text)
        what = f"code: {_with_target(draw, place, held)}"
        path.write_text(yaml.safe_dump(held))
    elif what in ("values", "code") and path.suffix == ".yaml":
        held = yaml.safe_load(text)
        spoil(draw, held)
        path.write_bytes(yaml.safe_dump(held).encode("utf-8", "surrogatepass"))
    elif what == "values" and path.suffix == ".json":
        held = _json(text)
        path.write_bytes(spoilt_json(draw, held).encode("utf-8", "surrogatepass"))
    elif what == "bytes":
        path.write_bytes(spoilt_bytes(draw, text.encode()))
    elif what == "deep":
        path.write_text(
            draw.choice(
                (
                    DEEP,
                    "{a: " * 3000,
                    "- " * 5000,
                    "9" * 6000,
                    "a: &a [*a]\n",
                    "a: &a {b: *a}\n",
                    _laughs(),
                    "\ufeff" + text,
                    "\0",
                    "a: !!python/object/apply:os.getcwd []\n",
                    text + text,
                )
            )
        )
    elif what == "special":
        path.unlink()
        images.special(path, what := draw.choice(images.SPECIAL))
    elif what == "gone":
        path.unlink()
    else:
        path.write_bytes(spoilt_text(draw, text).encode("utf-8", "surrogatepass"))
    return f"{path.name} {what}"


def _laughs() -> str:
    """Return YAML that is a billion values once its references are followed."""
    lines = ['a0: &a0 ["x"]']
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    return "\n".join(lines)


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def make(draw: Random, place: Place) -> Case:
    """Draw what is spoilt, and which verb meets it."""
    by = draw.choice(
        ("evaluate", "evaluate", "predict", "export", "read", "again", "compare", "like")
    )
    shared, teacher = place.shared, f"teacher.checkpoint={place.shared}/teacher/student.safetensors"
    writes = by in ("again", "compare")
    folder = (place.out if writes else place.given) / ("c" if by == "compare" else "r")
    if by == "compare":
        shutil.copytree(shared / "c", folder)
        run = draw.choice(sorted(each for each in folder.iterdir() if each.is_dir()))
    else:
        shutil.copytree(shared / "agent", folder)
        run = folder
    words = "; ".join(_spoil(draw, place, run) for _ in range(draw.choice((1, 1, 1, 2))))
    given = {
        "evaluate": ["evaluate", f"run={folder}"],
        "predict": ["predict", f"run={folder}", f"images={shared}/images", "output=p"],
        "export": ["export", f"run={folder}", "format=safetensors", "to=x/x.safetensors"],
        "again": ["distill", *AGENT, SHORT, teacher, "output=r"],
        "compare": [*COMPARED, teacher],
        "like": [
            "distill",
            *SMALL,
            SHORT,
            teacher,
            "temperature=random",
            f"temperature.like={folder}",
            "output=o",
        ],
    }

    def read() -> str:
        return str(read_run(folder).result)[:200]

    def act() -> str:
        printed = command(given[by])
        if by in ("again", "like"):
            return check_result(Path("r" if by == "again" else "o"))
        if by == "compare":
            return "; ".join(check_result(each.parent) for each in folder.glob("*/result.json"))
        return printed

    chosen: Callable[[], str] = read if by == "read" else act
    return Case(f"{by}: {words}", chosen)
