"""Which line of the program made a node: a `TorchFunctionMode` that looks at the stack after each operation."""

from __future__ import annotations

import concurrent.futures.thread
import functools
import os
import sys
import sysconfig
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

import gradgraph
from gradgraph.recording.log import Log, ThreadLog

__all__ = ["Lines", "Sites", "TaggedLines", "custom_functions", "new_threads"]

_modes: Any = torch.overrides
# torch.compile traces through whatever wraps an operation, ours too: there is to be nothing of it.
_compiling = torch.compiler.is_dynamo_compiling
_sequence_nr = torch._C._autograd._get_sequence_nr
_getframe = sys._getframe


_MOST = 500_000  # operations that wait to be looked up, some 100 bytes each


def _folder(file: str) -> str:
    return os.path.join(os.path.dirname(os.path.abspath(file)), "")


#: Code of torch's, of ours and of Python's own library is not the user's; installed packages are.
_NOT_THE_USERS = (_folder(str(torch.__file__)), _folder(gradgraph.__file__), "<frozen ")
_STANDARD_LIBRARY = tuple({os.path.join(sysconfig.get_path(name), "") for name in ("stdlib", "platstdlib")})
_INSTALLED = tuple({os.path.join(sysconfig.get_path(name), "") for name in ("purelib", "platlib")})


def _is_users(file: str) -> bool:
    if file.startswith(_NOT_THE_USERS):
        return False
    return file.startswith(_INSTALLED) or not file.startswith(_STANDARD_LIBRARY)


def _cell(file: str) -> str | None:
    """What IPython calls the cell whose code it keeps as `file`: `In[3]`."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    named = getattr(getattr(shell, "compile", None), "format_code_name", lambda _: None)(file)
    return None if named is None else str(named[1])


class Sites:
    """The places in the user's code that were seen, each written once into `log.sites`.

    Args:
        log: where they are written.
        stack: note the lines above each place, too.
    """

    def __init__(self, log: Log, *, stack: bool = False) -> None:
        self.users: set[str] = set()  # files
        self._others: set[str] = set()
        self._log = log
        self.stack = stack
        self._folder = os.path.join(os.getcwd(), "")
        # By the identity of a code object, which is kept for that: its own hash is slow.
        self._index: dict[int, dict[Any, int]] = {}
        self._codes: list[CodeType] = []
        self._written: dict[Any, int] = {}

    def here(self) -> int | None:
        """Index of the innermost line of the user's that runs now on this thread; None if there is none."""
        frame = self.innermost(_getframe())
        return None if frame is None else self.index(frame.f_code, self.place(frame))

    def innermost(self, frame: FrameType | None) -> FrameType | None:
        """The first frame of the user's from `frame` outwards."""
        users, others = self.users, self._others
        while frame is not None:
            file = frame.f_code.co_filename
            if file in users:
                return frame
            if file not in others:
                (users if _is_users(file) else others).add(file)
                continue
            frame = frame.f_back
        return None

    def place(self, frame: FrameType) -> Any:
        """Where in its code `frame` is, and where those are that called it, if that is asked for."""
        if not self.stack:
            return frame.f_lasti
        above = []
        outer = self.innermost(frame.f_back)
        while outer is not None:
            above.append((outer.f_code, outer.f_lasti))
            outer = self.innermost(outer.f_back)
        return frame.f_lasti, *above

    def index(self, code: CodeType, place: Any) -> int:
        """Index in `log.sites` of a place in `code`."""
        places = self._index.get(id(code))
        if places is None:
            places = self._index[id(code)] = {}
            self._codes.append(code)
        index = places.get(place)
        if index is None:
            index = places[place] = self._write(code, place)
        return index

    def _write(self, code: CodeType, place: Any) -> int:
        lasti, *above = place if isinstance(place, tuple) else (place,)
        texts = [self._text(code, lasti), *(self._text(*one) for one in above)]
        index = self._written.setdefault(tuple(texts), len(self._log.sites))
        if index == len(self._log.sites):
            self._log.sites.append(texts[0])
            if above:
                self._log.stacks[index] = texts[1:]
        return index

    def _text(self, code: CodeType, lasti: int) -> str:
        lines = (line for start, end, line in code.co_lines() if start <= lasti < end)
        file = _cell(code.co_filename) or code.co_filename.removeprefix(self._folder)
        return f"{file}:{next(lines, None) or '?'} in {code.co_name}"


