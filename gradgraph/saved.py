"""What an autograd node saved for its backward, read without running anyone's code.

A C++ node keeps each saved value as a `SavedTensor` under `_raw_saved_<name>`, a Python Function in the tuple
`_raw_saved_tensors`. Of a `SavedTensor`, `.data` is the tensor itself, the object that a pack hook left in its place,
or None once freed; reading it runs no hook. `_saved_<name>` would: behind a hook it runs the hook (a checkpointed
forward would run again), so it is read only where there is none, to learn whether the tensor was changed since.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Charges", "SavedValue", "parts_of", "saved_values", "storages_of"]

_VERSIONS = re.compile(r"is at version (\d+); expected version (\d+)")

#: Name of each saved value of a node type, with the two ways to read it. `dir()` per node would be slow.
_readers: dict[type, list[tuple[str, Callable[[Any], Any], Callable[[Any], Any]]]] = {}


class SavedValue(NamedTuple):
    """One saved tensor of one node."""

    name: str  # "self", "weight", "saved_tensors[0]", as torch calls it
    data: Tensor | None  # the tensor where it is plainly there (live or modified)
    state: str  # "live", "freed", "modified", "packed"
    version: int | None  # the version it was saved at
    current_version: int | None = None  # the version it has now, where modified


def saved_values(fn: Any) -> list[SavedValue]:
    """Every tensor that the node `fn` saved, freed ones too; an input that needs no gradient is not saved.

    Runs no hook and no user code.
    """
    readers = _readers.get(type(fn))
    if readers is None:
        if isinstance(fn, torch._C._FunctionBase):
            return _saved_by_function(fn)
        readers = _readers[type(fn)] = _find_readers(type(fn))
    found: list[SavedValue] = []
    for name, raw, unpack in readers:
        try:
            value = raw(fn)
        except RuntimeError:  # a TensorList raises once freed, and no longer tells its length
            found.append(SavedValue(name, None, "freed", None))
            continue
        if isinstance(value, (tuple, list)):
            found += _read_list(name, value, partial(unpack, fn))
        elif value is None:
            continue
        elif value.unpack_hook is not None:
            found.append(SavedValue(name, None, "packed", None))
        else:
            try:
                # There is no hook, so this runs no code of the user's. It tells a freed tensor from one that never
                # was, compares versions, and gives a node's own result its grad_fn back.
                data = unpack(fn)
            except RuntimeError as error:
                found.append(_unreadable(name, value, error))
            else:
                if data is not None:
                    found.append(SavedValue(name, data, "live", data._version))
    return found


def _find_readers(node_type: type) -> list[tuple[str, Callable[[Any], Any], Callable[[Any], Any]]]:
    return [
        (name.removeprefix("_raw_saved_"), getattr(node_type, name).__get__, getattr(node_type, name[4:]).__get__)
        for name in sorted(dir(node_type))
        if name.startswith("_raw_saved_")
    ]


def _saved_by_function(fn: Any) -> list[SavedValue]:
    """What a Python Function saved: by save_for_backward, and as tensors put on its ctx."""
    found: list[SavedValue] = []
    try:
        found += _read_list("saved_tensors", fn._raw_saved_tensors or (), lambda: fn.saved_tensors)
    except RuntimeError:
        # After its backward it forgets even how many tensors it saved, if any.
        found.append(SavedValue("saved_tensors", None, "freed", None))
    for name, value in vars(fn).items():
        parts = value if type(value) in (list, tuple) else [value]
        for index, item in enumerate(parts):
            if isinstance(item, Tensor):
                label = f"ctx.{name}" if item is value else f"ctx.{name}[{index}]"
                found.append(SavedValue(label, item, "live", _version(item)))
    return found


def _read_list(name: str, raws: Sequence[Any], unpack: Callable[[], Any]) -> list[SavedValue]:
    """The values behind a list of SavedTensors, which torch unpacks all at once."""
    held = [(f"{name}[{index}]", raw) for index, raw in enumerate(raws) if raw is not None]
    if any(raw.unpack_hook is not None for _, raw in held):
        error = RuntimeError("unpacking the list would run a hook")
    else:
        try:
            values = unpack()
        except RuntimeError as raised:
            error = raised
        else:
            found = [(f"{name}[{index}]", data) for index, data in enumerate(values)]
            return [SavedValue(label, data, "live", _version(data)) for label, data in found if data is not None]
    return [_unreadable(label, raw, error) for label, raw in held if raw.data is not None]


def _unreadable(name: str, raw: Any, error: RuntimeError) -> SavedValue:
    """What is known of a SavedTensor that cannot be unpacked, alone or with its list, because of `error`."""
    data = raw.data
    if raw.unpack_hook is not None:
        return SavedValue(name, None, "packed", None)
    if data is None:
        return SavedValue(name, None, "freed", None)
    versions = _VERSIONS.search(str(error))
    # Of a list, the error is about the one that has the version it tells.
    if versions and _version(data) == int(versions[1]):
        return SavedValue(name, data, "modified", int(versions[2]), int(versions[1]))
    return SavedValue(name, data, "live", _version(data))


def _version(tensor: Tensor) -> int | None:
    try:
        return tensor._version
    except RuntimeError:  # inference tensors count no versions
        return None


def storages_of(tensor: Tensor) -> Sequence[torch.UntypedStorage]:
    """The storages that hold `tensor`'s values; none where it has none (functorch wrappers, opaque backends)."""
    try:
        if tensor.layout is torch.strided:
            return (tensor.untyped_storage(),)
        return [part.untyped_storage() for part in parts_of(tensor)]
    except (NotImplementedError, RuntimeError):  # a functorch wrapper has no storage of its own
        return []


def parts_of(tensor: Tensor) -> list[Tensor]:
    """The strided tensors that a sparse or nested tensor is made of; none for any other."""
    layout = tensor.layout
    if layout is torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    if layout in (torch.sparse_csr, torch.sparse_bsr):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    if layout in (torch.sparse_csc, torch.sparse_bsc):
        return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    return [tensor.values()] if tensor.is_nested else []


class Charges:
    """Numbers storages in the order they are first seen, and charges the bytes of each one once.

    Holds every storage it has seen, so that no address is used twice while it lives.
    """

    def __init__(self) -> None:
        self._seen: dict[int, tuple[int, torch.UntypedStorage]] = {}

    def charge(self, tensor: Tensor) -> tuple[int | None, int]:
        """The number of the tensor's storage, its first if it has several, and the bytes not charged before."""
        seen = self._seen
        number = None
        fresh = 0
        for storage in storages_of(tensor):
            known = seen.get(storage._cdata)
            if known is None:
                known = seen[storage._cdata] = (len(seen), storage)
                fresh += storage.nbytes()
            if number is None:
                number = known[0]
        return number, fresh

    def number(self, tensor: Tensor) -> int | None:
        """The number of the tensor's storage, None where it was never charged."""
        for storage in storages_of(tensor):
            known = self._seen.get(storage._cdata)
            if known is not None:
                return known[0]
        return None
