"""TARGET: what the command line is pointed at, from its text to a traced graph."""

from __future__ import annotations

import difflib
import inspect
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from gradgraph.errors import TargetError
from gradgraph.pass_list import not_reached
from gradgraph.program import execute, in_environment, main_module, raised_in

if TYPE_CHECKING:
    from gradgraph.graph import AutogradGraph
    from gradgraph.last_pass import KeptPass

__all__ = ["Opened", "Target", "opened", "parse_target"]

_FORMS = "script.py, script.py:name, package.module:name or a saved graph.json"


@dataclass(frozen=True)
class Target:
    """A TARGET taken apart: `location` is the path of a script or saved graph, or the dotted name of a module."""

    text: str
    kind: Literal["script", "module", "saved"]
    location: str
    name: str | None = None

    @property
    def stem(self) -> str:
        """What output files are called by default: `train` for `sub/train.py`, `train-loss` for `train.py:loss`."""
        base = os.path.splitext(os.path.basename(self.location))[0] if self.kind != "module" else self.location
        return base if self.name is None else f"{base}-{self.name}"


@dataclass
class Opened:
    """A target's graph, while the program that made it still stands.

    `outputs` is what was traced: tensors as the program holds them, or None for a saved graph. `statistics` are
    those of the gradients of the user's own pass, where they were asked for. `kept` is the pass that can be
    differentiated once more, where that was asked for.
    """

    target: Target
    graph: AutogradGraph
    outputs: Any = None
    statistics: Any = None
    kept: KeptPass | None = None
    passes: int = 0


def parse_target(text: str) -> Target:
    """Take a TARGET apart; looks at the file system, runs nothing.

    Raises:
        TargetError: it is no such form, or its file is missing or of a kind that cannot be opened.
    """
    if os.path.isfile(text):
        return Target(text, "saved" if _suffix(text) == ".json" else "script", _readable(text))
    if os.path.isdir(text):
        raise TargetError(f"{text} is a folder; expected {_FORMS}.")
    location, colon, name = text.rpartition(":")
    if colon and _is_dotted(name):
        if os.path.isfile(location):
            if _suffix(location) == ".json":
                raise TargetError(f"{location} is a saved graph and holds no names; give it as {location} alone.")
            return Target(text, "script", _readable(location), name)
        if _is_dotted(location) and not location.endswith(".py"):
            return Target(text, "module", location, name)
        raise _missing(location)
    if _is_dotted(text) and _suffix(text) not in (".py", ".json"):
        raise TargetError(
            f"there is no file {text}; expected {_FORMS}. For a module, name its tensor or function: {text}:loss"
        )
    raise _missing(text)


def _readable(path: str) -> str:
    remedies = {
        ".ipynb": "in the notebook itself, gradgraph.trace(loss) shows the graph",
        ".graphml": "GraphML is written for other programs; save the graph as .json instead",
        ".pt": "tensors in files have lost their graph; give the script that computes them",
    }
    remedy = remedies.get(_suffix(path))
    if remedy is not None:
        raise TargetError(f"{path} is no target; expected {_FORMS}: {remedy}.")
    return path


def _missing(path: str) -> TargetError:
    folder, base = os.path.split(path)
    try:
        around = os.listdir(folder or ".")
    except OSError:
        return TargetError(f"there is no folder {folder}, so no {path}; expected {_FORMS}.")
    close = difflib.get_close_matches(base, [file for file in around if file.endswith((".py", ".json"))], 1)
    hint = f" Did you mean {os.path.join(folder, close[0])}?" if close else ""
    return TargetError(f"there is no file {path}; expected {_FORMS}.{hint}")


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _is_dotted(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))


