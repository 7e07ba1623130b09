"""The diagonal of a Hessian in a file of tensors."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gradgraph.errors import GradGraphError
from gradgraph.files import write_whole

if TYPE_CHECKING:
    from torch import Tensor

    from gradgraph.curvature import HessianDiagonal

__all__ = ["write_diagonal"]


def write_diagonal(
    diagonal: HessianDiagonal, path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None
) -> Path:
    """Write `diagonal` as a safetensors file, whole or not at all.

    It holds, by its name, a tensor of each parameter's shape and dtype; of an estimated one also the standard error of
    each entry, as `stderr:NAME`. Its metadata are strings: `method`, `exact`, `passes` and `reason` are JSON objects by
    the parameter's name.

    Args:
        diagonal: what to write.
        path: the file; an existing one is replaced.
        metadata: more strings by name.

    Raises:
        GradGraphError: the package safetensors is not installed.
        InputError: `path` cannot be written.
    """
    try:
        from safetensors.torch import save
    except ImportError as error:
        raise GradGraphError(
            f"cannot write {os.fspath(path)!r}: the package safetensors is not installed; pip install "
            "'gradgraph[save]', or pip install safetensors."
        ) from error
    tensors = {name: _plain(values) for name, values in diagonal.items()}
    tensors |= {f"stderr:{name}": _plain(values) for name, values in diagonal.stderr.items()}
    about = {
        field: json.dumps({name: getattr(report, field) for name, report in diagonal.report.items()})
        for field in ("method", "exact", "passes", "reason")
    }
    return write_whole(path, _sorted(save(tensors, {**(metadata or {}), **about})))


def _sorted(content: bytes) -> bytes:
    """The same file with its metadata in order: safetensors writes them in another one each time."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight bytes
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def _plain(values: Tensor) -> Tensor:
    """A copy in main memory with a storage of its own: the format knows no others."""
    return values.detach().cpu().clone().contiguous()
