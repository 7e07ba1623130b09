"""How many rows of a Hessian fit into memory at once."""

from __future__ import annotations

import math
import os
from numbers import Integral, Real

import torch
from torch import Tensor

from gradgraph.errors import InputError
from gradgraph.teardown import reachable

__all__ = ["budget", "bytes_per_row", "check_generator", "check_sizes", "chunk_for", "is_number", "mib"]

#: Rows beyond these bytes gain nothing: on a CPU the working set should stay near the caches. But a pass has costs of
#: its own, so a few rows go into one in any case.
_ENOUGH_CPU = 16 * 2**20
_ENOUGH_DEVICE = 2**30
_FEW = 16


def bytes_per_row(gradient: Tensor) -> int:
    """Bytes that one row of the Hessian needs at most while it is computed, from the double-backward graph's shapes.

    Every node behind the gradient receives one gradient of each of its outputs per row. They are freed as the pass
    goes on, so the sum bounds the peak, temporaries of single operations aside.
    """
    total = 2 * gradient.numel() * gradient.element_size()  # the one-hot vector and the row
    assert gradient.grad_fn is not None
    for fn in reachable([gradient.grad_fn]):
        for one in fn._input_metadata:
            if not one.is_nested_tensor:
                total += math.prod(one.shape) * one.dtype.itemsize
    return total


def budget(memory: int | None, device: torch.device, row: int, *, plenty: int = _ENOUGH_CPU) -> int:
    """The bytes to spend: `memory`, or what is plenty, but no more than a quarter of what is free on the device.

    Args:
        memory: what the user says.
        device: where the rows are computed.
        row: bytes that one row takes.
        plenty: bytes beyond which a CPU gains nothing.
    """
    check_sizes(None, memory)
    if memory is not None:
        return int(memory)
    plenty = max(plenty if device.type == "cpu" else _ENOUGH_DEVICE, _FEW * row)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _free_memory()
    return min(plenty, free // 4)


def check_sizes(chunk_size: int | None, memory: int | None) -> None:
    """Refuse what holds no row, or is no number.

    Raises:
        InputError: `chunk_size` is no positive whole number, or `memory` no positive number.
    """
    if chunk_size is not None and (not is_number(chunk_size, Integral) or chunk_size < 1):
        raise InputError(f"chunk_size expected a positive number of rows, or None; got {chunk_size!r}.")
    if memory is not None and (not is_number(memory, Real) or not 0 < memory < math.inf):
        raise InputError(
            f"memory expected a positive number of bytes, such as 16 * 2**20, or None for the default; got {memory!r}."
        )


def check_generator(generator: object) -> None:
    """Refuse what draws no numbers.

    Raises:
        InputError: `generator` is neither a `torch.Generator` nor None.
    """
    if not (generator is None or isinstance(generator, torch.Generator)):
        raise InputError(
            "generator expected a torch.Generator, such as torch.Generator().manual_seed(3), or None for one seeded 0; "
            f"got {generator!r}."
        )


def is_number(value: object, kind: type) -> bool:
    """Whether it is a number of this kind; True and False are none."""
    return isinstance(value, kind) and not isinstance(value, bool)


def chunk_for(gradient: Tensor, chunk_size: int | None, memory: int | None) -> tuple[int, str]:
    """Rows per pass, and why so many."""
    check_sizes(chunk_size, memory)
    if chunk_size is not None:
        return min(chunk_size, max(1, gradient.numel())), "chunk_size was given"
    if gradient.numel() == 0:
        return 1, "it has no entries"
    row = bytes_per_row(gradient)
    share = budget(memory, gradient.device, row)
    fitting = share // row
    if fitting < 1:
        return 1, f"one row needs {mib(row)}, more than the {mib(share)} to spend"
    rows = max(1, min(fitting, gradient.numel()))
    return rows, f"{mib(row)} a row, {mib(share)} to spend"


def mib(size: int) -> str:
    """A number of bytes for reading."""
    if size < 2**10:
        return f"{size} B"
    return f"{size / 2**20:.3g} MiB" if size >= 2**18 else f"{size / 2**10:.3g} KiB"


def _free_memory() -> int:
    """Free bytes of main memory, within the limits of the control group where there is one."""
    free = (
        _available_pages(),
        _group_share("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        _group_share("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    )
    return max(0, min(size for size in free if size is not None))


def _available_pages() -> int:
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # macOS and Windows do not tell
        return 4 * 2**30


def _group_share(limit: str, used: str) -> int | None:
    try:
        with open(limit) as most, open(used) as now:
            return int(most.read()) - int(now.read())
    except (OSError, ValueError):  # no such group, or no limit ("max")
        return None
