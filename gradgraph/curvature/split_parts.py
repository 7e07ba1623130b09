"""Which operations come after the model's output: their share of the curvature is Gauss-Newton's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from torch import Tensor, nn

from gradgraph.curvature.split_adjoints import Adjoints, Place
from gradgraph.errors import InputError
from gradgraph.outputs import flatten
from gradgraph.recording.log import Log

__all__ = ["after_outputs", "places_of", "recorded_outputs"]


def after_outputs(adjoints: Adjoints, outputs: Iterable[Place]) -> set[int]:
    """Keys of the nodes that take one of `outputs` in, or what was made of it."""
    wanted = set(outputs)
    consumers: dict[int, list[int]] = {}
    found: set[int] = set()
    for u, v, nr in _edges(adjoints):
        consumers.setdefault(v, []).append(u)
        if (v, nr) in wanted:
            found.add(u)
    stack = list(found)
    while stack:
        for u in consumers.get(stack.pop(), ()):
            if u not in found:
                found.add(u)
                stack.append(u)
    return found


def places_of(outputs: Any, adjoints: Adjoints) -> list[Place]:
    """Where in the graph of the loss `outputs` are.

    Raises:
        InputError: there is no tensor with a graph in it, or none that the loss depends on.
    """
    edges, _ = flatten(outputs, "outputs")
    known = adjoints.walk.key_of
    found = [
        (known[edge.node], edge.output_nr) for edge in edges if known.get(edge.node, adjoints.count) < adjoints.count
    ]
    if not found:
        raise InputError(
            "the loss depends on none of outputs: expected what the model returned, the very tensors that the loss was "
            "computed from. Was it computed from a copy, or from another call of the model?"
        )
    return found


def recorded_outputs(log: Log | None, adjoints: Adjoints, params: Mapping[str, Tensor]) -> list[Place] | None:
    """Where the outermost module's result left it, as recorded; None where that is not sure.

    The module is the one that has the parameters. Not sure: parts of the graph were not recorded, or a backward made
    some; several modules have the parameters, or none; the loss was computed in the module itself; or it depends on a
    tensor that is none of the module's parameters in a way that does not lead through its result (an input that a
    regularizer uses, too), so that the module is not the whole model.
    """
    if log is None:
        return None
    roots: list[int | None] = []
    walk = adjoints.walk
    for key, node in enumerate(walk.nodes[: adjoints.count]):
        if walk.start[key] == walk.start[key + 1]:
            roots.append(None)
            continue
        record = log.record_of(node)
        if record is None or record.order:
            return None
        roots.append(None if record.module is None else log.modules[record.module].root)
    wanted = set(map(id, params.values()))
    owners = [root for root in set(roots) if root is not None and _has(log.modules[root].module(), wanted)]
    if len(owners) != 1 or roots[0] == owners[0]:
        return None
    (owner,) = owners
    found = {(v, nr) for u, v, nr in _edges(adjoints) if roots[v] == owner and roots[u] != owner}
    if not found or _bypassed(log.modules[owner].module(), found, adjoints, params):
        return None
    return sorted(found)


def _bypassed(module: nn.Module | None, outputs: set[Place], adjoints: Adjoints, params: Mapping[str, Tensor]) -> bool:
    """Whether the loss reaches one of `params` that the module does not have, other than through `outputs`."""
    own = set() if module is None else set(map(id, module.parameters()))
    places = {adjoints.of_params.get(name) for name, tensor in params.items() if id(tensor) not in own}
    if not places - {None}:
        return False
    walk = adjoints.walk
    seen, stack = {0}, [0]
    while stack:
        u = stack.pop()
        for edge in range(walk.start[u], walk.start[u + 1]):
            place = walk.target[edge], walk.output_nr[edge]
            if place in places:
                return True
            if place not in outputs and place[0] not in seen:
                seen.add(place[0])
                stack.append(place[0])
    return False


def _edges(adjoints: Adjoints) -> Iterator[tuple[int, int, int]]:
    """Of the edges of the loss's own graph: from, to, and which output."""
    walk = adjoints.walk
    return islice(zip(walk.source, walk.target, walk.output_nr, strict=True), walk.start[adjoints.count])


def _has(module: nn.Module | None, wanted: set[int]) -> bool:
    return module is not None and any(id(tensor) in wanted for tensor in module.parameters())
