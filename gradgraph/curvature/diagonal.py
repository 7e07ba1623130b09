"""The diagonal of the Hessian."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from gradgraph.curvature.budget import check_generator, check_sizes
from gradgraph.curvature.entries import accumulated, batched, zeros
from gradgraph.curvature.estimators import estimate, planned
from gradgraph.curvature.first_order import FirstOrder, first_order
from gradgraph.curvature.graph_method import GraphMethod
from gradgraph.curvature.progress import Progress
from gradgraph.curvature.report import ParameterReport
from gradgraph.curvature.result import HessianDiagonal
from gradgraph.curvature.sharding import Share
from gradgraph.errors import InputError
from gradgraph.labels import labelled
from gradgraph.params import ParamsLike, caller_namespace

__all__ = ["Method", "hessian_diagonal"]

Method = Literal["auto", "graph", "batched", "accumulate", "hutchinson", "xdiag"]


def hessian_diagonal(
    loss: Tensor,
    params: ParamsLike,
    *,
    method: Method = "auto",
    chunk_size: int | None = None,
    memory: int | None = None,
    probes: int | None = None,
    tolerance: float | None = None,
    generator: torch.Generator | None = None,
    shard: bool = False,
    progress: bool | None = None,
) -> HessianDiagonal:
    """The diagonal of the Hessian of `loss`: d²loss / dp² for every entry p of every parameter.

    Exact to rounding but for the estimators, which give a standard error with each entry. `.grad`, the RNG, hooks and
    the graph of the loss are afterwards as before. Hooks on the parameters themselves do not run; those on other
    tensors do, and so does the backward of custom Functions.

    Args:
        loss: a real scalar with a graph that no pass has freed.
        params: what to differentiate by: a `Module`, an optimizer, a mapping from name to tensor, or an iterable of
            tensors or of (name, tensor). Unnamed ones take the caller's variable names, else `param0`, `param1`, ...
        method: the exact ones:

            - "graph": read off the graph's structure. A parameter that enters linearly, as in linear layers,
              convolutions, embeddings and the scales and shifts of norms, needs a few passes for each output unit
              instead of one for each entry, wherever the loss keeps samples apart; that is proven or probed, never
              assumed. The others are computed as by "batched".
            - "batched": many rows of the Hessian in one pass by vmap, one a pass where the graph cannot be batched.
            - "accumulate": one `backward(retain_graph=True)` per entry, its contribution to `.grad` read from the
              ledger. The reference: slow and simple, for leaves.
            - "auto": the cheapest of those for each parameter, which "graph" finds.

            And the estimators, for what is too large for those: "hutchinson", and "xdiag", which learns the largest
            eigenvectors from half of its products.
        chunk_size: rows per pass; by default as many as `memory` holds.
        memory: bytes that the rows of one pass may take; by default what is plenty for speed (on a CPU 16 MiB, 64 MiB
            for tangents of "graph", or what 16 rows take if that is more; on a GPU 1 GiB or 16 rows), and never more
            than a quarter of what is free. A single row may need more: it is computed alone, and the report says so.
        probes: estimators: Hessian-vector products to spend at most; 100 by default. "hutchinson" takes a single one,
            as AdaHessian does; it has no spread, so its standard errors are NaN.
        tolerance: estimators: stop where the norm of the standard errors is at most this share of the norm of the
            diagonal.
        generator: estimators: decides the random vectors, by one number drawn from it; by default one seeded 0, so
            that a call repeats.
        shard: split rows and probes over the ranks of the default process group, which must all have this same loss. A
            batch of another size may be rounded in another way; with `chunk_size=1` the bits are those of one process.
        progress: True shows a progress bar, False none, None one on a terminal or in a notebook, after a second.

    Returns:
        A dict from name to a tensor of the parameter's shape and dtype, with `.report`, and `.stderr` where estimated.
        Parameters whose gradient does not depend on them give zeros ("linear" in the report), and so do those that the
        loss does not reach ("unreachable").

    Raises:
        InputError: the loss is no real scalar, has no graph or a freed one, or reaches none of the parameters; a
            parameter is complex, or no leaf (method "accumulate"); an option is out of range, or given to a method that
            has no use for it; `shard` without a process group, or over ranks with different losses.
        GradGraphError: something in the graph cannot be differentiated twice; one row does not fit into memory.

    Cost: "graph": of a linear layer as many passes as it has units, times the rows of a sample; "batched",
    "accumulate": as many as entries; the estimators: `probes`. Each is about two passes over the graph of the loss.

    Example:
        >>> import torch, gradgraph
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> gradgraph.hessian_diagonal((x**3).sum(), x)["x"]
        tensor([ 6., 12.])
    """
    if method not in get_args(Method):
        raise InputError(f"method expected one of {', '.join(map(repr, get_args(Method)))}, got {method!r}.")
    check_sizes(chunk_size, memory)
    estimates = method in ("hutchinson", "xdiag")
    if estimates:
        planned(method, probes, tolerance)  # type: ignore[arg-type]
        check_generator(generator)
    else:
        _check_unused(method, probes=probes, tolerance=tolerance, generator=generator)
    tensors = labelled(params, caller_namespace())
    if method == "accumulate":
        _check_leaves(tensors)
    structure = GraphMethod(loss, tensors, chunk_size, memory) if method in ("auto", "graph") else None
    what = "hessian_diagonal"
    with (
        Share.of(shard, getattr(loss, "device", None)) as share,
        first_order(what, loss, tensors, None if structure is None else structure.differentiate) as order,
    ):
        share.check(loss, order)
        curved = [name for name in tensors if name in order.gradients]
        found = {name: zeros(name, order) for name in tensors if name not in order.gradients}
        stderr: dict[str, Tensor] = {}
        if estimates and curved:
            total = planned(method, probes, tolerance)  # type: ignore[arg-type]
            with Progress(total, "hessian diagonal, estimated", progress) as bar:
                values, stderr, report = estimate(
                    method,  # type: ignore[arg-type]
                    order,
                    curved,
                    probes=probes,
                    tolerance=tolerance,
                    generator=generator,
                    chunk_size=chunk_size,
                    memory=memory,
                    share=share,
                    advance=bar.advance,
                )
            found.update((name, (values[name], report[name])) for name in curved)
        else:
            exact = _exact(method, order, structure, curved, share, chunk_size, memory, progress)
            share.sum_([exact[name][0] for name in curved])
            found.update(exact)
    values = {name: found[name][0] for name in tensors}
    return HessianDiagonal(values, {name: found[name][1] for name in tensors}, tensors, stderr)


def _exact(
    method: Method,
    order: FirstOrder,
    structure: GraphMethod | None,
    names: list[str],
    share: Share,
    chunk_size: int | None,
    memory: int | None,
    progress: bool | None,
) -> dict[str, tuple[Tensor, ParameterReport]]:
    """This rank's part of each diagonal."""
    read: list[str] = []
    total = 0
    if structure is not None:
        with torch.no_grad():
            structure.plan(order.reset)
        share.agree([(name, name in structure.names) for name in names])
        read, total = structure.names, structure.tangents
    total += sum(order.tensors[name].numel() for name in names if name not in read)
    found: dict[str, tuple[Tensor, ParameterReport]] = {}
    with Progress(total // share.size, "hessian diagonal", progress) as bar:
        if structure is not None:
            with torch.no_grad():
                structure.run(share, bar.advance)
                found.update(structure.results(share))
        one: Callable[[str], tuple[Tensor, ParameterReport]]
        if method == "accumulate":
            one = partial(accumulated, order=order, share=share, advance=bar.advance)
        else:
            one = partial(batched, order=order, share=share, advance=bar.advance, chunk_size=chunk_size, memory=memory)
        for name in names:
            if name in found:
                continue
            if structure is not None and not structure.supply(name, order):
                found[name] = zeros(name, order)
                continue
            why = "" if structure is None else structure.refused.get(name, "")
            found[name] = one(name, why=why) if why else one(name)
    return found


def _check_leaves(tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if not tensor.is_leaf:
            raise InputError(
                f'method "accumulate" expected leaves, whose .grad a pass adds to, but {name!r} is the result of a '
                f'{type(tensor.grad_fn).__name__}. Use method="batched".'
            )


def _check_unused(method: str, **options: object) -> None:
    for name, value in options.items():
        if value is not None:
            raise InputError(
                f'{name}= is for the estimators, and method="{method}" is exact and has no use for it: leave it out, '
                'or use method="hutchinson" or "xdiag".'
            )
