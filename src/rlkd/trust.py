"""Whose code a name in a configuration may lead to.

A configuration names code, `_target_: mine.cosine.Cosine` or `student=mine.net:build`, and may come
from somebody else: in a run folder, in a folder of groups. What it names is therefore looked for in
the packages of `ROOTS` and in those that the user trusts by name on the command line,
`trust=mine`. No other module is even imported. In the packages of `ROOTS` what is found must
moreover be of the kind that the place is for, see `training.parts`; of a trusted package it may be
anything that the package itself defines.

A name is a module and what that module has at its top. So it cannot lead through a module that
another one imported (`torch.os.system`: there is no module `torch.os`), and what a trusted package
merely imported (`mine.run`, of subprocess) is known by where it was defined, and refused.
"""

import importlib
import sys
from collections.abc import Collection
from importlib.util import find_spec

from rlkd.errors import UserError, one_line

ROOTS = ("rlkd", "torch", "torchvision", "timm", "transformers")
"""The packages in which names are looked for without being trusted by the user."""
TRUST = "trust"
"""The word of the command line that names further packages."""


def packages(given: str) -> list[str]:
    """Return the packages that the value of `trust=` names.

    Args:
        given: such as "mine" or "mine.losses,other", with or without brackets.

    Raises:
        UserError: for what is no name of a package, for a package that is not there, and for one of
            Python or of `ROOTS`: in those there is code that writes and runs whatever it is given.
    """
    named = [each.strip() for each in given.strip().removeprefix("[").removesuffix("]").split(",")]
    for each in named:
        if not _is_name(each):
            raise UserError(f"{TRUST}={given}: give packages of your own, {TRUST}=mine,another")
        if _is_general(each):
            raise UserError(
                f"{TRUST}={given}: {each} has code that runs and writes whatever it is given; give "
                "packages of your own"
            )
        root = each.partition(".")[0]
        if root not in sys.modules and find_spec(root) is None:
            raise UserError(
                f"{TRUST}={given}: there is no package {root}; install it, or add its folder to "
                "PYTHONPATH"
            )
    return named


def require_trusted(name: str, module: str, trusted: Collection[str], *, where: str) -> None:
    """Refuse to look for what a configuration names in anybody's module.

    Args:
        name: as it is written, for messages.
        module: where it is to be looked for.
        trusted: the packages that the user trusts.
        where: what named it, for messages.

    Raises:
        UserError: if the module is neither trusted nor a public one of `ROOTS`.
    """
    if not _is_name(module):
        raise UserError(f"{where}={name}: give a name in a module, such as rlkd.losses.kd")
    public = not any(part.startswith("_") for part in module.split("."))
    if _within(module, trusted) or (public and _within(module, ROOTS)):
        return
    if _is_general(module):
        raise UserError(f"{where}={name}: no part of a run is made of that")
    raise UserError(
        f"{where}={name} is code from outside, which runs only if you trust it: where you know "
        f"whose it is, add {TRUST}={module.partition('.')[0]}"
    )


def found(
    name: str, module: str, attribute: str, trusted: Collection[str], *, where: str
) -> object | None:
    """Return what a configuration names; None where the module has nothing of the name.

    Args:
        name: as it is written, for messages.
        module: where to look; it is imported.
        attribute: what it has at its top.
        trusted: the packages that the user trusts.
        where: what named it, for messages.

    Raises:
        UserError: if the module is not to be looked in, or cannot be imported.
    """
    require_trusted(name, module, trusted, where=where)
    try:
        imported = importlib.import_module(module)
    except Exception as error:  # whatever a module of somebody's own raises
        said = one_line(error)
        kind = "" if isinstance(error, ImportError) else f"{type(error).__name__}: "
        remedy = "" if _is_general(module) else "; install it, or add its folder to PYTHONPATH"
        raise UserError(
            f"{where}={name}: cannot import '{module}' ({kind}{said}){remedy}"
        ) from error
    return getattr(imported, attribute, None)


def is_defined_in(thing: object, rooms: Collection[str]) -> bool:
    """Return whether a class or function is defined in one of these packages or modules."""
    module: object = getattr(thing, "__module__", None)
    return isinstance(module, str) and _within(module, rooms)


def _within(module: str, rooms: Collection[str]) -> bool:
    return any(module == each or module.startswith(f"{each}.") for each in rooms)


def _is_name(module: str) -> bool:
    return all(part.isidentifier() for part in module.split("."))


def _is_general(module: str) -> bool:
    root = module.partition(".")[0]
    return root in ROOTS or root in sys.stdlib_module_names
