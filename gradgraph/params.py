"""Which tensors the user means by `params`, and what they are called."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from inspect import CO_OPTIMIZED
from types import FrameType
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from gradgraph.errors import InputError

__all__ = [
    "Named",
    "ParamsLike",
    "caller_namespace",
    "locals_of",
    "module_paths",
    "named_tensors",
    "names_in",
    "parts_of",
]

#: A `Module`, several (a list, or a mapping from name), an optimizer, a mapping from name to tensor, or an iterable
#: of tensors or of (name, tensor).
ParamsLike: TypeAlias = (
    nn.Module
    | torch.optim.Optimizer
    | Tensor
    | Mapping[str, nn.Module | Tensor]
    | Iterable[nn.Module | Tensor | tuple[str, Tensor]]
)

_LARGEST_SEARCHED = 10_000  # entries of a container that names are looked for in

_EXPECTED = "a Module, an optimizer, a mapping from name to tensor, or an iterable of tensors or (name, tensor)"


class Named(NamedTuple):
    """A tensor, its name where one is known, and the dotted path of the one module that owns it, where sure."""

    tensor: Tensor
    name: str | None
    module: str | None = None


def named_tensors(params: ParamsLike | None, namespace: Mapping[str, Any] | None = None) -> list[Named]:
    """The tensors that `params` stands for, each once, in their order.

    Args:
        params: see `ParamsLike`.
        namespace: variables of the caller; a tensor that `params` leaves unnamed takes its name from there where
            that is sure.

    Raises:
        InputError: `params` is of another type, or gives one name to two tensors.
    """
    found: dict[int, Named] = {}
    owner: dict[str, Tensor] = {}
    called: dict[int, str] | None = None
    for item in _walk(params):
        if id(item.tensor) in found:
            continue
        if item.name is None and namespace:
            called = names_in(namespace) if called is None else called
            item = Named(item.tensor, called.get(id(item.tensor)))
        if item.name is not None and owner.setdefault(item.name, item.tensor) is not item.tensor:
            raise InputError(f"params gives the name {item.name!r} to two different tensors; give each its own name.")
        found[id(item.tensor)] = item
    return list(found.values())


def _walk(params: ParamsLike | None) -> Iterator[Named]:
    if params is None:
        return
    if isinstance(params, nn.Module):
        yield from _of_module(params)
    elif isinstance(params, Tensor):
        yield Named(params, None)
    elif isinstance(params, torch.optim.Optimizer):
        for group in params.param_groups:
            # Optimizers built from named_parameters() keep the names beside the tensors.
            names = group.get("param_names", [None] * len(group["params"]))
            yield from (Named(tensor, name) for name, tensor in zip(names, group["params"], strict=True))
    elif isinstance(params, Mapping):
        for name, value in params.items():
            yield from _of_entry(str(name), value)
    elif isinstance(params, Iterable):
        items = list(params)
        for index, item in enumerate(items):
            if isinstance(item, Tensor):
                yield Named(item, None)
            elif isinstance(item, nn.Module):
                yield from _of_entry(str(index) if len(items) > 1 else "", item)
            elif isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str):
                yield from _of_entry(item[0], item[1])
            else:
                raise InputError(f"params expected {_EXPECTED}; got {type(item).__name__} at position {index}.")
    else:
        raise InputError(f"params expected {_EXPECTED}; got {type(params).__name__}.")


def _of_entry(name: str, value: Any) -> Iterator[Named]:
    if isinstance(value, nn.Module):
        yield from _of_module(value, prefix=name)
    elif isinstance(value, Tensor):
        yield Named(value, name, name.rpartition(".")[0] or None)
    else:
        raise InputError(f"params expected {_EXPECTED}; got {type(value).__name__} under the name {name!r}.")


def _of_module(module: nn.Module, prefix: str = "") -> Iterator[Named]:
    names: dict[int, list[tuple[str, nn.Parameter]]] = {}
    # Not named_parameters(): a subclass may override it, and looking runs no user code; this is faster, too.
    stack = [(f"{prefix}." if prefix else "", module)]
    while stack:
        path, part = stack.pop()
        for name, tensor in part._parameters.items():
            if tensor is not None:
                names.setdefault(id(tensor), []).append((path + name, tensor))
        stack.extend((f"{path}{name}.", child) for name, child in reversed(part._modules.items()) if child is not None)
    for aliases in names.values():
        name, tensor = aliases[0]
        owner = name.rpartition(".")[0]
        # A tied weight belongs to no single module.
        sure = len(aliases) == 1 or all(other.rpartition(".")[0] == owner for other, _ in aliases)
        yield Named(tensor, name, owner if sure else None)


def parts_of(module: nn.Module) -> dict[int, str]:
    """Path of each module inside `module`, by its identity; of one that stands at several places, the first."""
    paths: dict[int, str] = {}
    stack = [("", module)]
    while stack:
        path, part = stack.pop()
        if id(part) in paths:
            continue
        paths[id(part)] = path
        start = f"{path}." if path else ""
        stack.extend((start + name, child) for name, child in reversed(part._modules.items()) if child is not None)
    return paths


def module_paths(params: ParamsLike | None, namespace: Mapping[str, Any]) -> dict[int, str]:
    """Path of each module that `params` leads to, by its identity; of all others, as `namespace` calls them."""
    given: dict[str, nn.Module] = {}
    if isinstance(params, nn.Module):
        given[""] = params
    elif isinstance(params, Mapping):
        given = {str(name): value for name, value in params.items() if isinstance(value, nn.Module)}
    elif isinstance(params, (list, tuple)):
        for index, item in enumerate(params):
            if isinstance(item, nn.Module):
                given[str(index) if len(params) > 1 else ""] = item
            elif isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], nn.Module):
                given[str(item[0])] = item[1]
    called = {
        name: value for name, value in namespace.items() if isinstance(value, nn.Module) and not name.startswith("_")
    }
    inner = {key for module in called.values() for key in parts_of(module) if key != id(module)}
    given |= {name: module for name, module in called.items() if name not in given and id(module) not in inner}
    paths: dict[int, str] = {}
    for name, module in given.items():
        for key, path in parts_of(module).items():
            paths.setdefault(key, ".".join(part for part in (name, path) if part))
    return paths


def names_in(namespace: Mapping[str, Any]) -> dict[int, str]:
    """Name of each tensor, by its id, that exactly one variable of `namespace` leads to.

    A variable leads to a tensor when it is a module that owns it as a parameter (`model.0.weight`), the tensor itself,
    or a plain list, tuple or dict that holds it (`fast[0]`). The first kind wins over the second (a loop often leaves
    `p` behind), the second over the third, and two ways of one kind make it unsure. Modules that are parts of another
    module in `namespace` do not count.
    """
    direct: dict[int, set[str]] = {}
    held: dict[int, set[str]] = {}
    modules: dict[str, nn.Module] = {}
    for variable, value in list(namespace.items()):
        if variable.startswith("_"):
            continue
        if isinstance(value, Tensor):
            direct.setdefault(id(value), set()).add(variable)
        elif isinstance(value, nn.Module):
            modules[variable] = value
        elif type(value) in (list, tuple, dict) and len(value) <= _LARGEST_SEARCHED:
            entries = value.items() if type(value) is dict else enumerate(value)
            for key, item in list(entries):
                if isinstance(item, Tensor) and type(key) in (int, str):
                    held.setdefault(id(item), set()).add(f"{variable}[{key!r}]")
    parts = {id(part) for module in modules.values() for part in nn.Module.modules(module) if part is not module}
    owned: dict[int, set[str]] = {}
    for variable, module in modules.items():
        if id(module) not in parts:
            for item in _of_module(module, prefix=variable):
                owned.setdefault(id(item.tensor), set()).add(str(item.name))
    return {key: next(iter(names)) for ways in (held, direct, owned) for key, names in ways.items() if len(names) == 1}


def caller_namespace(depth: int = 1) -> dict[str, Any]:
    """Variables that the caller of the function that calls this sees: its globals, hidden by its locals."""
    frame = sys._getframe(depth + 1)
    return {**frame.f_globals, **locals_of(frame)}


def locals_of(frame: FrameType) -> dict[str, Any]:
    """The variables of a running function, which keeps none alive for it; nothing for a module, whose are globals.

    Before Python 3.13 a function keeps, once asked, a dict with copies of its variables, and so would keep alive what
    it deletes later. The dict is emptied again, unless the function holds it itself, from its own `locals()`.
    """
    if not frame.f_code.co_flags & CO_OPTIMIZED:
        return {}
    variables = frame.f_locals
    found = dict(variables)
    # Three references: the frame's, ours, and the argument of getrefcount itself.
    if sys.version_info < (3, 13) and sys.getrefcount(variables) <= 3:
        variables.clear()
    return found
