"""Run a program as `python` would, this process being its own from then on."""

from __future__ import annotations

import atexit
import os
import runpy
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from gradgraph.errors import TargetError
from gradgraph.program import bare_main_module, compiled, main_module
from gradgraph.target import parse_target
from gradgraph.uncaught import exit_code

__all__ = ["Program", "end", "find_program", "launch"]


@dataclass(frozen=True)
class Program:
    """What `python LOCATION ARGUMENTS...` runs, or `python -m LOCATION ARGUMENTS...` for a module."""

    kind: Literal["script", "folder", "module"]  # a folder, or a zip file, with a `__main__.py`
    location: str
    arguments: tuple[str, ...] = ()

    @property
    def stem(self) -> str:
        """What files about it are called by default."""
        return self.location if self.kind == "module" else os.path.splitext(os.path.basename(self.location))[0]


def find_program(location: str, arguments: Sequence[str] = (), *, module: bool = False) -> Program:
    """The program at `location`, a path, or the dotted name of a module. Looks at the file system, runs nothing.

    Raises:
        TargetError: there is no such file, or no `__main__.py` in such a folder.
    """
    given = tuple(arguments)
    if module:
        return Program("module", location, given)
    if os.path.isdir(location):
        if not os.path.isfile(os.path.join(location, "__main__.py")):
            raise TargetError(
                f"{location} is a folder without a __main__.py; expected a script, for example "
                f"{os.path.join(location, 'train.py')}, or -m package.module."
            )
        return Program("folder", location, given)
    target = parse_target(location)
    if target.kind != "script" or target.name is not None:
        raise TargetError(f"{location} is no script; expected the path of a Python program, for example train.py.")
    with open(location, "rb") as file:
        is_zip = file.read(2) == b"PK"
    return Program("folder" if is_zip else "script", location, given)


def launch(program: Program, *, whole: bool = False) -> int | str | None:
    """Run `program` in `__main__` until its own code ends; what it wants to give to `sys.exit`.

    What it does not catch is shown as Python shows it. Its threads may still run, its `atexit` functions have not
    been called: see `end`. Returns in each process that the program forked and that ran to its end, too.

    Args:
        program: what to run.
        whole: show our own frames in tracebacks, too.
    """
    try:
        if program.kind == "script":
            _run_script(program)
        else:
            _run_as_python_does(program)
    except BaseException as error:  # SystemExit and interrupts are ends, too
        return exit_code(error, whole=whole)
    return None


def _run_script(program: Program) -> None:
    main = main_module(program.location)
    sys.argv = [program.location, *program.arguments]
    _first_on_path(os.path.dirname(os.path.realpath(program.location)))
    sys.modules["__main__"] = main
    exec(compiled(program.location, main), main.__dict__)  # noqa: S102


def _run_as_python_does(program: Program) -> None:
    module = program.kind == "module"
    sys.argv = ["-m" if module else program.location, *program.arguments]
    _first_on_path(os.getcwd() if module else os.path.abspath(program.location))
    sys.modules["__main__"] = bare_main_module()
    # What python itself calls for `-m`, for a folder and for a zip file.
    runpy._run_module_as_main(program.location if module else "__main__", module)  # type: ignore[attr-defined]


def _first_on_path(folder: str) -> None:
    """Put `folder` first on `sys.path`, in place of the folder that Python put there for gradgraph."""
    if getattr(sys.flags, "safe_path", False):
        if sys.argv[0] != "-m" and os.path.isdir(sys.argv[0]):
            sys.path.insert(0, folder)
        return
    started = sys.modules["__main__"]
    if getattr(started, "__spec__", None) is not None:  # python -m gradgraph
        own = os.getcwd()
    else:
        own = os.path.dirname(os.path.realpath(getattr(started, "__file__", None) or ""))
    if sys.path and sys.path[0] == own:
        del sys.path[0]
    sys.path.insert(0, folder)


def end() -> None:
    """Wait for the program's threads and call its `atexit` functions, as Python does before it ends."""
    try:
        threading._shutdown()  # type: ignore[attr-defined] # it also tells idle executors to end their threads
    except BaseException as error:
        exit_code(error)
    atexit._run_exitfuncs()  # calls each once, and shows what one raises
    # Where it is closed, replaced, or its reader has left, Python itself will say so.
    with suppress(AttributeError, OSError, ValueError):
        sys.stdout.flush()
