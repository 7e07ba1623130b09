"""Which operation of the forward the curvature comes from."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from gradgraph.curvature.budget import check_generator, check_sizes, is_number
from gradgraph.curvature.first_order import Differentiate, first_order
from gradgraph.curvature.products import VectorLike, _fitting
from gradgraph.curvature.split_parts import after_outputs, places_of, recorded_outputs
from gradgraph.curvature.split_result import Curvature, added
from gradgraph.curvature.split_sums import Found, along_direction, estimated_trace, exact_trace
from gradgraph.curvature.split_targets import TargetsLike, without_edges
from gradgraph.curvature.split_watched import Watched
from gradgraph.errors import InputError
from gradgraph.graph import AutogradGraph, annotate
from gradgraph.labels import labelled
from gradgraph.params import ParamsLike, caller_namespace
from gradgraph.recording.log import latest
from gradgraph.tracer import trace_in
from gradgraph.walk import Walk

__all__ = ["curvature"]


def curvature(
    loss: Tensor,
    params: TargetsLike,
    direction: VectorLike | None = None,
    *,
    outputs: Any = None,
    probes: int | None = None,
    generator: torch.Generator | None = None,
    per_entry: bool = False,
    memory: int | None = None,
    progress: bool | None = None,
) -> Curvature:
    """Split the curvature of `loss` by the operations that it comes from; exact to rounding.

    Along a direction e, with u̇ the tangents of all tensors along e and v̄ the adjoints of what operations give,

        eᵀ H e = Σ_k ⟨ v̄_k , D²φ_k [u̇_k, u̇_k] ⟩

    over the operations φ_k of the forward: each adds its own second derivative, weighted by how the loss depends on its
    result. Affine operations add 0, and so does a ReLU. The forward is all of the graph of `loss`: a loss that
    contains gradients itself (a PINN's, a gradient penalty, MAML) has operations of their backward, too.

    After R. M. Gower and M. P. Mello, "A new framework for the computation of Hessians", Optimization Methods and
    Software 27 (2012), who push edges of such second derivatives; here all of them are read off one pass: where the
    gradient's graph, made by the backward of operation k, leads back to a tensor u of the forward, what the derivative
    of ⟨g, e⟩ hands over is s, what arrives at the adjoint of u is its tangent u̇, and k adds Σ ⟨s, u̇⟩.

    Args:
        loss: a real scalar with a graph that no pass has freed.
        params: as for `hessian_diagonal`; inputs and intermediate tensors may be among them, also as `GradientEdge`s.
        direction: e, as the vector of `hvp`; None for the trace of the Hessian.
        outputs: what the model returned, a tensor or several in any nesting. The operations after it add the
            Gauss-Newton part. By default what left the recorded module that has the parameters, where that is sure.
        probes: estimate the trace with so many vectors of random signs instead (Hutchinson). A single one has no
            spread: `stderr` is NaN.
        generator: what they are drawn from; by default a new one with seed 0.
        per_entry: keep the split of each entry of the diagonal: `entries`, one tensor per parameter and operation.
        memory: bytes that the rows of one pass may take, for a trace; see `hessian_diagonal`.
        progress: True shows a progress bar, False none, None one on a terminal or in a notebook, after a second.

    Returns:
        The `Curvature`: `total`, `contributions` by node, `by_module()`, `by_source()`, `by_op()`, `gauss_newton`.
        It holds none of the program's tensors. `annotate(graph, "curvature", result)` writes it into a graph.

    Raises:
        InputError: `direction` does not fit the parameters, `outputs` are not in the graph, options that exclude each
            other; and as `hessian_diagonal`.
        GradGraphError: something in the graph cannot be differentiated twice, or its backward is not that of what it
            computes, so that there is nothing to split; it is named. That the contributions sum to eᵀHe is checked.

    Cost: a direction takes two passes, as `hvp`; a probe one more. The exact trace takes as many as method "graph" of
    `hessian_diagonal`, several at once by vmap; what is not read off the graph takes one per entry. Memory: that of the
    gradient's graph and, per row, of the tensors in it.

    Example:
        >>> import torch, gradgraph
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> result = gradgraph.curvature((x.exp() * x).sum(), x, torch.tensor([1.0, 0.0]))
        >>> {op: round(value, 3) for op, value in result.by_op().items()}
        {'MulBackward0': 5.437, 'ExpBackward0': 2.718, 'SumBackward0': 0.0}
    """
    _check_options(direction, probes, per_entry)
    check_sizes(None, memory)
    check_generator(generator)
    namespace = caller_namespace()
    given: ParamsLike = without_edges(params, loss)
    tensors = labelled(given, namespace)
    along = None if direction is None else _direction(direction, tensors)
    watched: list[Watched] = []

    def run(differentiate: Differentiate) -> dict[str, Tensor]:  # noqa: ARG001 - other gradients are wanted, too
        watched.append(Watched(loss, tensors, structural=along is None and probes is None))
        return watched[0].run()

    with first_order("curvature", loss, tensors, run) as order:
        seen = watched[0]
        known = seen.adjoints
        places = recorded_outputs(latest(), known, tensors) if outputs is None else places_of(outputs, known)
        after = None if places is None else after_outputs(known, places)
        with seen.rows(order.reset) as rows:
            if along is not None:
                found = along_direction(rows, order, along)
            elif probes is not None:
                found = estimated_trace(rows, order, probes, generator, memory, progress)
            else:
                found = exact_trace(rows, order, seen.structure, seen.gradients, per_entry, memory, progress)
        numbers = known.sequence_numbers()
    graph = _graph(namespace, loss, given, tensors, known.walk)
    return _result(found, graph, numbers, after)


def _result(found: Found, graph: AutogradGraph, numbers: dict[int, int], after: set[int] | None) -> Curvature:
    operations = [key for key, data in graph.nodes.items() if data["kind"] != "leaf"]
    contributions = {key: found.contributions.get(key, 0.0) for key in operations}
    gauss_newton = residual = None
    if after is not None:
        gauss_newton = added(value for key, value in contributions.items() if key in after)
        residual = added(value for key, value in contributions.items() if key not in after)
    result = Curvature(
        of=found.of,
        total=found.total,
        contributions=contributions,
        graph=graph,
        gauss_newton=gauss_newton,
        residual=residual,
        stderr=found.stderr,
        probes=found.probes,
        diagonal=found.diagonal,
        entries=found.entries,
        _numbers={key: numbers[key] for key in operations},
    )
    annotate(graph, "curvature", result)
    graph.graph["curvature"] = {
        "of": found.of,
        "total": found.total,
        "magnitude": result.magnitude,
        "gauss_newton": gauss_newton,
        "residual": residual,
        "stderr": found.stderr,
    }
    return result


def _graph(
    namespace: Mapping[str, Any], loss: Tensor, params: Any, tensors: Mapping[str, Tensor], walk: Walk
) -> AutogradGraph:
    """The graph of the loss, without its live nodes; parameters that are no leaves are named, too."""
    leaves = {name: tensor for name, tensor in tensors.items() if tensor.is_leaf}
    others = {name: one for name, one in tensors.items() if not one.is_leaf and one.grad_fn in walk.key_of}
    inside = {id(getattr(node, "variable", None)) for node in walk.nodes}
    known = [one for one in leaves.values() if id(one) in inside]
    given = params if len(leaves) == len(tensors) else leaves
    graph = trace_in(namespace, loss, given if known else None, names=others)
    graph.release()
    return graph


def _direction(direction: VectorLike, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The direction by name, checked against the parameters."""
    given, count = _fitting(direction, tensors, "direction")
    if count is not None:
        raise InputError(
            f"curvature splits along one direction, got {count} vectors at once; call it for each, or leave the "
            "direction out for the trace."
        )
    return given


def _check_options(direction: Any, probes: int | None, per_entry: bool) -> None:
    """Refuse options that exclude each other."""
    if direction is not None and (probes is not None or per_entry):
        raise InputError(
            f"{'per_entry' if per_entry else 'probes'} is for the trace, so expected no direction, but one was given; "
            "leave one of them out."
        )
    if probes is not None and per_entry:
        raise InputError("per_entry splits the exact diagonal, and probes estimate the trace; leave one of them out.")
    if probes is not None and (not is_number(probes, Integral) or probes < 1):
        raise InputError(
            "probes expected a whole number, 1 or more (2 for a standard error), or None for the exact trace; got "
            f"{probes!r}."
        )