@contextmanager
def opened(
    target: Target | str,
    arguments: Sequence[str] = (),
    *,
    gradients: bool = False,
    keep: bool = False,
    number: int | None = None,
) -> Iterator[Opened]:
    """Run the target's program and trace its graph; within the context `sys.path` and `__main__` are the program's.

    The program is recorded, so that lines, modules and creators are known. A script without a name is watched: each
    outermost backward pass is traced just before it runs, and what the last one had is the graph. Only the newest graph
    is held, and its live nodes go when its pass ends, so that the program uses the memory that it uses alone, plus one
    graph's data.

    Args:
        target: a `Target`, or its text.
        arguments: `sys.argv[1:]` of the program.
        gradients: take statistics from the last pass of a script as it runs (`Opened.statistics`).
        keep: keep what the last pass of a script needs to be differentiated once more (`Opened.kept`). Costs the
            memory of one more pass and a copy of the leaves.
        number: of a script without a name: which outermost backward pass, 1 the first, -1 the last. Of -K the latest
            K graphs are held.

    Raises:
        TargetError: the target is missing, raises, ran no backward pass, not as many, or has no such name.
        InputError: what it names has no autograd graph.
        ReadError: a saved graph is damaged.
    """
    target = parse_target(target) if isinstance(target, str) else target
    if number is not None:
        _check_takes_pass(target)
    if target.kind == "saved":
        if arguments:
            raise TargetError(f"{target.text} is a saved graph and takes no arguments; leave out what follows `--`.")
        from gradgraph.readwrite import read_json

        yield Opened(target, read_json(target.location))
        return
    if target.kind == "script":
        path = target.location
        main = main_module(path)
        with in_environment(os.path.dirname(os.path.realpath(path)), argv=[path, *arguments], main=main):
            yield (
                _pass(target, main, gradients=gradients, keep=keep, number=number)
                if target.name is None
                else _named(target, target.name, main)
            )
    else:
        with in_environment(os.getcwd(), argv=[target.location, *arguments]):
            yield _named(target, str(target.name), None)


def _check_takes_pass(target: Target) -> None:
    if target.kind != "script" or target.name is not None:
        script = f"{target.location} alone" if target.kind == "script" else "a script, such as train.py"
        raise TargetError(
            f"--pass chooses a backward pass of a script that runs, and {target.text} names no such; give {script}, or "
            "leave out --pass."
        )


def _pass(target: Target, main: ModuleType, *, gradients: bool, keep: bool, number: int | None) -> Opened:
    from gradgraph.chosen import Chosen
    from gradgraph.last_pass import LastPass, retaining
    from gradgraph.passes import observe
    from gradgraph.recorder import record

    wanted = -1 if number is None else number
    chosen = Chosen([wanted], lambda: LastPass(main, gradients=gradients, keep=keep))
    with record(), observe(chosen), retaining() if keep else nullcontext():
        execute(target.location, main)
    found = chosen.found(wanted)
    if number is not None and chosen.count and found is None:
        raise TargetError(not_reached(target.text, number, chosen.count))
    if found is None or found.graph is None:
        raise TargetError(_no_pass(target, main))
    return Opened(target, found.graph, statistics=found.statistics, kept=found.kept, passes=chosen.count)


def _no_pass(target: Target, main: ModuleType) -> str:
    with_graph = _names_with_graph(vars(main))
    offer = (
        f"name one of its tensors that have a graph ({', '.join(with_graph)}): {target.text}:{with_graph[0]}"
        if with_graph
        else f"name a function of it that returns a tensor: {target.text}:function"
    )
    return (
        f"{target.text} ran to its end without a backward pass (backward() or autograd.grad()), so there is no graph "
        f"to show. Either let it run one, or {offer}"
    )


def _named(target: Target, name: str, main: ModuleType | None) -> Opened:
    """Run a script or import a module, then trace what `name` leads to there."""
    from gradgraph.outputs import flatten
    from gradgraph.recorder import record
    from gradgraph.tracer import trace_in

    with record():
        if main is not None:
            execute(target.location, main)
            module = main
        else:
            module = _imported(target)
        value = _looked_up(target, name, module)
        namespace: Mapping[str, Any] = vars(module)
        if _is_program(value):
            value, local = _called(target, value, module)
            namespace = {**namespace, **local}
    from gradgraph.graph import AutogradGraph

    if isinstance(value, AutogradGraph):
        return Opened(target, value)
    flatten(value, target.text)
    return Opened(target, trace_in(namespace, value), outputs=value)


