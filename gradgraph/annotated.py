"""A target's graph, annotated with what the command line was asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from gradgraph.errors import GradGraphError, InputError, TargetError
from gradgraph.graph import AutogradGraph, annotate
from gradgraph.target import Opened, Target, opened

if TYPE_CHECKING:
    from torch import Tensor

    from gradgraph.curvature import Curvature, HessianDiagonal

__all__ = [
    "Quantity",
    "Working",
    "add_curvature",
    "add_gradients",
    "add_hessian",
    "annotated_graph",
    "details",
    "draw_hessian",
    "refuse_large",
]

#: A context around long work, which is given in words: where a command tells of it.
Working = Callable[[str], AbstractContextManager[object]]

#: What is split by operations: the Hessian's trace, or the curvature along the gradient, of length 1.
Quantity = Literal["trace", "gradient"]

_MOST_ENTRIES = 4_096  # a side of a Hessian that is drawn: 128 MiB of float64

_Result = TypeVar("_Result")


def _silent(_: str) -> AbstractContextManager[object]:
    return nullcontext()


def annotated_graph(
    target: Target,
    arguments: Sequence[str],
    *,
    gradients: bool,
    hessian: bool,
    curvature: Quantity | Literal["any"] | None = None,
    number: int | None = None,
    working: Working = _silent,
) -> AutogradGraph:
    """The graph of `target`, run with `arguments`, with the statistics asked for. Raises what `opened` and they do."""
    keep = hessian or curvature is not None
    with opened(target, arguments, gradients=gradients, keep=keep, number=number) as one:
        if gradients:
            add_gradients(one)
        if hessian:
            add_hessian(one, working=working)
        if curvature is not None:
            add_curvature(one, curvature, working=working)
        return one.graph


def add_gradients(one: Opened) -> None:
    """Write the gradient statistics of every node: of the user's own pass where there was one, else of a fresh one.

    Raises:
        TargetError: a saved graph without gradients, or a graph that cannot be differentiated any more.
        InputError: the outputs do not give a gradient.
    """
    graph = one.graph
    if one.statistics is not None:
        annotate(graph, "gradient", one.statistics)
    elif graph.is_live:
        from gradgraph.gradients import gradients

        annotate(graph, "gradient", _differentiated(one, lambda: gradients(graph)))
    elif all(gradient is None for _, gradient in graph.nodes(data="gradient")):
        raise _not_in_file(one, "gradients", "--gradients")


def add_hessian(
    one: Opened, *, seed: int | None = None, working: Working = _silent, **options: Any
) -> HessianDiagonal | None:
    """Write the statistics of the Hessian's diagonal on every leaf.

    Args:
        one: the target.
        seed: of the generator that `hessian_diagonal` draws from.
        working: around the work.
        **options: of `hessian_diagonal`.

    Returns:
        The diagonal, by the leaf's name; None where a saved graph holds only the statistics.

    Raises:
        TargetError: a saved graph without it, or a graph that cannot be differentiated any more.
        InputError: the target is not one scalar.
    """
    found = _loss(one)
    if found is None:
        if all(diagonal is None for _, diagonal in one.graph.nodes(data="hessian_diagonal")):
            raise _not_in_file(one, "a Hessian diagonal", "--hessian")
        return None
    from gradgraph.curvature import hessian_diagonal

    loss, leaves = found
    options |= _generator(seed)
    entries = sum(leaf.numel() for leaf in leaves.values())
    with working(f"the diagonal of the Hessian, {entries:,} entries in all"):
        diagonal = _differentiated(one, lambda: hessian_diagonal(loss, leaves, **options))
    annotate(one.graph, "hessian_diagonal", diagonal)
    return diagonal


def add_curvature(
    one: Opened, of: Quantity | Literal["any"], *, seed: int | None = None, working: Working = _silent, **options: Any
) -> Curvature | None:
    """Write what each operation adds to a curvature; and into the graph attribute `curvature` to which, and their sum.

    Args:
        one: the target.
        of: what to split; "any": what a saved graph has, or along the gradient, which takes no more than two passes.
        seed: of the generator that `curvature` draws from.
        working: around the work.
        **options: of `curvature`.

    Returns:
        The split; None where a saved graph holds only the figures.

    Raises:
        TargetError: a saved graph without it, or a graph that cannot be differentiated any more.
        InputError: the target is not one scalar, or its gradient is zero.
    """
    graph = one.graph
    found = _loss(one)
    if found is None:
        about = graph.graph.get("curvature") or {}
        if not (about.get("of") == of or (of == "any" and about)):
            quantity = "gradient" if of == "any" else of
            raise _not_in_file(one, f"the curvature of its operations ({quantity})", f"--curvature {quantity}")
        return None
    from gradgraph.curvature import curvature

    loss, leaves = found
    if of == "trace":
        options |= _generator(seed)
        with working("the split of the Hessian's trace by operation"):
            result = _differentiated(one, lambda: curvature(loss, leaves, **options))
    else:
        result = _differentiated(one, lambda: curvature(loss, leaves, _unit_gradient(loss, leaves), **options))
    # By the keys of our graph, which was traced where the program's own names for its modules are known.
    contributions = {key: value for key, value in result.annotations(graph).items() if value is not None}
    annotate(graph, "curvature", contributions)
    graph.graph["curvature"] = {**result.graph.graph["curvature"], "of": "trace" if of == "trace" else "gradient"}
    return replace(result, graph=graph, contributions=contributions)


def _generator(seed: int | None) -> dict[str, Any]:
    if seed is None:
        return {}
    import torch

    return {"generator": torch.Generator().manual_seed(seed)}


def _unit_gradient(loss: Tensor, leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The direction of the gradient by all leaves together, of length 1."""
    import torch

    from gradgraph.aside import aside, hooks_suspended

    root = torch.autograd.graph.get_gradient_edge(loss).node
    with aside("curvature", [root], again="call it before that pass"), hooks_suspended(leaves.values()):
        received = torch.autograd.grad(
            loss, list(leaves.values()), torch.ones_like(loss), retain_graph=True, allow_unused=True
        )
    gradient = {
        name: torch.zeros_like(leaf) if one is None else one.to_dense()
        for (name, leaf), one in zip(leaves.items(), received, strict=True)
    }
    length = math.hypot(*(float(one.abs().double().norm()) for one in gradient.values()))
    if not 0 < length < math.inf:
        raise InputError(
            f"there is no curvature along the gradient, which has length {length:g}; expected a positive one. The "
            "trace needs no direction: --curvature trace"
        )
    return {name: one / length for name, one in gradient.items()}


