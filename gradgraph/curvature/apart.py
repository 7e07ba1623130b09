"""Which entries of a tensor a loss keeps apart, proven from the graph's operations and shapes alone.

The proof walks from the loss to the tensors. A reduction that the loss is linear in (`mean` of squared errors, say) is
a sum over the entries of what it reduces: each of its axes gets a label, the index that the sum runs over. An
operation that computes the entries with one index from those with the same index hands the label on to its inputs; one
that mixes an axis drops the label. If a tensor still has the label n on an axis, the loss is a sum of terms each of
which depends on one index n of that axis alone, so the tensor's Hessian is block diagonal along it.

Labels that come from the same reduction name different indices and never become one; those of two reductions may,
where their tensors meet. What is not known mixes everything, so the proof accepts few graphs, and none wrongly.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from gradgraph.curvature.apart_rules import (
    LOSSES,
    MIXED,
    PARTS,
    RULES,
    Call,
    Factor,
    Labels,
    Shape,
    dim_of,
    fitting,
    linear_slots,
    mixed,
    operation,
    shape_of,
)
from gradgraph.walk import Walk

__all__ = ["labels_of"]

#: The loss is linear in the tensor.
_LINEAR = "linear"

_State = Labels | str | None


def labels_of(walk: Walk, wanted: Sequence[tuple[int, int]], *, linear: bool = False) -> dict[tuple[int, int], Labels]:
    """The labels of the outputs `wanted`, as (key of the node, number of the output).

    `walk` starts at the loss alone. Outputs that the loss is linear in are left out, but for `linear` those of which
    something was made that it is not linear in; where nothing is proven, all labels are `MIXED`.
    """
    proof = _Proof(walk)
    proof.run()
    found: dict[tuple[int, int], Labels] = {}
    for place in wanted:
        state = proof.states.get(place)
        if linear and state == _LINEAR and place[1] == 0:
            state = proof.seeds.get(place[0])
        if isinstance(state, tuple):
            found[place] = tuple(tuple(Factor(size, proof.name(label)) for size, label in axis) for axis in state)
    return found


class _Proof:
    """The states of all outputs behind a loss."""

    def __init__(self, walk: Walk) -> None:
        self._walk = walk
        self.states: dict[tuple[int, int], _State] = {}
        self.seeds: dict[int, Labels] = {}  # of outputs that the loss is linear in, as a sum over all their entries
        self._fresh = itertools.count(1)
        self._origin: dict[int, frozenset[int]] = {}  # of a label's class: the reductions that it comes from
        self._parent: dict[int, int] = {}
        self._torn: set[int] = set()  # labels that were split, and their parts
        self._splits: dict[tuple[int, tuple[int, ...]], tuple[int, ...]] = {}
        self._node = 0

    def run(self) -> None:
        walk = self._walk
        self.states[0, 0] = _LINEAR
        for key in _topological(walk):
            node: Any = walk.nodes[key]
            start, stop = walk.start[key], walk.start[key + 1]
            if start == stop:
                continue
            outputs = [self.states.get((key, nr)) for nr in range(len(node._input_metadata))]
            self._node = key
            for edge, state in zip(range(start, stop), self._inputs(node, outputs, start, stop), strict=True):
                place = walk.target[edge], walk.output_nr[edge]
                self.states[place] = self._meet(self.states.get(place), state)

    def _inputs(self, node: Any, outputs: list[_State], start: int, stop: int) -> list[_State]:
        """What `node` makes of its outputs' states for each of its edges."""
        walk = self._walk
        slots = walk.slot[start:stop]
        if all(state is None for state in outputs):
            return [None] * len(slots)
        edges = zip(walk.target[start:stop], walk.output_nr[start:stop], strict=True)
        ragged = [shape_of(walk.nodes[key], nr) for key, nr in edges]
        own = shape_of(node, 0)
        shapes = [shape or () for shape in ragged]
        name = operation(node)
        if name not in RULES or own is None or None in ragged or any(0 in shape for shape in (own, *shapes)):
            return [mixed(shape) for shape in ragged]
        if len(outputs) > 1 and (outputs[0] is None or any(state is not None for state in outputs[1:])):
            return [self._whole(name, node, outputs, shapes[0]) if len(shapes) == 1 else mixed(one) for one in shapes]
        state = outputs[0]
        if state == _LINEAR and (linear := linear_slots(name, slots)):
            return [_LINEAR if slot in linear else mixed(one) for slot, one in zip(slots, shapes, strict=True)]
        if name in LOSSES and node._saved_reduction != 0:
            # A sum over entries, and so the first labels of all; or a function of that sum, and so none.
            own = shapes[0]
            alike = len(set(shapes)) == 1  # torch's own operation may broadcast the one to the other
            state = self._labelled(own) if state == _LINEAR and alike else mixed(own)
        elif not isinstance(state, tuple):
            state = self.seeds[self._node] = self._labelled(own)
        call = Call(self, node, own, state)
        return [fitting(RULES[name](call, slot, one), one) for slot, one in zip(slots, shapes, strict=True)]

    def _whole(self, name: str, node: Any, outputs: list[_State], shape: Shape) -> _State:
        """The state of what `node` takes apart along one axis into its outputs."""
        if name not in PARTS:
            return mixed(shape)
        dim = dim_of(node._saved_dim, len(shape))
        found: _State = None
        for nr, state in enumerate(outputs):
            own = shape_of(node, nr)
            if state is None or own is None:
                continue
            labels = list(state if isinstance(state, tuple) else self._labelled(own))
            labels[dim : dim if name == "Unbind" else dim + 1] = [(Factor(shape[dim], MIXED),)]
            found = self._meet(found, fitting(tuple(labels), shape))
        return found

    def _labelled(self, shape: Shape) -> Labels:
        """A label for each axis, as of a sum over all entries."""
        labels = []
        for size in shape:
            label = next(self._fresh)
            self._origin[label] = frozenset((self._node,))
            labels.append((Factor(size, label),))
        return tuple(labels)

    def name(self, label: int) -> int:
        """The label that stands for the class of `label`."""
        while label in self._parent:
            label = self._parent[label]
        return label

    def _one(self, a: int, b: int) -> int:
        """The label of an axis that two consumers label `a` and `b`."""
        a, b = self.name(a), self.name(b)
        if a == b:
            return a
        if a == MIXED or b == MIXED or self._origin[a] & self._origin[b] or {a, b} & self._torn:
            return MIXED
        self._parent[b] = a
        self._origin[a] |= self._origin[b]
        return a

    def _meet(self, first: _State, second: _State) -> _State:
        if first is None or first == _LINEAR:
            return first if second is None else second
        if second is None or second == _LINEAR:
            return first
        assert isinstance(first, tuple)
        assert isinstance(second, tuple)
        return tuple(self._meet_axis(a, b) for a, b in zip(first, second, strict=True))

    def _meet_axis(self, a: tuple[Factor, ...], b: tuple[Factor, ...]) -> tuple[Factor, ...]:
        refined = self._refined(a, b)
        if refined is None:
            return (Factor(math.prod(factor.size for factor in a), MIXED),)
        return tuple(Factor(x.size, self._one(x.label, y.label)) for x, y in zip(*refined, strict=True))

    def _refined(
        self, a: Sequence[Factor], b: Sequence[Factor]
    ) -> tuple[tuple[Factor, ...], tuple[Factor, ...]] | None:
        """Both split until their sizes agree; None where they do not divide."""
        left, right = list(reversed(a)), list(reversed(b))  # slowest last
        found: tuple[list[Factor], list[Factor]] = ([], [])
        while left and right:
            x, y = left.pop(), right.pop()
            if x.size == y.size:
                found[0].append(x)
                found[1].append(y)
            elif x.size % y.size == 0:
                head, tail = self.split(x, y.size)
                left += [tail, head]
                right.append(y)
            elif y.size % x.size == 0:
                head, tail = self.split(y, x.size)
                right += [tail, head]
                left.append(x)
            else:
                return None
        if any(factor.size != 1 for factor in left + right):
            return None
        return tuple(found[0]), tuple(found[1])

    def split(self, factor: Factor, head: int) -> tuple[Factor, Factor]:
        """The factor as two, the slower of size `head`. One label splits the same way everywhere."""
        sizes = head, factor.size // head
        if factor.label == MIXED:
            return Factor(sizes[0], MIXED), Factor(sizes[1], MIXED)
        label = self.name(factor.label)
        if (label, sizes) not in self._splits:
            parts = next(self._fresh), next(self._fresh)
            for part in parts:
                self._origin[part] = self._origin[label]
            self._splits[label, sizes] = parts
            # From here on they stay alone: two labels must not be one while a part of one is a part of the other's.
            self._torn |= {label, *parts}
        parts = self._splits[label, sizes]  # type: ignore[assignment]
        return Factor(sizes[0], parts[0]), Factor(sizes[1], parts[1])

    def reshaped(self, labels: Labels, shape: Shape) -> Labels:
        """The labels of a tensor of `shape` with the same entries in the same order."""
        factors = [factor for axis in labels for factor in axis if factor.size != 1]
        factors.reverse()
        result: list[tuple[Factor, ...]] = []
        for size in shape:
            axis: list[Factor] = []
            rest = size
            while rest > 1:
                factor = factors.pop()
                if rest % factor.size == 0:
                    rest //= factor.size
                elif factor.size % rest == 0:
                    factor, tail = self.split(factor, rest)
                    factors.append(tail)
                    rest = 1
                else:
                    return mixed(shape)
                axis.append(factor)
            result.append(tuple(axis) or (Factor(size, MIXED),))
        return tuple(result)


def _topological(walk: Walk) -> list[int]:
    """The keys of all nodes, each after all that lead to it."""
    waiting = [0] * len(walk.nodes)
    for target in walk.target:
        waiting[target] += 1
    ready = [key for key, count in enumerate(waiting) if not count]
    order: list[int] = []
    while ready:
        key = ready.pop()
        order.append(key)
        for target in walk.below(key):
            waiting[target] -= 1
            if not waiting[target]:
                ready.append(target)
    return order
