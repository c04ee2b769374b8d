"""Finds the callable that a name stands for, or raises an error that lists the nearest names."""

import importlib
import sys
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

from torch import nn

from rlkd.errors import UserError, nearest, one_line
from rlkd.trust import TRUST, found, is_defined_in


def built(name: str, factory: Callable[..., Any], arguments: dict[str, Any]) -> nn.Module:
    """Return the network that a factory builds.

    Raises:
        UserError: if it does not take these arguments, or returns no network.
    """
    try:
        network = factory(**arguments)
    except TypeError as error:
        given = ", ".join(arguments)
        raise UserError(f"model '{name}' does not take the arguments {given}: {error}") from error
    except UserError:
        raise
    except Exception as error:  # a user's own factory may raise anything
        raise UserError(
            f"model '{name}' does not build: {type(error).__name__}: {one_line(error)}"
        ) from error
    if not isinstance(network, nn.Module):
        raise UserError(
            f"model '{name}' returned a {type(network).__name__}; return a torch.nn.Module"
        )
    return network


def timm_factory(name: str, architecture: str, *, forms: str) -> Callable[..., Any]:
    """Return the callable that builds timm's network, without its published weights.

    Args:
        name: what the user wrote, for messages.
        architecture: as timm calls it.
        forms: the names that are allowed, for messages.

    Raises:
        UserError: if timm is not installed, or has no such network.
    """
    try:
        timm = importlib.import_module("timm")
    except ImportError as error:
        raise UserError(f"model '{name}' needs timm ({error}): pip install timm") from error
    known: list[str] = timm.list_models()
    prefix = name.removesuffix(architecture)
    # "resnet18.a1_in1k" names published weights too; only `pretrained` loads them.
    base, _, weights = architecture.partition(".")
    if base not in known:
        raise unknown_name(name, [f"{prefix}{each}" for each in known], forms=forms)
    tagged: list[str] = timm.list_pretrained(f"{base}.*")
    if weights and architecture not in tagged:
        raise unknown_name(name, [f"{prefix}{each}" for each in tagged], forms=forms)
    return partial(timm.create_model, architecture, pretrained=False)


def imported(
    name: str,
    module_name: str,
    attribute: str,
    trusted: Collection[str] | None,
    *,
    rooms: Collection[str] = (),
    forms: str,
) -> Callable[..., Any]:
    """Return a module's callable.

    Args:
        name: what the user wrote, for messages.
        module_name: such as "package.module".
        attribute: the callable's name in it.
        trusted: the packages whose code may be called; None for all.
        rooms: packages whose code may be called in any case, with the arguments that it is given.
        forms: the names that are allowed, for messages.

    Raises:
        UserError: if there is no such module, or none such in it, if it cannot be called, or is not
            to be called.
    """
    if not all(part.isidentifier() for part in (*module_name.split("."), attribute)):
        raise UserError(f"model '{name}' is not of an allowed form; give {forms}")
    allowed = (module_name,) if trusted is None else trusted
    factory = found(name, module_name, attribute, allowed, where="model")
    if factory is None:
        known = [
            f"{module_name}:{each}" for each in vars(sys.modules[module_name]) if each[0] != "_"
        ]
        raise unknown_name(name, known, forms=forms)
    if not callable(factory):
        raise UserError(f"model '{name}' is a {type(factory).__name__}; give a function or class")
    if trusted is not None and not is_defined_in(factory, (*trusted, *rooms)):
        allowed_rooms = ", ".join((*rooms, f"a package that {TRUST}=... names"))
        raise UserError(f"model '{name}' is no factory of {allowed_rooms}")
    return factory


def unknown_name(name: str, known: Sequence[str], *, forms: str) -> UserError:
    """Return the error that names the nearest of the known names, and the forms of a name."""
    near = " or ".join(f"'{each}'" for each in nearest(name, known))
    hint = f"; did you mean {near}?" if near else "."
    return UserError(f"model '{name}' is unknown{hint} Give {forms}")