def refuse_large(one: Opened) -> None:
    """Say before any of it is computed that the whole Hessian is too large to be drawn.

    Raises:
        InputError: it has more than `_MOST_ENTRIES` entries a side.
    """
    found = _loss(one)
    entries = 0 if found is None else sum(leaf.numel() for leaf in found[1].values())
    if entries > _MOST_ENTRIES:
        raise InputError(
            f"the Hessian of {one.target.text} has {entries:,} entries a side, and a heat map is of at most "
            f"{_MOST_ENTRIES:,}; take a smaller model, or in Python gradgraph.hessian(loss, params) of some parameters."
        )


def draw_hessian(one: Opened, path: str, *, working: Working = _silent) -> None:
    """Draw the whole Hessian into a file.

    Raises:
        InputError: see `refuse_large`.
    """
    refuse_large(one)
    found = _loss(one)
    if found is None:
        raise _not_in_file(one, "its Hessian", "--hessian")
    from gradgraph.charts import heat_map
    from gradgraph.curvature import hessian

    loss, leaves = found
    entries = sum(leaf.numel() for leaf in leaves.values())
    with working(f"the Hessian, {entries:,} entries a side"):
        blocks = _differentiated(one, lambda: hessian(loss, leaves, blocks="full"))
    heat_map(blocks, path)


def details(diagonal: HessianDiagonal) -> dict[str, dict[str, Any]]:
    """By leaf, what its node attribute does not tell: how it was computed, and how many entries are NaN."""
    found = {
        name: {**asdict(report), "nan": int(diagonal[name].isnan().sum())} for name, report in diagonal.report.items()
    }
    for one in found.values():
        del one["reached"]  # of a row it says whether the loss reaches the leaf
    return found


def _loss(one: Opened) -> tuple[Tensor, dict[str, Tensor]] | None:
    """The target's loss, ready to be differentiated, and its leaves by name; None for a saved graph.

    Raises:
        InputError: the target is not one tensor.
    """
    graph = one.graph
    if one.kept is not None:
        one.kept.restore()
        return _one_tensor(one, list(one.kept.roots)), one.kept.leaves
    if graph.is_live:
        leaves = {graph.nodes[key]["name"]: variable for key, variable in graph.live.leaves.items()}
        return _one_tensor(one, one.outputs), leaves
    return None


def _one_tensor(one: Opened, outputs: Any) -> Any:
    from torch import Tensor

    while isinstance(outputs, (list, tuple)) and len(outputs) == 1:
        outputs = outputs[0]
    if outputs is None:
        raise InputError(
            f"{one.target.text} is a traced graph and does not hold its loss; name the loss itself: "
            f"{one.target.location}:loss"
        )
    if not isinstance(outputs, Tensor):
        raise InputError(
            f"a Hessian is of one scalar tensor, but {one.target.text} gives a {type(outputs).__name__}; name the "
            f"loss: {one.target.location}:loss"
        )
    return outputs


def _differentiated(one: Opened, analysis: Callable[[], _Result]) -> _Result:
    from gradgraph.passes import unobserved

    try:
        with unobserved():
            return analysis()
    except GradGraphError as error:
        named = one.target.kind == "script" and one.target.name is not None
        if named and isinstance(error, InputError) and "through the graph a second time" in str(error.__cause__):
            raise InputError(
                f"{error} Or give the script alone, {one.target.location}: that takes its last backward pass before "
                "the pass frees anything."
            ) from error
        raise
    except RuntimeError as error:
        described = " ".join(str(error).split())
        raise TargetError(
            f"{one.target.text} cannot be differentiated once more after the program: {described} Give a function "
            f"that returns the loss before any backward pass: {one.target.location}:function"
        ) from error


def _not_in_file(one: Opened, what: str, option: str) -> TargetError:
    return TargetError(
        f"{one.target.text} was saved without {what}, and only the program can compute that: save the graph again "
        f"with gradgraph trace script.py -o {one.target.text} {option}, or give the script itself."
    )
