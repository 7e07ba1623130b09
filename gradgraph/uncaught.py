"""What Python does with an exception that a program does not catch, without a trace of us in its traceback."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from types import FrameType, TracebackType

__all__ = ["exit_code", "without_our_frames"]

_OURS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "")

#: Our files that stand between a program and its own calls, or around it. What else of ours is in a traceback, the
#: program called by itself.
_BETWEEN = frozenset(
    os.path.join(_OURS, *name.split("/")) + ".py"
    for name in (
        "importing",
        "launch",
        "passes",
        "program",
        "recording/modules",
        "recording/optimizers",
        "recording/sources",
        "uncaught",
    )
)
_OVERRIDES = os.path.join("torch", "overrides.py")


def exit_code(error: BaseException, *, whole: bool = False) -> int | str | None:
    """Show `error` as Python shows it at a program's end; what to give to `sys.exit` for the same exit status.

    An interrupt is 130, which a shell shows for a program that SIGINT ended.

    Args:
        error: what left the program.
        whole: show our own frames, too.
    """
    if isinstance(error, SystemExit):
        code = error.code
        if code is None or isinstance(code, int):
            return code
        print(code, file=sys.stderr)  # noqa: T201 - what sys.exit("message") does
        return 1
    if not whole:
        without_our_frames(error)
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, error.__traceback__
    try:
        sys.excepthook(type(error), error, error.__traceback__)
    except Exception as own:
        print("Error in sys.excepthook:", file=sys.stderr)  # noqa: T201 - Python's own words
        own.__context__ = None
        traceback.print_exception(type(own), own, _cleaned(own.__traceback__))
        print("\nOriginal exception was:", file=sys.stderr)  # noqa: T201
        sys.__excepthook__(type(error), error, error.__traceback__)
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def without_our_frames(error: BaseException) -> None:
    """Take our frames, around and between the program's own, out of the tracebacks of `error` and its causes."""
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        one.__traceback__ = _cleaned(one.__traceback__)
        waiting += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]


def _cleaned(first: TracebackType | None) -> TracebackType | None:
    kept: list[TracebackType] = []
    for entry in _entries(first):
        if entry.tb_frame.f_code.co_filename not in _BETWEEN:
            kept.append(entry)
        elif kept and _handles_a_mode(kept[-1].tb_frame):
            # torch calls a function twice where a mode is on: to find that there is one, and then in truth.
            del kept[-2:]
    chain: TracebackType | None = None
    for entry in reversed(kept):
        chain = TracebackType(chain, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return chain


def _entries(entry: TracebackType | None) -> Iterator[TracebackType]:
    while entry is not None:
        yield entry
        entry = entry.tb_next


def _handles_a_mode(frame: FrameType) -> bool:
    code = frame.f_code
    return code.co_name == "handle_torch_function" and code.co_filename.endswith(_OVERRIDES)
