"""Gradient statistics per node: what a backward pass hands to each of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from gradgraph.aside import aside
from gradgraph.errors import InputError
from gradgraph.graph import AutogradGraph
from gradgraph.kinds import name_of
from gradgraph.measure import figures

__all__ = ["GradientStats", "Gradients", "OutputStats", "capture", "gradients"]


@dataclass(frozen=True)
class OutputStats:
    """The accumulated gradient of one output of a node, summed up in double precision.

    Attributes:
        norm: 2-norm of the finite entries; None where there are none (all NaN or infinite, or a meta tensor).
        mean: mean of the finite entries (of their real parts, where complex); None where there are none.
        max_abs: largest modulus of the finite entries; None where there are none.
        zeros: how many entries are exactly zero.
        nan: how many are NaN.
        inf: how many are infinite.
        numel: how many there are.
        mean_imag: mean of the imaginary parts; None where the gradient is real.
    """

    norm: float | None
    mean: float | None
    max_abs: float | None
    zeros: int
    nan: int
    inf: int
    numel: int
    mean_imag: float | None = None


@dataclass(frozen=True)
class GradientStats:
    """The gradients that reached one node: per output of the forward operation, None where none reached that one.

    The properties take all outputs together.
    """

    outputs: list[OutputStats | None]

    @property
    def norm(self) -> float | None:
        """2-norm over all outputs; None where none has a finite entry."""
        norms = [one.norm for one in self.outputs if one is not None and one.norm is not None]
        return math.hypot(*norms) if norms else None

    @property
    def max_abs(self) -> float | None:
        """Largest modulus over all outputs; None where none has a finite entry."""
        return max((one.max_abs for one in self.outputs if one is not None and one.max_abs is not None), default=None)

    @property
    def numel(self) -> int:
        """How many entries reached the node."""
        return sum(one.numel for one in self.outputs if one is not None)

    @property
    def zeros(self) -> int:
        """How many of them are exactly zero."""
        return sum(one.zeros for one in self.outputs if one is not None)

    @property
    def nan(self) -> int:
        """How many of them are NaN."""
        return sum(one.nan for one in self.outputs if one is not None)

    @property
    def inf(self) -> int:
        """How many of them are infinite."""
        return sum(one.inf for one in self.outputs if one is not None)


class Gradients(dict[int, GradientStats]):
    """Gradient statistics by node key. A node that no gradient reached is absent; a zero gradient is present."""

    def annotations(self, graph: AutogradGraph) -> dict[int, list[dict[str, Any] | None] | None]:
        """For `annotate(graph, "gradient", result)`: one dict per output of each node, None where none reached it."""
        reached = {key: [_as_json(one) for one in stats.outputs] for key, stats in self.items()}
        return {**dict.fromkeys(graph), **reached}

    def __repr__(self) -> str:
        return f"<Gradients of {len(self)} nodes>"


def gradients(graph: AutogradGraph, grad_outputs: Tensor | Sequence[Tensor | None] | None = None) -> Gradients:
    """Statistics of the gradient that reaches each node, from one backward pass over the live graph.

    A node's gradient is the *accumulated* one: the sum over all ways from the roots to it, as its hooks see it. One
    engine pass, no more memory than a pass takes, and the graph is kept (`retain_graph`). `.grad` and the RNG stay
    as they are. It is a real backward pass: tensor hooks and the backward of custom Functions do run, as in any pass;
    what runs on accumulation (post-accumulate hooks) does not.

    Args:
        graph: a live graph, from `trace`.
        grad_outputs: the gradient of each root, as for `torch.autograd.grad`: a tensor where there is one root, else
            one entry per root in the order given to `trace`, None for a scalar. Scalars need none.

    Returns:
        `GradientStats` by node key. Nodes that no gradient reached are absent; a gradient of zeros is there.

    Raises:
        ReleasedGraphError: the graph holds no live nodes.
        InputError: a root is no real scalar and has no gradient given, a gradient does not fit its root, or an earlier
            pass freed the graph.
        GradGraphError: the graph goes through a reentrant checkpoint.

    Example:
        >>> import torch, gradgraph
        >>> x = torch.tensor([3.0, 4.0], requires_grad=True)
        >>> graph = gradgraph.trace((x * x).sum())
        >>> gradgraph.gradients(graph)[graph.find("x")].norm
        10.0
    """
    live = graph.live
    starts = _start_gradients(live.roots, grad_outputs)
    if not live.leaves:
        raise InputError("gradients needs a leaf to differentiate by, and the graph has none; trace it to its leaves.")
    leaves = list(live.leaves)
    with (
        aside("gradients", [edge.node for edge in live.roots], again="call gradients before it"),
        capture(graph) as found,
    ):
        received = torch.autograd.grad(
            live.roots,
            [GradientEdge(live.nodes[key], 0) for key in leaves],
            grad_outputs=starts,
            retain_graph=True,
            allow_unused=True,
        )
    # Asked-for leaves are handed out, not run.
    for key, gradient in zip(leaves, received, strict=True):
        if gradient is not None:
            found[key] = _stats([_measured(gradient)])
    return Gradients(sorted(found.items()))


@contextmanager
def capture(graph: AutogradGraph) -> Iterator[Gradients]:
    """Record the statistics that `gradients` gives from the program's own passes, run inside the block.

    Hooks on the live nodes see the gradients go by and are removed afterwards; no pass is run. Of a node that runs
    several times the last run counts. The result is filled when the block is left.

    Raises:
        ReleasedGraphError: the graph holds no live nodes.
    """
    found = Gradients()
    seen: dict[int, list[_Measured | None]] = {}
    live = graph.live
    # `autograd.grad` hands a leaf's gradient out without running its node: there only a hook on the tensor sees it.
    watched = {key: leaf for key, leaf in live.leaves.items() if leaf.requires_grad}
    unhooked = [leaf for leaf in watched.values() if leaf._backward_hooks is None]
    handles = [
        watched[key].register_hook(partial(_record, seen, key))  # type: ignore[no-untyped-call]
        if key in watched
        else node.register_prehook(_recorder(seen, key))
        for key, node in enumerate(live.nodes)
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
        for leaf in unhooked:
            leaf._backward_hooks = leaf._backward_hooks or None
        for key in sorted(seen):
            found[key] = _stats(seen[key])


class _Measured(NamedTuple):
    """What is known of a gradient while the pass runs; the figures are still on its device."""

    numel: int
    is_complex: bool
    figures: Tensor | None


def _record(seen: dict[int, list[_Measured | None]], key: int, gradient: Tensor | None) -> None:
    if gradient is not None:  # a Function that returns None for an input runs the hooks behind it with nothing
        seen[key] = [_measured(gradient)]


def _recorder(seen: dict[int, list[_Measured | None]], key: int) -> Callable[[tuple[Tensor | None, ...]], None]:
    def prehook(received: tuple[Tensor | None, ...]) -> None:
        if any(one is not None for one in received):
            seen[key] = [_measured(one) for one in received]

    return prehook


def _measured(gradient: Tensor | None) -> _Measured | None:
    return None if gradient is None else _Measured(gradient.numel(), gradient.is_complex(), figures(gradient))


def _stats(measured: Sequence[_Measured | None]) -> GradientStats:
    return GradientStats([None if one is None else _output_stats(one) for one in measured])


def _output_stats(measured: _Measured) -> OutputStats:
    if measured.figures is None:
        return OutputStats(None, None, None, 0, 0, 0, measured.numel)
    norm, mean, mean_imag, max_abs, zeros, nan, inf = measured.figures.tolist()
    counts = (int(zeros), int(nan), int(inf), measured.numel)
    if nan + inf == measured.numel:
        return OutputStats(None, None, None, *counts)
    return OutputStats(norm, mean, max_abs, *counts, mean_imag if measured.is_complex else None)


def _as_json(stats: OutputStats | None) -> dict[str, Any] | None:
    if stats is None:
        return None
    values = asdict(stats)
    if stats.mean_imag is None:
        del values["mean_imag"]
    return values


def _start_gradients(
    roots: Sequence[GradientEdge], grad_outputs: Tensor | Sequence[Tensor | None] | None
) -> list[Tensor]:
    """The gradient of each root: the one given, or 1 for a real scalar.

    Raises:
        InputError: too few or many, a wrong shape or dtype, or none where one is needed.
    """
    if grad_outputs is None:
        given: list[Tensor | None] = [None] * len(roots)
    else:
        given = [grad_outputs] if isinstance(grad_outputs, Tensor) else list(grad_outputs)
    if len(given) != len(roots):
        raise InputError(
            f"grad_outputs expected one entry per root of the graph, {len(roots)} of them, got {len(given)}; pass None "
            "for those that are real scalars."
        )
    return [_start_gradient(index, root, one) for index, (root, one) in enumerate(zip(roots, given, strict=True))]


def _start_gradient(index: int, root: GradientEdge, given: Tensor | None) -> Tensor:
    metadata = root.node._input_metadata[root.output_nr]
    shape = None if metadata.is_nested_tensor else tuple(metadata.shape)
    dtype = str(metadata.dtype).removeprefix("torch.")
    described = f"root {index} of the graph ({name_of(root.node)}) is a {dtype} tensor"
    if given is None:
        if shape is None or math.prod(shape) != 1 or metadata.dtype.is_complex:
            of_shape = "of ragged shape" if shape is None else f"of shape {list(shape)}"
            raise InputError(
                f"{described} {of_shape}, and a gradient starts by itself only at a real scalar. Pass its gradient, "
                "for example gradients(graph, torch.ones_like(output)), or trace a scalar such as output.sum()."
            )
        return torch.ones(shape, dtype=metadata.dtype, device=metadata.device)
    if shape is not None and tuple(given.shape) != shape:
        raise InputError(f"{described} of shape {list(shape)}, but its entry of grad_outputs has {list(given.shape)}.")
    if given.is_complex() != metadata.dtype.is_complex:
        got = str(given.dtype).removeprefix("torch.")
        raise InputError(f"{described}, but its entry of grad_outputs is {got}; convert it with .to(torch.{dtype}).")
    return given
