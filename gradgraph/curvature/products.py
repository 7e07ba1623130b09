"""Products of the Hessian with vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from gradgraph.aside import aside, hooks_suspended
from gradgraph.curvature.budget import check_sizes, chunk_for
from gradgraph.curvature.first_order import FirstOrder, first_order
from gradgraph.curvature.rows import Plan, rows_of
from gradgraph.errors import InputError
from gradgraph.labels import labelled
from gradgraph.params import ParamsLike, caller_namespace

__all__ = ["HessianOperator", "hvp"]

#: One tensor per parameter: by name, in the order of the parameters, or the only one.
VectorLike: TypeAlias = Mapping[str, Tensor] | Iterable[Tensor] | Tensor


def hvp(
    loss: Tensor,
    params: ParamsLike,
    vector: VectorLike,
    *,
    chunk_size: int | None = None,
    memory: int | None = None,
) -> dict[str, Tensor]:
    """The Hessian of `loss` times `vector`, or times several, exact to rounding, without the Hessian.

    Reverse over reverse: H v = d⟨g, v⟩ / dp with the gradient g of the loss (Pearlmutter, "Fast exact multiplication
    by the Hessian", 1994).

    Args:
        loss: a real scalar with a graph that no pass has freed.
        params: as for `hessian_diagonal`.
        vector: one tensor per parameter, of its shape and dtype: a mapping by name, or in the order of `params`; a
            tensor where there is one parameter. k vectors at once: tensors of shape `[k, *p.shape]`.
        chunk_size: of several vectors, how many share a pass; by default as many as `memory` holds.
        memory: bytes that those of one pass may take; see `hessian_diagonal`.

    Returns:
        A dict from name to a tensor of the parameter's shape, of k vectors `[k, *p.shape]`; zeros where the product is.

    Raises:
        InputError: `vector` does not fit the parameters; and as `hessian_diagonal`.
        GradGraphError: something in the graph cannot be differentiated twice.

    Cost: two passes, about four times the loss; several vectors share the first, and the second by vmap. Memory: that
    of the gradient's graph. For products one after the other, see `HessianOperator`.

    Example:
        >>> import torch, gradgraph
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> gradgraph.hvp((x**3).sum(), x, torch.tensor([1.0, 1.0]))["x"]
        tensor([ 6., 12.])
        >>> gradgraph.hvp((x**3).sum(), x, torch.eye(2))["x"]
        tensor([[ 6.,  0.],
                [ 0., 12.]])
    """
    check_sizes(chunk_size, memory)
    tensors = labelled(params, caller_namespace())
    given, count = _fitting(vector, tensors)
    with first_order("hvp", loss, tensors) as order:
        if count is None:
            return _product(order, given, order.reset)
        return _products(order, given, count, order.reset, chunk_size, memory)


class HessianOperator:
    """Multiplies by the Hessian of one loss, as often as asked: the gradient's graph is made once, and kept.

    For what needs a product before it knows the next vector: power iteration, Lanczos, conjugate gradients. The graph
    of the loss must stay as it is meanwhile: no pass may free it, no step change the parameters.

    Example:
        >>> import torch, gradgraph
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> operator = gradgraph.HessianOperator((x**3).sum(), x)
        >>> vector = torch.ones(2)
        >>> for _ in range(50):
        ...     vector = torch.nn.functional.normalize(operator(vector)["x"], dim=0)
        >>> float(vector @ operator(vector)["x"])
        12.0
    """

    def __init__(self, loss: Tensor, params: ParamsLike) -> None:
        """As `hvp`. Raises as it does. Cost: one pass; memory that of the gradient's graph, until it is dropped."""
        tensors = labelled(params, caller_namespace())
        with first_order("HessianOperator", loss, tensors) as order:
            # Not the block's own reset, which holds retained tensors.
            self._order = FirstOrder(order.tensors, order.gradients, order.reached, _nothing)
        self._roots = [get_gradient_edge(loss).node, *(get_gradient_edge(one).node for one in order.gradients.values())]

    def __call__(
        self, vector: VectorLike, *, chunk_size: int | None = None, memory: int | None = None
    ) -> dict[str, Tensor]:
        """The Hessian times `vector`, as `hvp` gives it.

        Raises:
            InputError: as `hvp`, or the graph was freed or changed in place since.

        Cost: one pass over the graph of the gradient.
        """
        check_sizes(chunk_size, memory)
        order = self._order
        given, count = _fitting(vector, order.tensors)
        again = "make the operator and use it before"
        with (
            aside("HessianOperator", self._roots, again=again) as reset,
            hooks_suspended(order.tensors.values()),
        ):
            if count is None:
                return _product(order, given, reset)
            return _products(order, given, count, reset, chunk_size, memory)

    def __repr__(self) -> str:
        size, count = sum(tensor.numel() for tensor in self._order.tensors.values()), len(self._order.tensors)
        return f"<HessianOperator: {size} × {size}, of {count} parameter{'' if count == 1 else 's'}>"


def _nothing() -> None:
    pass


def _product(order: FirstOrder, vector: Mapping[str, Tensor], reset: Callable[[], None]) -> dict[str, Tensor]:
    """The product with one vector, in one pass."""
    result = {name: torch.zeros_like(tensor.detach()) for name, tensor in order.tensors.items()}
    inputs = _reached(order)
    if order.gradients:
        reset()
        received = torch.autograd.grad(
            list(order.gradients.values()),
            list(inputs.values()),
            [vector[name] for name in order.gradients],
            retain_graph=True,
            allow_unused=True,
        )
        for name, product in zip(inputs, received, strict=True):
            if product is not None:
                result[name] = product.detach().to_dense()
    return result


def _products(
    order: FirstOrder,
    vectors: Mapping[str, Tensor],
    count: int,
    reset: Callable[[], None],
    chunk_size: int | None,
    memory: int | None,
) -> dict[str, Tensor]:
    """The products with `count` vectors: rows of d(V g)/dp, computed as rows of a Hessian are."""
    result = {
        name: tensor.detach().new_zeros((count, *tensor.shape), layout=torch.strided)
        for name, tensor in order.tensors.items()
    }
    if not order.gradients or not count:
        return result
    inputs = _reached(order)
    first = next(iter(order.gradients.values()))
    with torch.enable_grad():
        # Only its derivative is wanted, so what a sum over several dtypes rounds does not matter.
        parts = [vectors[name].reshape(count, -1).mv(one.reshape(-1)) for name, one in order.gradients.items()]
        along = torch.stack([part.to(first.device, first.dtype) for part in parts]).sum(0)
    plan = Plan(*chunk_for(along, chunk_size, memory))
    for start, rows in rows_of(along, list(inputs.values()), plan, reset):
        for name, row in zip(inputs, rows, strict=True):
            if row is not None:
                result[name][start : start + len(row)] = row.detach()
    return result


def _reached(order: FirstOrder) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in order.tensors.items() if order.reached[name] != "unreachable"}


