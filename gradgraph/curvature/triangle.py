"""All blocks of a Hessian from the rows of one triangle: the other one is its mirror image, which is checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from gradgraph.curvature.budget import chunk_for
from gradgraph.curvature.first_order import FirstOrder
from gradgraph.curvature.rows import Plan, largest, rows_of
from gradgraph.curvature.sharding import Share
from gradgraph.teardown import reachable
from gradgraph.walk import edge_of

__all__ = ["Blocks", "RowSettings", "block_row", "full_blocks", "own_rows"]

#: By two names, the tensor `[*p.shape, *q.shape]`.
Blocks = dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class RowSettings:
    """How rows are computed: how many a pass, by whom, and who is told of each that is done."""

    chunk_size: int | None
    memory: int | None
    share: Share
    advance: Callable[[int], None]


def own_rows(order: FirstOrder, share: Share) -> int:
    """How many rows of the Hessian fall to this rank."""
    return sum(stop - start for start, stop in (share.slice(one.numel()) for one in order.gradients.values()))


def full_blocks(loss: Tensor, order: FirstOrder, how: RowSettings) -> Blocks:
    """The blocks between all parameters.

    The rows of a parameter are followed only to those parameters that stand nearer to the loss than it: a pass that
    need not go down to the first layers is shorter. The mirrored blocks are copies.

    What autograd gives is symmetric only if every backward is the true derivative of its forward, and no hook changes a
    gradient. One pass with a random vector tells, and then all rows are computed and given as they are.
    """
    names = _from_afar(loss, order)
    blocks = _zeros(order, names)
    for at, name in enumerate(names):
        row = block_row(name, names[at:], order, how, checked=True)
        blocks[name].update(row)
        for column in names[at + 1 :]:
            shape = (*order.tensors[column].shape, *order.tensors[name].shape)
            flat = row[column].reshape(order.tensors[name].numel(), -1)
            blocks[column][name] = flat.t().contiguous().view(shape)
    # All ranks must take one way, and a borderline case may be rounded in several.
    if not how.share.first(float(_is_product(blocks, order))):
        how.advance(-own_rows(order, how.share))
        for name in names:
            blocks[name].update(block_row(name, list(order.tensors), order, how))
    return {name: {column: blocks[name][column] for column in order.tensors} for name in order.tensors}


def block_row(
    name: str, columns: Sequence[str], order: FirstOrder, how: RowSettings, *, checked: bool = False
) -> dict[str, Tensor]:
    """The blocks of parameter `name` with each of `columns`, row by row; `checked`: the caller will check the rows."""
    tensor = order.tensors[name]
    gradient = order.gradients.get(name)
    inputs = {column: order.tensors[column] for column in columns if order.tensors[column].requires_grad}
    result = {column: tensor.detach().new_zeros((tensor.numel(), *order.tensors[column].shape)) for column in columns}
    if gradient is not None:
        first, last = how.share.slice(gradient.numel())
        if not how.share.is_single:
            with torch.enable_grad():
                gradient = gradient.reshape(-1)[first:last]
        size = max(largest(one.detach()) for one in order.gradients.values())
        plan = Plan(*chunk_for(gradient, how.chunk_size, how.memory), checked=checked, size=size)
        for start, rows in rows_of(gradient, list(inputs.values()), plan, order.reset):
            count = max((len(one) for one in rows if one is not None), default=0)
            if not count:
                how.advance(gradient.numel() - start)
                break
            for column, one in zip(inputs, rows, strict=True):
                if one is not None:
                    result[column][first + start : first + start + count] = one.detach()
            how.advance(count)
        how.share.sum_([result[column] for column in inputs])
    return {column: block.view((*tensor.shape, *order.tensors[column].shape)) for column, block in result.items()}


def _from_afar(loss: Tensor, order: FirstOrder) -> list[str]:
    """The parameters whose gradients have a graph, the farthest from the loss first."""
    place = {node: at for at, node in enumerate(reachable([get_gradient_edge(loss).node]))}
    return sorted(order.gradients, key=lambda name: -place[edge_of(order.tensors[name]).node])


def _zeros(order: FirstOrder, computed: Sequence[str]) -> Blocks:
    """Zeros for every pair that no pass will fill."""
    blocks: Blocks = {}
    for name, tensor in order.tensors.items():
        others = [other for other in order.tensors if name not in computed or other not in computed]
        blocks[name] = {
            other: tensor.detach().new_zeros((*tensor.shape, *order.tensors[other].shape)) for other in others
        }
    return blocks


def _is_product(blocks: Blocks, order: FirstOrder) -> bool:
    """Whether a random combination of all rows, computed in one plain pass, is that of the rows in `blocks`."""
    if not order.gradients:
        return True
    inputs = {name: tensor for name, tensor in order.tensors.items() if tensor.requires_grad}
    vector = {name: _random(gradient, seed) for seed, (name, gradient) in enumerate(order.gradients.items())}
    order.reset()
    received = torch.autograd.grad(
        list(order.gradients.values()),
        list(inputs.values()),
        [vector[name] for name in order.gradients],
        retain_graph=True,
        allow_unused=True,
    )
    pairs = []
    for (column, tensor), product in zip(inputs.items(), received, strict=True):
        size = tensor.numel()
        if size:
            found = torch.zeros(size, dtype=tensor.dtype, device=tensor.device)
            for name, entry in vector.items():
                flat = entry.reshape(-1).to(found)
                found += flat @ blocks[name][column].reshape(len(flat), size).to(found)
            expected = torch.zeros_like(found) if product is None else product.detach().to_dense().reshape(-1)
            pairs.append((found, expected))
    largest = max((float(expected.abs().max()) for _, expected in pairs), default=0.0)
    return all(_close(found, expected, largest) for found, expected in pairs)


def _close(found: Tensor, expected: Tensor, largest: float) -> bool:
    """Equal to some multiple of rounding: of the tensor's own entries, or of all of them."""
    eps = torch.finfo(found.dtype).eps
    bound: float = eps**0.6 * float(expected.abs().max()) + eps * largest
    far = float((found - expected).abs().max())
    return far <= bound  # False where anything is NaN


def _random(like: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(like.shape, generator=generator, device="cpu", dtype=torch.float32).to(like)
