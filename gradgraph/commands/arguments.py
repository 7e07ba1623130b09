"""Arguments that several commands share, and the checks to make before anything runs."""

from __future__ import annotations

import atexit
import math
import os
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from gradgraph.errors import GradGraphError

__all__ = [
    "Command",
    "force_option",
    "json_option",
    "known_suffix",
    "not_zero",
    "own_stdout",
    "pass_option",
    "print_json",
    "print_report",
    "refuse_unwritable",
    "refuse_without",
    "report_command",
    "suffix_of",
    "target_argument",
    "terminal_width",
    "to_json",
    "warnings_in_one_line",
    "working",
]

_Function = TypeVar("_Function", bound=Any)


class _TargetType(click.ParamType):  # type: ignore[type-arg]  # generic only since click 8.4
    name = "target"

    def shell_complete(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's signature
        param: click.Parameter,  # noqa: ARG002
        incomplete: str,
    ) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="file")]


class Command(click.Command):
    """A command on a TARGET: what follows `--` are arguments of the target's script, in `ctx.meta["script"]`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep what follows `--` for the script."""
        if "--" in args:
            cut = args.index("--")
            args, ctx.meta["script"] = args[:cut], args[cut + 1 :]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """The pieces of the usage line."""
        return [*super().collect_usage_pieces(ctx), "[-- ARGS...]"]


def target_argument(function: _Function) -> _Function:
    """`script.py`, `script.py:name`, `package.module:name` or `graph.json`."""
    return click.argument("target", type=_TargetType())(function)


def json_option(function: _Function) -> _Function:
    """Print JSON."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")(function)


def force_option(function: _Function) -> _Function:
    """Overwrite."""
    return click.option("-f", "--force", is_flag=True, help="Overwrite an existing file.")(function)


def not_zero(ctx: click.Context, param: click.Parameter, value: Any) -> Any:  # noqa: ARG001 - click's signature
    """The number of a pass, or several.

    Raises:
        click.UsageError: one is 0.
    """
    if value == 0 or (isinstance(value, tuple) and 0 in value):
        raise click.UsageError("there is no pass 0; expected 1 for the first backward pass, or -1 for the last.", ctx)
    return value


def pass_option(function: _Function) -> _Function:
    """Which backward pass of a script."""
    return click.option(
        "-p",
        "--pass",
        "number",
        type=int,
        metavar="N",
        callback=not_zero,
        help="Of a script, take its N-th backward pass; -1 is the last. [default: the last]",
    )(function)


def report_command(name: str, *, short_help: str, examples: str) -> Callable[[Callable[..., None]], click.Command]:
    """Make the function the command `name TARGET [--pass N] [--json]`, which prints a report and may take more options.

    `examples` are the lines that its help shows at the end.
    """

    def decorate(function: Callable[..., None]) -> click.Command:
        for decorator in (click.pass_context, json_option, pass_option, target_argument):
            function = decorator(function)
        epilog = f"\b\nExamples:\n{examples}"
        return click.command(name, short_help=short_help, cls=Command, epilog=epilog)(function)

    return decorate


def print_report(report: Any, *, as_json: bool) -> None:
    """Print `report` by its `to_dict` or its `to_text`, as wide as the terminal."""
    if as_json:
        print_json(report.to_dict())
    else:
        click.echo(report.to_text(terminal_width()))


def refuse_without(package: str, option: str, extra: str) -> None:
    """Say before a long run that an optional package is missing.

    Raises:
        GradGraphError: `package` is not installed.
    """
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise GradGraphError(
            f"{option} needs the package {package}, which is not installed; pip install 'gradgraph[{extra}]', or pip "
            f"install {package}."
        )


def suffix_of(path: str) -> str:
    """The suffix of `path` in lower case, without its dot."""
    return os.path.splitext(path)[1].removeprefix(".").lower()


def known_suffix(path: str, known: Collection[str], remedy: str, *, name: str | None = None) -> str:
    """The suffix of `path`, called `name` in the error.

    Raises:
        click.UsageError: it is none of `known`; the text ends with `remedy`.
    """
    suffix = suffix_of(path)
    if suffix not in known:
        found = f"the suffix .{suffix}" if suffix else "no suffix"
        raise click.UsageError(f"{name or path} has {found}{remedy}")
    return suffix


def refuse_unwritable(path: str, *, force: bool, option: str = "-o") -> None:
    """Say before a long run, rather than after it, that its result cannot be written.

    Raises:
        click.UsageError: `path` exists and `force` is not set, or it cannot be written.
    """
    folder = os.path.dirname(path) or "."
    if os.path.isdir(path):
        raise click.UsageError(f"{path} is a folder; expected a file to write, for example {os.path.join(path, 'g')}.")
    if not os.path.isdir(folder):
        raise click.UsageError(f"there is no folder {folder} to write {path} into; create it first (mkdir -p).")
    if not _takes_files(os.path.dirname(os.path.realpath(path))):
        raise click.UsageError(
            f"the folder {folder} is not writable, so {path} cannot be written; choose another {option}."
        )
    if os.path.exists(path) and not force:
        raise click.UsageError(f"{path} exists already; overwrite it with --force, or choose another {option}.")


def _takes_files(folder: str) -> bool:
    """Whether a file can be made there, found out by making one: to root all of /proc looks writable."""
    import tempfile

    if not os.access(folder, os.W_OK | os.X_OK):
        return False
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=".gradgraph-"):
            return True
    except OSError:
        return False


@contextmanager
def own_stdout() -> Iterator[None]:
    """Meanwhile, what subprocesses and C code of the user's program write to stdout goes to stderr too."""
    try:
        out, error = sys.stdout.fileno(), sys.stderr.fileno()
    except (OSError, ValueError, AttributeError):  # not a file: a test's or a notebook's buffer
        yield
        return
    sys.stdout.flush()
    kept = os.dup(out)
    try:
        os.dup2(error, out)
        yield
    finally:
        os.dup2(kept, out)
        os.close(kept)
        # Called before the functions that the program registered: what those print goes to stderr as well.
        atexit.register(_stdout_to_stderr, error, out)


def _stdout_to_stderr(error: int, out: int) -> None:
    try:
        sys.stdout.flush()
    finally:
        sys.stdout = sys.stderr
        os.dup2(error, out)


@contextmanager
def warnings_in_one_line() -> Iterator[None]:
    """Print warnings as `warning: ...`, without the line of gradgraph's that gave them."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_, **__: click.echo(f"warning: {message}", err=True)
        yield


_PATIENCE = 2.0  # seconds


@contextmanager
def working(what: str) -> Iterator[None]:
    """Say once, where no progress bar shows it, that `what` takes its time; nothing of what is done in two seconds."""
    if sys.stderr.isatty():
        yield
        return
    import threading

    said = f"computing {what}: this may take a while"
    timer = threading.Timer(_PATIENCE, lambda: click.echo(said, err=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def terminal_width() -> int:
    """Columns for a table: the terminal's, or as many as it takes where the output goes elsewhere."""
    import shutil

    return max(40, shutil.get_terminal_size().columns) if sys.stdout.isatty() else 10_000


def print_json(value: Any) -> None:
    """Print `value` as `to_json` writes it."""
    click.echo(to_json(value))


def to_json(value: Any) -> str:
    """`value` as JSON that every reader accepts: numbers that are not finite become strings."""
    import json

    return json.dumps(_finite(value), indent=2, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