class Lines(TorchFunctionMode):
    """Notes the line of each operation that one thread runs, in a microsecond or two each.

    An operation is noted as it comes: its numbers and its place in the code. What line that is, is looked up when
    somebody asks. Set `inside` to INSIDE while a backward pass runs on the thread.
    """

    def __init__(self, thread: ThreadLog, sites: Sites) -> None:
        super().__init__()
        self.inside = 0
        self.aside = False
        self.on = True  # a thread that outlives the recording keeps the mode, which then does nothing
        self._thread = thread
        self._sites = sites
        self._users = sites.users
        # What is not looked up yet, five entries each: first and last number, `inside`, code, and place in it.
        self._waiting: deque[Any] = deque(maxlen=5 * _MOST)
        self._note = self._waiting.extend
        self._looking = threading.RLock()
        self._place = sites.place if sites.stack else None
        thread.look_up = self.look_up

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation and see which sequence numbers it took."""
        if _compiling():
            return func(*args, **kwargs) if kwargs else func(*args)
        first = _sequence_nr()
        result = func(*args, **kwargs) if kwargs else func(*args)
        last = _sequence_nr()
        if last != first and self.on:
            frame: Any = _getframe(1)
            code = frame.f_code
            if code.co_filename not in self._users:
                frame = self._sites.innermost(frame)
                if frame is None:
                    return result
                code = frame.f_code
            place = frame.f_lasti if self._place is None else self._place(frame)
            self._note((first, last, self.inside, code, place))
        return result

    def look_up(self) -> None:
        """Write the lines of what was noted into the thread's timeline."""
        own, index, waiting = self._thread.lines.own, self._sites.index, self._waiting
        with self._looking:  # any thread may ask, and this one's notes go on meanwhile
            taken = list(waiting)
            if len(taken) > 4 * _MOST:
                waiting.clear()  # not one by one: it could be full, and drop part of an entry meanwhile
            else:
                for _ in taken:
                    waiting.popleft()
            entries = iter(taken)
            for first, last, inside, code, place in zip(entries, entries, entries, entries, entries, strict=True):
                own(first, last, index(code, place) | inside)

    def inputs(self, args: Any, kwargs: Any) -> Any:  # noqa: ARG002 - of TaggedLines
        """What `note` needs to know of what an operation takes."""
        return ()

    def note(self, first: int, frame: FrameType, result: Any = None, inputs: Any = ()) -> None:  # noqa: ARG002 - too
        """What ran since `first` was called from `frame` and gave `result`."""
        last = _sequence_nr()
        users = self._sites.innermost(frame)
        if last != first and users is not None:
            with self._looking:
                self.look_up()
                site = self._sites.index(users.f_code, self._sites.place(users))
                self._thread.lines.own(first, last, site | self.inside)

    def note_pass(self, first: int, last: int) -> None:
        """A pass within another one has run: what the engine made in it, no hook of the user's did."""
        site = self._sites.here()
        if site is not None:
            with self._looking:
                self.look_up()
                self._thread.lines.own(first, last, site)

    def put(self) -> None:
        """Put the mode on top of this thread's stack."""
        _modes._push_mode(self)

    def put_aside(self) -> None:
        """Take it away until `put_back`."""
        self.aside = True
        self.remove()

    def put_back(self) -> None:
        """Put it on the stack again, if it was put aside and is still on."""
        if self.aside:
            self.aside = False
            if self.on:
                self.put()

    def remove(self) -> None:
        """Take the mode off this thread's stack, wherever it stands."""
        above: list[Any] = []
        if self not in _modes._get_current_function_mode_stack():
            return
        while (top := _modes._pop_mode()) is not self:
            above.append(top)
        for mode in reversed(above):
            _modes._push_mode(mode)

    @staticmethod
    def remove_old() -> None:
        """Take away the modes of recordings that ended while this thread ran."""
        for mode in _modes._get_current_function_mode_stack():
            if isinstance(mode, Lines) and not mode.on:
                mode.remove()


class TaggedLines(Lines):
    """The same on another thread than the recording's: its nodes are told by a tag, since its numbers repeat others."""

    def __init__(self, thread: ThreadLog, sites: Sites, log: Log) -> None:
        super().__init__(thread, sites)
        self._log = log
        self._token = thread.token

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation, see its numbers, and tag its nodes."""
        if _compiling():
            return func(*args, **kwargs) if kwargs else func(*args)
        inputs = self.inputs(args, kwargs)
        first = _sequence_nr()
        result = super().__torch_function__(func, types, args, kwargs)
        self._tag(result, first, inputs)
        return result

    def inputs(self, args: Any, kwargs: Any) -> set[Any]:
        """The nodes behind what an operation takes, before an operation in place puts itself there."""
        return {one.grad_fn for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)}

    def note(self, first: int, frame: FrameType, result: Any = None, inputs: Any = ()) -> None:
        """What ran since `first` was called from `frame`, took what stands on `inputs`, and gave `result`."""
        super().note(first, frame)
        self._tag(result, first, inputs)

    def _tag(self, result: Any, first: int, inputs: set[Any]) -> None:
        last = _sequence_nr()
        if last != first and self.on:
            self._log.tag(result, (first, last), inputs, self._token)


@contextmanager
def custom_functions(lines: Callable[[], Lines | None]) -> Iterator[None]:
    """Meanwhile see custom Functions too: `Function.apply` is not for function modes to see.

    One that the program took as `apply = MyFunction.apply` before is not seen.

    Args:
        lines: gives the mode of the thread that calls, or None where there is none.
    """
    function: Any = torch.autograd.Function
    original = function.__dict__["apply"]  # a class method, of Python's or (from torch 2.15 on) of C's

    @functools.wraps(function.apply)
    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        mode = lines()
        inputs = () if mode is None else mode.inputs(args, kwargs)
        first = _sequence_nr()
        result = original.__get__(None, cls)(*args, **kwargs)
        if mode is not None and mode.on:
            mode.note(first, _getframe(1), result, inputs)
        return result

    patched = classmethod(apply)
    function.apply = patched
    try:
        yield
    finally:
        if function.__dict__["apply"] is patched:
            function.apply = original


@contextmanager
def new_threads(enter: Callable[[], object]) -> Iterator[None]:
    """Meanwhile call `enter` first in every thread that is started, and in pools that stand already, at each task."""
    original = threading.Thread.start
    task: Any = concurrent.futures.thread._WorkItem
    original_task = task.run

    @functools.wraps(original_task)
    def run_task(self: Any, *args: Any) -> Any:
        enter()
        return original_task(self, *args)

    @functools.wraps(original)
    def start(self: threading.Thread) -> None:
        run = self.run

        def entered() -> None:
            # Ours is off the thread before anything of the program's runs in it.
            del self.run
            enter()
            run()

        self.run = entered  # type: ignore[method-assign]
        original(self)

    threading.Thread.start = start  # type: ignore[method-assign]
    task.run = run_task
    try:
        yield
    finally:
        if task.run is run_task:
            task.run = original_task
        if threading.Thread.start is start:
            threading.Thread.start = original  # type: ignore[method-assign]