def _fitting(
    vector: VectorLike, tensors: Mapping[str, Tensor], what: str = "vector"
) -> tuple[dict[str, Tensor], int | None]:
    """`vector` by name, checked against the parameters; and how many vectors it holds, None for a plain one."""
    if isinstance(vector, Mapping):
        missing = [name for name in tensors if name not in vector]
        foreign = [name for name in vector if name not in tensors]
        if missing or foreign:
            raise InputError(
                f"{what} expected one tensor for each of {', '.join(map(repr, list(tensors)[:5]))}; "
                + (f"it lacks {missing[0]!r}." if missing else f"it has {foreign[0]!r}, which is no parameter.")
            )
        given = {name: vector[name] for name in tensors}
    elif not _holds_tensors(vector):
        raise InputError(
            f"{what} expected a tensor for each of {', '.join(map(repr, list(tensors)[:5]))}: one tensor, several in "
            f"their order, or a dict by name, of the parameters' shapes; got {vector!r}."
        )
    else:
        entries = [vector] if isinstance(vector, Tensor) else list(vector)
        if len(entries) != len(tensors):
            raise InputError(
                f"{what} expected {len(tensors)} tensors, one per parameter in their order, got {len(entries)}."
            )
        given = dict(zip(tensors, entries, strict=True))
    count = _count(given, tensors)
    leading = () if count is None else (count,)
    for name, entry in given.items():
        expected = tensors[name]
        if not isinstance(entry, Tensor):
            raise InputError(f"{what} expected a tensor for {name!r}, got {type(entry).__name__}.")
        shape = (*leading, *expected.shape)
        if entry.shape != shape or entry.dtype != expected.dtype or entry.device != expected.device:
            if entry.shape != shape:
                advice = "split a flat vector with torch.split and reshape its parts"
            elif entry.dtype != expected.dtype:
                advice = f"convert it: .to({expected.dtype})"
            else:
                advice = f"move it: .to({str(expected.device)!r})"
            raise InputError(
                f"{what}'s tensor for {name!r} expected {_described(expected, shape)}, got "
                f"{_described(entry, entry.shape)}; {advice}."
            )
    return {name: entry.detach() for name, entry in given.items()}, count


def _holds_tensors(vector: object) -> bool:
    return isinstance(vector, Iterable) and not isinstance(vector, (str, bytes))


def _count(given: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> int | None:
    """The leading size, where the first tensor has one dimension more than its parameter."""
    name, entry = next(iter(given.items()))
    if isinstance(entry, Tensor) and entry.dim() == tensors[name].dim() + 1 and entry.shape[1:] == tensors[name].shape:
        return len(entry)
    return None


def _described(tensor: Tensor, shape: Iterable[int]) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} of shape {list(shape)} on {tensor.device}"
