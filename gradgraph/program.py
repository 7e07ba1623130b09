"""Run someone's program inside this process as `python` would run it, and leave no trace of it behind."""

from __future__ import annotations

import builtins
import io
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.machinery import SourceFileLoader
from types import CodeType, ModuleType

from gradgraph.errors import TargetError
from gradgraph.uncaught import exit_code

__all__ = ["bare_main_module", "compiled", "execute", "in_environment", "main_module", "raised_in"]

_LONGEST_MESSAGE = 300


@contextmanager
def in_environment(folder: str, *, argv: Sequence[str] = (), main: ModuleType | None = None) -> Iterator[None]:
    """Make the process look as it does to a program of its own, and put everything back afterwards.

    Puts `folder` first on `sys.path`, sets `sys.argv` and `__main__` where given, sends what the program prints to
    stderr, and afterwards forgets the modules that were imported from `folder`, so that the next program finds its
    own `model.py`. Modules from elsewhere stay: many extension modules cannot be imported twice.
    """
    saved = list(sys.argv), list(sys.path), sys.modules.get("__main__"), os.getcwd()
    known = {name.partition(".")[0] for name in sys.modules}
    sys.path.insert(0, folder)
    if argv:
        sys.argv = list(argv)
    if main is not None:
        sys.modules["__main__"] = main
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        sys.argv, sys.path[:], old_main = saved[0], saved[1], saved[2]
        if old_main is not None:
            sys.modules["__main__"] = old_main
        os.chdir(saved[3])
        _forget(folder, known)


def _forget(folder: str, known: set[str]) -> None:
    """Remove from `sys.modules` the top-level modules not in `known` that lie in `folder`, with all inside them."""
    fresh = {name for name in sys.modules if "." not in name} - known
    gone = {name for name in fresh if _lies_in(sys.modules[name], folder)}
    for name in list(sys.modules):
        if name.partition(".")[0] in gone:
            del sys.modules[name]


def _lies_in(module: ModuleType, folder: str) -> bool:
    places = list(getattr(module, "__path__", None) or [getattr(module, "__file__", None)])
    return any(isinstance(place, str) and os.path.dirname(os.path.abspath(place)) == folder for place in places)


def main_module(path: str) -> ModuleType:
    """A fresh `__main__` for the script at `path`, with what `python` sets in it."""
    module = bare_main_module()
    module.__file__ = os.path.join(os.getcwd(), path)
    module.__loader__ = SourceFileLoader("__main__", module.__file__)
    module.__dict__["__cached__"] = None
    return module


def bare_main_module() -> ModuleType:
    """A fresh `__main__`, as it is before `python` knows what to run in it."""
    module = ModuleType("__main__")
    if sys.version_info < (3, 14):  # made when asked for, since then
        module.__annotations__ = {}
    module.__dict__["__builtins__"] = builtins  # in all other modules it is a dict
    return module


def compiled(path: str, module: ModuleType) -> CodeType:
    """The code of the script at `path`, to be run in `module`.

    Raises:
        TargetError: it cannot be read.
        SyntaxError: and what else compiling it raises.
    """
    try:
        with io.open_code(os.path.abspath(path)) as file:
            source = file.read()
    except OSError as error:
        raise TargetError(f"{path} cannot be read: {error.strerror}.") from error
    return compile(source, str(module.__file__), "exec", dont_inherit=True)


def execute(path: str, module: ModuleType) -> None:
    """Run the script at `path` in the namespace of `module`.

    Raises:
        TargetError: it cannot be read or compiled, raises, or exits with a status other than 0.
    """
    with raised_in(path):
        exec(compiled(path, module), module.__dict__)  # noqa: S102


@contextmanager
def raised_in(path: str, what: str | None = None) -> Iterator[None]:
    """Turn whatever the user's code raises into one line that says where.

    A process that the code forked and that comes out of it has reached its end: it ends as it would have under
    Python, and none of what we do next.

    Args:
        path: the file of the user's whose line is wanted, as they wrote it.
        what: what was run, if not the file itself.

    Raises:
        TargetError: the code raised, or exited with a status other than 0. An exit with status 0 is an end.
    """
    process = os.getpid()
    try:
        yield
    except BaseException as error:
        if os.getpid() != process:
            sys.exit(exit_code(error))
        refusal = _refusal(error, path, what)
        if refusal is error:
            raise
        if refusal is not None:
            raise refusal from error
    if os.getpid() != process:
        sys.exit()


def _refusal(error: BaseException, path: str, what: str | None) -> BaseException | None:
    """What `raised_in` raises for `error`; None where it is an ordinary end."""
    if isinstance(error, TargetError):
        return error
    if isinstance(error, SystemExit):
        if error.code in (None, 0):
            return None
        said = f"status {error.code}" if isinstance(error.code, int) else f"the message {_one_line(error.code)!r}"
        return TargetError(
            f"{_where(error, path)}: the program exited with {said}, expected status 0. If it lacked "
            "arguments, give them after `--`, for example: gradgraph render script.py -- --epochs 3"
        )
    if not isinstance(error, Exception):
        return error  # an interrupt
    whole = _one_line(error)
    described = f"{type(error).__name__}: {whole}" if whole else type(error).__name__
    return TargetError(
        f"{_where(error, path)}: {what or 'the program'} raised {described} (expected it to run to its end; "
        "`gradgraph --debug ...` shows the traceback)."
    )


def _where(error: BaseException, path: str) -> str:
    """`file:line` of the innermost frame of the user's file; if there is none, of the innermost in their folder."""
    if isinstance(error, SyntaxError) and error.filename is not None and os.path.exists(error.filename):
        return f"{_shown(error.filename, path)}:{error.lineno}"
    frames = [
        (os.path.abspath(frame.f_code.co_filename), line) for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    here = os.path.join(os.getcwd(), "")
    frames = frames[1:]  # the first is ours
    own = [frame for frame in frames if frame[0] == os.path.abspath(path)]
    nearby = [frame for frame in frames if frame[0].startswith(here) and "site-packages" not in frame[0]]
    if not own and not nearby:
        return path
    file, line = (own or nearby)[-1]
    return f"{_shown(file, path)}:{line}"


def _shown(file: str, path: str) -> str:
    return path if os.path.abspath(file) == os.path.abspath(path) else os.path.relpath(file)


def _one_line(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= _LONGEST_MESSAGE else f"{text[:_LONGEST_MESSAGE]}..."
