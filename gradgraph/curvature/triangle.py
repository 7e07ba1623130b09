"""All blocks of a Hessian from the rows of one triangle: the other one is its mirror image, which is checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from gradgraph.curvature.budget import chunk_for
from gradgraph.curvature.first_order import FirstOrder
from gradgraph.curvature.rows import Plan, rows_of
from gradgraph.teardown import reachable

__all__ = ["Blocks", "block_row", "full_blocks"]

#: By two names, the tensor `[*p.shape, *q.shape]`.
Blocks = dict[str, dict[str, Tensor]]


def full_blocks(
    loss: Tensor, order: FirstOrder, advance: Callable[[int], None], chunk_size: int | None, memory: int | None
) -> Blocks:
    """The blocks between all parameters.

    The rows of a parameter are followed only to those parameters that stand nearer to the loss than it: a pass that
    need not go down to the first layers is shorter. The mirrored blocks are copies.

    What autograd gives is symmetric only if every backward is the true derivative of its forward, and no hook changes a
    gradient. One pass with a random vector tells, and then all rows are computed and given as they are.
    """
    names = _from_afar(loss, order)
    blocks = _zeros(order, names)
    for at, name in enumerate(names):
        row = block_row(name, names[at:], order, advance, chunk_size, memory, checked=True)
        blocks[name].update(row)
        for column in names[at + 1 :]:
            shape = (*order.tensors[column].shape, *order.tensors[name].shape)
            flat = row[column].reshape(order.tensors[name].numel(), -1)
            blocks[column][name] = flat.t().contiguous().view(shape)
    if not _is_product(blocks, order):
        columns = list(order.tensors)
        for name in names:
            advance(-order.gradients[name].numel())
            blocks[name].update(block_row(name, columns, order, advance, chunk_size, memory))
    return {name: {column: blocks[name][column] for column in order.tensors} for name in order.tensors}


def block_row(
    name: str,
    columns: Sequence[str],
    order: FirstOrder,
    advance: Callable[[int], None],
    chunk_size: int | None,
    memory: int | None,
    *,
    checked: bool = False,
) -> dict[str, Tensor]:
    """The blocks of parameter `name` with each of `columns`, row by row.

    Args:
        name: whose entries the rows stand for.
        columns: by what they are differentiated.
        order: the gradients.
        advance: is told of every row that is done.
        chunk_size: rows per pass.
        memory: bytes for them.
        checked: the caller will check the rows.
    """
    tensor = order.tensors[name]
    gradient = order.gradients.get(name)
    inputs = {column: order.tensors[column] for column in columns if order.tensors[column].requires_grad}
    result = {column: tensor.detach().new_zeros((tensor.numel(), *order.tensors[column].shape)) for column in columns}
    if gradient is not None:
        plan = Plan(*chunk_for(gradient, chunk_size, memory), checked=checked)
        for start, rows in rows_of(gradient, list(inputs.values()), plan, order.reset):
            count = max((len(one) for one in rows if one is not None), default=0)
            if not count:
                advance(gradient.numel() - start)
                break
            for column, one in zip(inputs, rows, strict=True):
                if one is not None:
                    result[column][start : start + count] = one.detach()
            advance(count)
    return {column: block.view((*tensor.shape, *order.tensors[column].shape)) for column, block in result.items()}


def _from_afar(loss: Tensor, order: FirstOrder) -> list[str]:
    """The parameters whose gradients have a graph, the farthest from the loss first."""
    place = {node: at for at, node in enumerate(reachable([get_gradient_edge(loss).node]))}
    return sorted(order.gradients, key=lambda name: -place[get_gradient_edge(order.tensors[name]).node])


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
    bound = eps**0.6 * float(expected.abs().max()) + eps * largest
    far = float((found - expected).abs().max())
    return far <= bound  # False where anything is NaN


def _random(like: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(like.shape, generator=generator, dtype=torch.float32).to(like)
