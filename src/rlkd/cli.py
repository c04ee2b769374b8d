"""The command line: `rlkd VERB [key=value ...]`."""

import errno
import io
import os
import sys
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import shell_complete

from rlkd.atomic import FULL
from rlkd.commands import VERBS, WITH_JSON
from rlkd.commands.importing import leaving_at_once
from rlkd.errors import Notice, RunsFailedError, UserError, did_you_mean

if TYPE_CHECKING:
    from rich.console import Console

_HELP = """Knowledge distillation with a learnt temperature for every instance.

Settings are Hydra's, KEY=VALUE: method=kd temperature.max_temperature=8. Paths are taken as the
shell hands them over; ~ is the home folder. configs=DIR adds groups of your own, trust=mine allows
code of the package mine.

`rlkd VERB --help` lists a verb's arguments, with examples."""
_CODES = (
    "Exit codes: 0 done; 2 yours to fix; 1 a bug; 130 interrupted, 143 and 138 by SIGTERM and "
    "SIGUSR1."
)
_JSON = "Print the outcome alone, as one object of JSON in a line; progress goes to standard error."
_NOT_OURS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG)
"""What keeps a path from being used, and is for the user to change."""
SPINS = "1000"
"""How often a thread of OpenMP looks for work before it sleeps; by its default it looks for
milliseconds, in which another process could have worked (docs/performance.md)."""
_LOG_WIDTH = 160
"""Columns of what is no terminal."""
_COMPLETION = "_RLKD_COMPLETE"
"""The variable by which a shell asks for completions, as click spells it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [each for each in given if each != "--debug"]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what it cannot show has an escape
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # read when torch is imported
    program = _program()
    if instruction := os.environ.get(_COMPLETION):
        return shell_complete(program, {}, "rlkd", _COMPLETION, instruction)
    if given[:1] in ([], ["help"]):
        given = [*given[1:2], "--help"]
    try:
        with program.make_context("rlkd", given) as context:
            program.invoke(context)
    except click.exceptions.Exit as done:
        return done.exit_code
    except (KeyboardInterrupt, Exception) as error:
        return _report(error, debug=debug)
    return 0


class _Program(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in VERBS and not ctx.resilient_parsing:
            hint = did_you_mean(args[0], VERBS)
            raise UserError(f"there is no verb {args[0]}: {hint}use one of {', '.join(VERBS)}")
        return super().resolve_command(ctx, args)


def _program() -> click.Group:
    """Return the command line, of which nothing is imported yet but its help."""
    program = _Program(
        "rlkd",
        help=_HELP,
        epilog=_CODES,
        subcommand_metavar="VERB [KEY=VALUE]...",
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        params=[click.Option(["--debug"], is_flag=True, help="Show tracebacks.")],
    )
    click.version_option(package_name="rlkd", message="rlkd %(version)s")(program)
    as_json = click.Option(["--json"], is_flag=True, help=_JSON)
    for name, (home, text) in VERBS.items():
        words = click.Argument(
            ["words"],
            nargs=-1,
            metavar="[KEY=VALUE]...",
            type=click.UNPROCESSED,
            shell_complete=_completions,
        )
        verb = click.Command(
            name,
            callback=partial(_run, home),
            params=[words, *([as_json] if name in WITH_JSON else [])],
            help=text.replace("\n\n", "\n\n\b\n"),  # lines as they are
            short_help=text.partition("\n")[0],
            context_settings={"ignore_unknown_options": True},
        )
        program.add_command(verb)
    return program


def _completions(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Complete GROUP=NAME where NAME is a packaged file, as no network is."""
    packaged = (Path(__file__).parent / "configs").glob("*/*.yaml")
    choices = sorted(f"{path.parent.name}={path.stem}" for path in packaged)
    # bash takes GROUP, = and NAME for three words.
    before = [each for each in context.params.get("words") or () if each != "="]
    group = f"{before[-1]}=" if before else "="
    names = [each.removeprefix(group) for each in choices if each.startswith(group + incomplete)]
    return names or [each for each in choices if each.startswith(incomplete)]


def _run(home: str, words: Sequence[str], json: bool = False) -> None:
    """Call the function of a verb, `module:function`, and print as JSON what it returns, if asked.

    Args:
        home: where the function is.
        words: what it is given.
        json: whether its outcome is for a program; then nothing else goes to standard output.
    """
    if "--json" in words:  # which click takes where there is such an option
        raise UserError(f"there is no --json here: it is for {', '.join(WITH_JSON)}")
    module, _, name = home.partition(":")
    with leaving_at_once():
        function = getattr(import_module(module), name)  # with everything that takes seconds
        from rich.console import Console

        from rlkd import distributed
    with _noticing(Console(stderr=True)):
        reports = distributed.is_rank_zero()
        failed: RunsFailedError | None = None
        try:
            outcome = function(list(words), console=_console(quiet=not reports, stderr=json))
        except RunsFailedError as error:
            outcome, failed = error.outcome, error
    if json and reports:
        from rlkd.reporting.results.files import json_line

        print(json_line(outcome), flush=True)
    if failed is not None:
        raise failed


def _console(*, quiet: bool, stderr: bool) -> "Console":
    """Return a console as wide as the terminal; for a log as wide as the tables of comparisons."""
    from rich.console import Console

    console = Console(quiet=quiet, stderr=stderr)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _LOG_WIDTH
    return console


def _report(error: BaseException, *, debug: bool) -> int:
    """Print what ended a verb, in one line, and return its exit code."""
    with leaving_at_once():
        from rich.console import Console

        from rlkd import distributed
        from rlkd.reporting.escaping import one_line, say, say_trace
    code, line = _code_and_line(error)
    if distributed.is_first_to_report():
        errors = Console(stderr=True)
        if debug or code == 1:
            say_trace(errors, error)
        say(errors, one_line(f"rlkd: {line}"))
    return code


def _code_and_line(error: BaseException) -> tuple[int, str]:
    """Return the exit code of what ended a verb, and the line that reports it."""
    from rlkd.engine.signals import Interrupted

    if isinstance(error, UserError):
        return 2, str(error)
    if isinstance(error, click.UsageError):
        return 2, f"{error.format_message()} See `rlkd --help`."
    if isinstance(error, Interrupted):
        return error.exit_code, str(error)
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted"
    if isinstance(error, OSError) and error.errno in FULL:
        where = "" if error.filename is None else f"{error.filename}: "
        return 2, f"{where}{error.strerror}; free some space and run the same command again"
    if isinstance(error, OSError) and error.errno in _NOT_OURS and error.filename is not None:
        return 2, f"{error.filename}: {error.strerror}; give another path, or make it accessible"
    return 1, "this is a bug; please report it with the lines above"


@contextmanager
def _noticing(errors: "Console") -> Generator[None]:
    """Print each notice once, as a line of its own, and other warnings as Python does."""
    printed: set[str] = set()
    with warnings.catch_warnings():
        otherwise = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any) -> None:
            if not issubclass(category, Notice):
                # Of libraries, in as many lines as they wrote.
                lines = "\n".join(map(printable, str(message).split("\n")))
                return otherwise(lines, category, *where)
            if str(message) not in printed and distributed.is_rank_zero():
                say(errors, one_line(f"rlkd: note: {message}"))
            return printed.add(str(message))

        from rlkd import distributed
        from rlkd.reporting.escaping import one_line, printable, say

        # What is odd about an image file's metadata does no harm to its pixels.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.simplefilter("always", Notice)
        warnings.showwarning = show
        yield


if __name__ == "__main__":
    sys.exit(main())
