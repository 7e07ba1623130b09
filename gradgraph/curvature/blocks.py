"""The Hessian itself: one block per parameter, or all of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from gradgraph.curvature.budget import check_sizes
from gradgraph.curvature.first_order import first_order
from gradgraph.curvature.progress import Progress
from gradgraph.curvature.sharding import Share
from gradgraph.curvature.triangle import RowSettings, block_row, full_blocks, own_rows
from gradgraph.errors import InputError
from gradgraph.labels import labelled
from gradgraph.params import ParamsLike, caller_namespace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["HessianBlocks", "hessian"]


class HessianBlocks(dict[str, Any]):
    """Blocks of a Hessian by name of the parameter: tensors, or (blocks="full") dicts of them by the second name.

    `result["w"]` has shape `[*w.shape, *w.shape]`, `result["w"]["b"]` of a full one `[*w.shape, *b.shape]`.
    """

    def __init__(self, blocks: Mapping[str, Any], sizes: Mapping[str, int]) -> None:
        super().__init__(blocks)
        self._sizes = dict(sizes)

    def matrix(self, name: str | None = None) -> Tensor:
        """The Hessian as a matrix `[n, n]`, parameters flattened and in order; or the block of one parameter.

        Raises:
            InputError: no parameter has that name; or without a name, and the blocks between parameters were not
                computed.
        """
        if name is not None:
            self._check(name)
            block = self[name]
            size = self._sizes[name]
            tensor: Tensor = block[name] if isinstance(block, dict) else block
            return tensor.reshape(size, size)
        if len(self) == 1:
            return self.matrix(next(iter(self)))
        if not all(isinstance(block, dict) for block in self.values()):
            raise InputError(
                'the whole matrix needs the blocks between parameters: call hessian(..., blocks="full"), or ask for '
                f"matrix(name) with one of {', '.join(map(repr, list(self)[:5]))}."
            )
        rows = [torch.cat([self[i][j].reshape(self._sizes[i], self._sizes[j]) for j in self], dim=1) for i in self]
        return torch.cat(rows)

    @property
    def sizes(self) -> dict[str, int]:
        """How many entries each parameter has."""
        return dict(self._sizes)

    def block(self, row: str, column: str) -> Tensor | None:
        """The block between two parameters as a matrix; None if it was not computed.

        Raises:
            InputError: no parameter has one of the names.
        """
        self._check(row, column)
        entry = self[row]
        if not isinstance(entry, dict):
            return self.matrix(row) if row == column else None
        tensor: Tensor = entry[column]
        return tensor.reshape(self._sizes[row], self._sizes[column])

    def _check(self, *names: str) -> None:
        for name in names:
            if name not in self:
                known = ", ".join(map(repr, list(self)[:8])) + (f" and {len(self) - 8} more" if len(self) > 8 else "")
                raise InputError(f"a name of a parameter was expected, one of {known}; got {name!r}.")

    def heat_map(
        self, path: str | os.PathLike[str] | None = None, *, theme: str = "light", title: str | None = None
    ) -> Path | Figure:
        """Draw it: see `gradgraph.charts.heat_map`."""
        from gradgraph.charts import heat_map

        if path is None:
            return heat_map(self, theme=theme, title=title)
        return heat_map(self, path, theme=theme, title=title)

    def __repr__(self) -> str:
        kind = "full" if any(isinstance(block, dict) for block in self.values()) else "one block a parameter"
        shapes = ", ".join(f"{name}: {size} × {size}" for name, size in list(self._sizes.items())[:8])
        more = f", and {len(self) - 8} more" if len(self) > 8 else ""
        return f"<HessianBlocks, {kind}: {shapes}{more}>"


def hessian(
    loss: Tensor,
    params: ParamsLike,
    *,
    blocks: Literal["parameter", "full"] = "parameter",
    chunk_size: int | None = None,
    memory: int | None = None,
    shard: bool = False,
    progress: bool | None = None,
) -> HessianBlocks:
    """The Hessian of `loss`, exact to rounding: row i is the derivative of gradient entry i, as autograd gives it.

    Args:
        loss: a real scalar with a graph that no pass has freed.
        params: as for `hessian_diagonal`.
        blocks: "parameter" gives the block of each parameter with itself, "full" all of them.
        chunk_size: rows per pass; by default as many as `memory` holds.
        memory: bytes that the rows of one pass may take, the result not counted; see `hessian_diagonal`.
        shard: split the rows over the ranks of the default process group, started by `torchrun`; every rank calls with
            the same loss and parameters, and gets the whole result.
        progress: True shows a progress bar, False none, None one on a terminal or in a notebook, after a second.

    Returns:
        By name the tensor `[*p.shape, *p.shape]`; for "full" by two names `[*p.shape, *q.shape]`, nested as in
        `torch.func.hessian`. `.matrix()` gives it flat. Blocks without curvature, unreachable ones too, are zeros.

    Raises:
        InputError, GradGraphError: as `hessian_diagonal`.

    Cost: as many rows as entries, about two passes over the graph of the loss each; the result has the square of them.

    Example:
        >>> import torch, gradgraph
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> gradgraph.hessian(x[0] ** 2 * x[1], x)["x"]
        tensor([[4., 2.],
                [2., 0.]])
    """
    if blocks not in ("parameter", "full"):
        raise InputError(f"blocks expected 'parameter' or 'full', got {blocks!r}.")
    check_sizes(chunk_size, memory)
    tensors = labelled(params, caller_namespace())
    share = Share.of(shard, loss.device if isinstance(loss, Tensor) else None)
    with share, first_order("hessian", loss, tensors) as order:
        share.check(loss, order)
        with Progress(own_rows(order, share), "hessian", progress) as bar:
            how = RowSettings(chunk_size, memory, share, bar.advance)
            found: Mapping[str, Any]
            if blocks == "full":
                found = full_blocks(loss, order, how)
            else:
                found = {name: block_row(name, [name], order, how)[name] for name in tensors}
    return HessianBlocks(found, {name: tensor.numel() for name, tensor in tensors.items()})