def _imported(target: Target) -> ModuleType:
    with raised_in(target.location, f"importing {target.location}"):
        try:
            return import_module(target.location)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{target.location}.".startswith(f"{error.name}."):
                raise  # the module is there, and fails to import another
        file = f"{target.location.replace('.', '/')}.py:{target.name}"
        raise TargetError(
            f"there is no module {target.location} to import, neither in {os.getcwd()} nor installed. Expected "
            f"package.module:name; for a file give its path, for example {file}"
        )
    raise TargetError(f"importing {target.location} ended the program; expected a module that holds {target.name}.")


def _looked_up(target: Target, name: str, module: ModuleType) -> Any:
    """What the dotted `name` leads to from `module`."""
    value: Any = module
    for position, part in enumerate(name.split(".")):
        if not hasattr(value, part):
            raise TargetError(_no_name(target, part, ".".join(name.split(".")[:position]), value))
        value = getattr(value, part)
    return value


def _no_name(target: Target, part: str, inside: str, holder: Any) -> str:
    names = [known for known in dir(holder) if not known.startswith("_")]
    close = difflib.get_close_matches(part, names, 1)
    where = f"{inside} of {target.location}" if inside else target.location
    text = f"{where} has no {'attribute' if inside else 'global'} {part!r} after it ran"
    if close:
        return f"{text}. Did you mean {target.text.removesuffix(part)}{close[0]}?"
    with_graph = [] if inside else _names_with_graph(vars(holder))
    if with_graph:
        return f"{text}. Its tensors with a graph are {', '.join(with_graph)}."
    return f"{text}, and no tensor with a graph; name a function of it that returns one."


def _names_with_graph(namespace: Mapping[str, Any], limit: int = 8) -> list[str]:
    """Variables that hold a tensor with a graph, as they are written."""
    from torch import Tensor

    found = [
        name
        for name, value in namespace.items()
        if not name.startswith("_") and isinstance(value, Tensor) and value.grad_fn is not None
    ]
    return found[:limit] if len(found) <= limit else [*found[:limit], "..."]


def _is_program(value: Any) -> bool:
    """Whether `value` is to be called for its tensors."""
    from torch import nn

    return callable(value) and not isinstance(value, (nn.Module, Mapping, Sequence))


def _called(target: Target, function: Any, module: ModuleType) -> tuple[Any, dict[str, Any]]:
    """What `function` returns, and its local variables at that moment, to name leaves from."""
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise TargetError(
            f"{target.text} cannot be called without arguments: {error}. Expected a tensor or a function of no "
            "arguments; wrap it in one that makes its inputs and returns the loss."
        ) from None
    except ValueError:
        pass  # built in, without a signature: the call itself will tell
    path = target.location if target.kind == "script" else os.path.relpath(module.__file__ or target.location)
    local: dict[str, Any] = {}
    with raised_in(path, target.name), _locals_of(function, local):
        return function(), local
    raise TargetError(f"{target.text} ended the program instead of returning a tensor; return it.")


@contextmanager
def _locals_of(function: Any, into: dict[str, Any]) -> Iterator[None]:
    """Note the local variables of `function` when it returns, as Python's own profilers see them."""
    code = getattr(inspect.unwrap(getattr(function, "__func__", function)), "__code__", None)
    before = sys.getprofile()
    if code is None or before is not None:
        yield  # a profiler that runs is not ours to replace; leaves are then called leaf0, leaf1, ...
        return

    def on_event(frame: Any, event: str, _: Any) -> None:
        if event == "return" and frame.f_code is code:
            into.update(frame.f_locals)

    sys.setprofile(on_event)
    try:
        yield
    finally:
        sys.setprofile(before)
