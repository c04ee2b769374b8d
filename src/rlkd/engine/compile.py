"""`torch.compile` of the parts of a step, in place: names and state dicts stay as they are."""

import torch
from torch import Tensor

from rlkd.config.options import TrainerOptions
from rlkd.data import MemoryLoader
from rlkd.engine.module import StudentModule
from rlkd.errors import UserError

_BACKEND = "inductor"
_MOST_GRAPHS = 1024
"""Of a run; torch's own limit is 8."""
_RECORDING = ("reduce-overhead", "max-autotune")
"""The modes in which torch records CUDA graphs."""


def compiled(
    module: StudentModule, options: TrainerOptions, *, teacher: bool = True
) -> StudentModule:
    """Have a module's student and teacher compiled at their first call, where the options say so.

    In a mode that records CUDA graphs so are losses and figures, and, not recorded, the making of
    batches that are held in memory: small kernels, which a GPU does faster than a host launches
    them. The temperatures, which are set between networks and losses, stay out: there a source may
    learn, and decides on the host when it does. So does the optimiser, whose kernels are few.

    Every shape of batch and every way of calling (training, evaluation, the scoring of a reward)
    gets a graph of its own: what a graph computes does not depend on which came before it, so that
    a resumed run computes what the unbroken one would have. Hooks on modules that are there by now
    are compiled along; later ones are not seen.

    Args:
        module: its parts are changed.
        options: of the run.
        teacher: whether the teacher is; it is not where it sees batches of many sizes.

    Raises:
        UserError: if nothing can be compiled here.
    """
    if not options.compile:
        return module
    mode = "default" if options.compile is True else options.compile
    _require_compiler(options.device)
    from torch._dynamo import config as dynamo  # takes a second, which few runs need

    # Past these limits, which all networks of a process share, what is new would not be compiled.
    torch.compiler.reset()
    for limit in ("recompile_limit", "accumulated_recompile_limit"):
        setattr(dynamo, limit, max(getattr(dynamo, limit), _MOST_GRAPHS))
    for network in (module.student, module.teacher if teacher else None):
        if network is not None:
            network.compile(backend=_BACKEND, mode=mode, dynamic=False)
    if mode in _RECORDING:
        _compile_method(module.objective, "values", mode)
        _compile_method(module.meters, "add_distilled", mode)
        if isinstance(module.loader, MemoryLoader):
            # Not recorded: a graph would write each batch over the one before, which may be held.
            _compile_method(module.loader, "batch_of", "default")
    return module


def uncompiled(error: BaseException) -> UserError | None:
    """Return what to report of an error of the compiler; None for any other."""
    from torch._dynamo.exc import TorchDynamoException  # takes a second, which few runs need

    if not isinstance(error, TorchDynamoException):
        return None
    cause = getattr(error, "inner_exception", error)  # what a backend raised, where it did
    reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0][:300]
    return UserError(
        f"trainer.compile does not get through this network, or finds no working compiler "
        f"({reason}): use trainer.compile=false, or on a CPU install g++, on a GPU triton"
    )


def _compile_method(owner: object, name: str, mode: str) -> None:
    plain = getattr(owner, name)
    setattr(owner, name, torch.compile(plain, backend=_BACKEND, mode=mode, dynamic=False))


def _require_compiler(device: torch.device) -> None:
    def doubled(values: Tensor) -> Tensor:
        return values * 2

    try:
        torch.compile(doubled, backend=_BACKEND)(torch.ones(2, device=device))
    except RuntimeError as error:
        known = uncompiled(error)
        raise error if known is None else known from error
