"""The first of two passes: the gradients, made so that every adjoint's tangent can be had from the second.

A node of the gradient's graph belongs to the forward operation whose backward made it. Where such a node leads back
to a tensor u of the forward, curvature enters; there the tangent of u is needed, and that is the gradient of ⟨g, e⟩ by
the adjoint ū. Several operations may hand on one and the same tensor as adjoint (an addition does), so each adjoint
that matters is given a view of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from gradgraph.curvature.first_order import Differentiate
from gradgraph.recording.creators import CreatorHooks
from gradgraph.recording.log import ACCUMULATION, PYTHON
from gradgraph.recording.timeline import NOBODY, Timeline
from gradgraph.walk import Walk

__all__ = ["Adjoints", "CurvatureEdge", "Place", "dtype_of", "edge_of"]

#: A tensor of the forward: key of its node, and which output.
Place: TypeAlias = tuple[int, int]


class CurvatureEdge(NamedTuple):
    """Slot `slot` of a node that the backward of `owner` made leads to the forward tensor `place`."""

    slot: int
    place: Place
    owner: int


class Adjoints:
    """Runs the pass that makes the gradients; knows afterwards what the second pass has to look at.

    Args:
        loss: the loss.
        params: what is differentiated by.
        everywhere: give each adjoint a view of its own, not just those that matter.

    Attributes:
        walk: the graph of the loss, and behind it that of the gradients.
        count: how many nodes the loss has; their keys are `trace`'s.
        path: keys of the nodes between the loss and the parameters.
        places: of each adjoint that has a view of its own, that view's node.
        roots: adjoints that depend on nothing, made to require a gradient.
        edges: the curvature edges of each node of the gradients' graph that has any.
        of_params: the places of the parameters, by name.
        ends: where their gradients arrive.
    """

    def __init__(self, loss: Tensor, params: Mapping[Any, Tensor | GradientEdge], *, everywhere: bool = False) -> None:
        self._loss = get_gradient_edge(loss)
        self._params = params
        self._everywhere = everywhere
        self.ends = {name: edge_of(one) for name, one in params.items()}
        self._begin()

    def __call__(self, differentiate: Differentiate) -> dict[Any, Tensor]:
        """What `differentiate` gives, once its graph is fit to be split.

        Runs it again in the rare case that a tensor turns out to matter that did not look like it: an output that only
        its own backward saved has no adjoint, and gets one of zeros then.
        """
        walk = self.walk
        self.path = _path(walk, self.of_params.values())
        wanted = self.path if self._everywhere else _saving(walk, self.path)
        found = self._run(differentiate, wanted, set(_unused(walk, self.path)))
        missing = self._missing()
        if missing:
            self._begin()
            found = self._run(differentiate, self.path, missing)
        return found

    def sequence_numbers(self) -> dict[int, int]:
        """When each node of the loss was made, by key."""
        return {key: node._sequence_nr() for key, node in enumerate(self.walk.nodes[: self.count])}

    def _begin(self) -> None:
        walk = self.walk = Walk()
        walk.follow([self._loss])
        self.count = len(walk.nodes)
        self.places: dict[Place, Node] = {}
        self.roots: list[Tensor] = []
        self.edges: dict[Node, list[CurvatureEdge]] = {}
        self.of_params = {
            name: (walk.key_of[edge.node], edge.output_nr)
            for name, edge in self.ends.items()
            if edge.node in walk.key_of
        }

    def _run(self, differentiate: Differentiate, wanted: Iterable[int], absent: set[Place]) -> dict[str, Tensor]:
        """Run the pass; the places that are `absent` are given an adjoint of zeros, from the pass's start."""
        walk, creators = self.walk, Timeline()
        ends = [GradientEdge(walk.nodes[key], nr) for key, nr in sorted(absent)]
        zeros = [_zeros(end) for end in ends]
        self.roots += zeros
        hooks = [walk.nodes[key].register_prehook(self._apart(key)) for key in wanted]
        functions = [key for key in self.path if isinstance(walk.nodes[key], torch._C._FunctionBase)]
        hooks += [walk.nodes[key].register_hook(self._own) for key in functions]
        # The engine then runs all nodes on this thread, so that one counter numbers what they make.
        with torch.autograd.set_multithreading_enabled(False):
            owners = CreatorHooks(
                range(self.count),
                creators,
                walk,
                [self._loss, *ends],
                [None, *zeros],
                list(self._params.values()),
                accumulates=False,
                sure=True,
            )
            try:
                found = differentiate(ends, zeros)
            finally:
                owners.remove()
                for hook in hooks:
                    hook.remove()
        walk.follow([get_gradient_edge(one) for one in found.values() if one.requires_grad])
        self._find_edges(creators)
        return found

    def _apart(self, key: int) -> Callable[[Sequence[Tensor | None]], tuple[Tensor | None, ...]]:
        """A hook that makes the adjoints of node `key` tensors of their own, which require a gradient."""
        places, roots = self.places, self.roots

        def apart(adjoints: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
            own: list[Tensor | None] = []
            for nr, adjoint in enumerate(adjoints):
                if adjoint is not None:
                    if not adjoint.requires_grad:
                        adjoint = adjoint.detach().requires_grad_()
                        roots.append(adjoint)
                    adjoint = adjoint.view_as(adjoint)
                    assert adjoint.grad_fn is not None
                    places[key, nr] = adjoint.grad_fn
                own.append(adjoint)
            return tuple(own)

        return apart

    def _own(self, gradients: Sequence[Tensor | None], adjoints: Any) -> tuple[Tensor | None, ...]:  # noqa: ARG002
        """A hook on a custom Function, whose backward may return a tensor of the forward as it is: a view of that."""
        known = self.walk.key_of
        return tuple(
            one.view_as(one) if one is not None and one.requires_grad and _node_of(one) in known else one
            for one in gradients
        )

    def _find_edges(self, creators: Timeline) -> None:
        walk, count = self.walk, self.count
        for position in range(walk.start[count], len(walk.target)):
            key = walk.target[position]
            if key < count:
                node = walk.nodes[walk.source[position]]
                edge = CurvatureEdge(walk.slot[position], (key, walk.output_nr[position]), _owner(creators, node))
                self.edges.setdefault(node, []).append(edge)

    def _missing(self) -> set[Place]:
        """Tensors that curvature edges lead to, that depend on a parameter, and whose adjoint has no view."""
        places = {edge.place for edges in self.edges.values() for edge in edges}
        return {place for place in places if place[0] in self.path and place not in self.places}


def edge_of(one: Tensor | GradientEdge) -> GradientEdge:
    """The edge of a tensor; an edge as it is."""
    return one if isinstance(one, GradientEdge) else get_gradient_edge(one)


def dtype_of(one: Tensor | GradientEdge) -> torch.dtype:
    """The dtype of a tensor, or of what an edge is of."""
    return one.node._input_metadata[one.output_nr].dtype if isinstance(one, GradientEdge) else one.dtype


def _zeros(end: GradientEdge) -> Tensor:
    metadata = end.node._input_metadata[end.output_nr]
    return torch.zeros(tuple(metadata.shape), dtype=metadata.dtype, device=metadata.device, requires_grad=True)


def _node_of(tensor: Tensor) -> Node:
    return get_gradient_edge(tensor).node


def _owner(creators: Timeline, node: Node) -> int:
    """The node whose backward made `node`; of one that a hook of the user's made, the node that the hook is on."""
    number = node._sequence_nr()
    owner = creators.owner_of(number)
    if owner == NOBODY:
        later = (
            one for start, one in zip(creators.starts, creators.owners, strict=True) if start > number and one != NOBODY
        )
        owner = next(later, 0)
    return owner & ~(ACCUMULATION | PYTHON)


def _path(walk: Walk, ends: Iterable[Place]) -> set[int]:
    """Keys of the nodes of which the ones at `ends` are behind, `ends` themselves only if others are behind them."""
    consumers: dict[int, list[int]] = {}
    for u, v in zip(walk.source, walk.target, strict=True):
        consumers.setdefault(v, []).append(u)
    path: set[int] = set()
    stack = [key for key, _ in ends]
    while stack:
        for u in consumers.get(stack.pop(), ()):
            if u not in path:
                path.add(u)
                stack.append(u)
    return path


def _saving(walk: Walk, path: set[int]) -> set[int]:
    """Those of `path` whose outputs something saved, perhaps: the node itself, or what takes them."""
    saving = [_saves(type(node)) for node in walk.nodes]
    found = {key for key in path if saving[key]}
    found.update(v for u, v in zip(walk.source, walk.target, strict=True) if saving[u] and v in path)
    return found


@cache
def _saves(kind: type) -> bool:
    """Whether nodes of this type save tensors; of types that do not tell, True."""
    return (
        issubclass(kind, torch._C._FunctionBase)
        or any(name.startswith("_raw_saved_") for name in dir(kind))
        or not kind.__name__.rstrip("0123456789").endswith("Backward")
    )


def _unused(walk: Walk, path: set[int]) -> Iterable[Place]:
    """Outputs of nodes that save outputs of their own which nothing takes: a normalization's mean and deviation."""
    taken: set[Place] = set(zip(walk.target, walk.output_nr, strict=True))
    for key in path:
        node = walk.nodes[key]
        if len(node._input_metadata) > 1:
            yield from ((key, nr) for nr in _saved_results(type(node)) if (key, nr) not in taken)


@cache
def _saved_results(kind: type) -> tuple[int, ...]:
    """Numbers of its own outputs that a node of this type saves."""
    names = [name.removeprefix("_raw_saved_result") for name in dir(kind) if name.startswith("_raw_saved_result")]
    return tuple(sorted(int(name) for name in names if name.isdecimal()))
