"""The command line: `rlkd VERB [key=value ...]`."""

import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from rlkd.atomic import FULL
from rlkd.errors import Notice, UserError

if TYPE_CHECKING:
    from rich.console import Console

HELP = """rlkd: knowledge distillation with a learnt temperature for every instance

  rlkd demo [seeds=0,1,2]         digits: student alone, KD, random temperature, RLKD; a report
  rlkd distill [key=value ...]    distil a teacher into a student
  rlkd train [key=value ...]      train on labels alone: a teacher or a baseline
  rlkd compare key=a,b,c ...      every combination of the values given, compared seed by seed;
                                  launcher=submitit_local or submitit_slurm: as jobs
  rlkd evaluate run=DIR           score a run's student; or teacher.checkpoint=FILE, or both
  rlkd predict run=DIR images=DIR what a run's student says of images; or student.checkpoint=FILE
  rlkd export run=DIR to=FILE     that student in a file, format=safetensors, onnx, torch_export
  rlkd ls [GROUP]                 what each setting may be
  rlkd show [key=value ...]       the configuration that overrides make
  rlkd validate                   build every packaged experiment

Settings are Hydra's: rlkd distill data=cifar100 data.root=DIR teacher=resnet56
teacher.checkpoint=FILE student=resnet20 temperature=rlkd seed=0 trainer.epochs=240.
Paths are taken as the shell hands them over, whatever characters they have; ~ is the home folder.
trust=mine allows code of the package mine, named by a _target_ or student=mine.net:build.
With --multirun, distill and train do every combination of the values given, launcher=... as above.
--debug shows tracebacks. Exit codes: 0 done; 2 yours to fix; 1 a bug; 130 interrupted,
143 and 138 by SIGTERM and SIGUSR1."""

Verb = Callable[[list[str], "Console"], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [each for each in given if each != "--debug"]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what it cannot show has an escape
    if not given or given[0] == "help" or not {"-h", "--help"}.isdisjoint(given):
        print(HELP)
        return 0
    with _leaving_at_once():
        from rich.console import Console

        from rlkd import ranks
        from rlkd.reporting.escaping import one_line, say, say_trace

        import_module("rlkd.commands.verbs")  # with everything that takes seconds
    errors = Console(stderr=True)
    try:
        with _noticing(errors):
            _run(given[0], given[1:])
    except (KeyboardInterrupt, Exception) as error:
        code, line = _told(error)
        if ranks.first_to_tell():
            if debug or code == 1:
                say_trace(errors, error)
            say(errors, one_line(f"rlkd: {line}"))
        return code
    return 0


@contextmanager
def _leaving_at_once() -> Generator[None]:
    """Let Ctrl-C end the process amid imports, which nothing gets out of in good order.

    Nothing is written before they are done.
    """
    # Not where the signal is ignored, as under nohup, or somebody else's.
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not ours or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(*_: object) -> None:
    if os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")) == "0":
        os.write(2, b"rlkd: interrupted\n")
    os._exit(130)


def _told(error: BaseException) -> tuple[int, str]:
    """Return the exit code of what ended a verb, and the line that tells of it."""
    from rlkd.engine.signals import Interrupted

    if isinstance(error, UserError):
        return 2, str(error)
    if isinstance(error, Interrupted):
        return error.exit_code, str(error)
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted"
    if isinstance(error, OSError) and error.errno in FULL:
        where = "" if error.filename is None else f"{error.filename}: "
        return 2, f"{where}{error.strerror}; free some space and run the same command again"
    return 1, "this is a bug; please report it with the lines above"


@contextmanager
def _noticing(errors: "Console") -> Generator[None]:
    """Print each notice once, as a line of its own, and other warnings as Python does."""
    said: set[str] = set()
    with warnings.catch_warnings():
        otherwise = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any) -> None:
            if not issubclass(category, Notice):
                # Of libraries, in as many lines as they wrote.
                said_so = "\n".join(map(printable, str(message).split("\n")))
                return otherwise(said_so, category, *where)
            if str(message) not in said and ranks.tells():
                say(errors, one_line(f"rlkd: note: {message}"))
            return said.add(str(message))

        from rlkd import ranks
        from rlkd.reporting.escaping import one_line, printable, say

        # What is odd about an image file's metadata does no harm to its pixels.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.simplefilter("always", Notice)
        warnings.showwarning = show
        yield


def _run(verb: str, overrides: list[str]) -> None:
    from rich.console import Console

    from rlkd import ranks
    from rlkd.commands import verbs

    known: dict[str, Verb] = {
        "compare": verbs.compare,
        "demo": verbs.demo,
        "distill": verbs.distill,
        "evaluate": verbs.evaluate,
        "export": verbs.export,
        "ls": verbs.ls,
        "predict": verbs.predict,
        "show": verbs.show,
        "train": verbs.train,
        "validate": verbs.validate,
    }
    if verb not in known:
        raise UserError(f"there is no verb {verb}: use one of {', '.join(known)}")
    known[verb](overrides, Console(quiet=not ranks.tells()))


if __name__ == "__main__":
    sys.exit(main())
