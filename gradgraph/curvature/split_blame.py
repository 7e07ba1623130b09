"""Finds what keeps a loss from being split: a backward that is not the gradient, or a hook that changes gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from gradgraph.curvature.first_order import Differentiate
from gradgraph.curvature.split_adjoints import Adjoints, Place
from gradgraph.curvature.split_pass import SplitPass, inner
from gradgraph.kinds import name_of

__all__ = ["culprits"]

_Gradients: TypeAlias = Sequence[Tensor | None]


def culprits(
    loss: Tensor,
    params: Mapping[Any, Tensor | GradientEdge],
    direction: Mapping[Any, Tensor],
    differentiate: Differentiate,
) -> list[str]:
    """What is wrong where, in words; nothing where all is well along `direction`.

    Of an operation, let S be what the pass brings to its outputs, R what it sends to its inputs, u̇ and v̇ the tangents
    of inputs and outputs, which come from the backward of the backward. Where the backward is linear and differentiates
    truly, ⟨R, u̇⟩ = ⟨S, v̇⟩; where it clips, rescales or leaves out, not. And what is sent to a tensor should arrive
    there, unless a hook is between.

    Cost: both passes once more, with hooks on every node.
    """
    adjoints = Adjoints(loss, params, everywhere=True)
    gradients = {name: one for name, one in adjoints(differentiate).items() if one.requires_grad}
    split = SplitPass(adjoints, gradients, params, everywhere=True)
    walk = adjoints.walk
    received: dict[int, _Gradients] = {}
    sent: dict[int, _Gradients] = {}
    hooks = [walk.nodes[key].register_prehook(partial(received.__setitem__, key)) for key in adjoints.path]
    hooks += [walk.nodes[key].register_hook(_keep(sent, key)) for key in adjoints.path]
    try:
        with split.hooked():
            numbers, _ = split.run(direction)
    finally:
        for hook in hooks:
            hook.remove()
    arriving: dict[Place, _Sum] = {}
    for edge, number in zip(split.edges, numbers, strict=True):
        arriving.setdefault(edge.place, _Sum()).add_number(float(number))
    inputs: dict[int, _Sum] = {key: _Sum() for key in adjoints.path}
    for key in sent:
        for position in range(walk.start[key], walk.start[key + 1]):
            place = walk.target[position], walk.output_nr[position]
            pair = sent[key][walk.slot[position]], split.tangents.get(place)
            inputs[key].add(*pair)
            arriving.setdefault(place, _Sum()).add(*pair)
    arrived: dict[Place, _Sum] = {}
    for key, several in received.items():
        for nr, one in enumerate(several):
            arrived.setdefault((key, nr), _Sum()).add(one, split.tangents.get((key, nr)))
    hooked = {place for place, here in arrived.items() if here.differs(arriving.get(place, here))}
    wrong = [f"a hook on the result of {name_of(walk.nodes[key])} changes its gradient" for key, _ in sorted(hooked)]
    for key in sorted(adjoints.path):
        edges = range(walk.start[key], walk.start[key + 1])
        if hooked.intersection((walk.target[edge], walk.output_nr[edge]) for edge in edges):
            continue  # its tangents are not those that its gradients go with
        outputs = _Sum()
        for nr in range(len(received.get(key, ()))):
            outputs.include(arrived[key, nr])
        if inputs[key].differs(outputs):
            wrong.append(f"the backward of {name_of(walk.nodes[key])} gives something else than the gradient")
    return list(dict.fromkeys(wrong))


class _Sum:
    """A sum of products of gradients and tangents, and how large its terms might be."""

    def __init__(self) -> None:
        self.value = 0.0
        self.size = 0.0
        self.eps = 0.0

    def add(self, gradient: Tensor | None, tangent: Tensor | None) -> None:
        if gradient is not None and tangent is not None:
            self.value += float(inner(gradient, tangent))
            self.size += float(torch.linalg.vector_norm(gradient)) * float(torch.linalg.vector_norm(tangent))
            self.eps = max(self.eps, torch.finfo(gradient.dtype).eps)

    def add_number(self, number: float) -> None:
        self.value += number
        self.size += abs(number)

    def include(self, other: _Sum) -> None:
        self.value += other.value
        self.size += other.size
        self.eps = max(self.eps, other.eps)

    def differs(self, other: _Sum) -> bool:
        eps: float = max(self.eps, other.eps)
        return bool(abs(self.value - other.value) > eps**0.5 * (self.size + other.size))


def _keep(sent: dict[int, _Gradients], key: int) -> Callable[[_Gradients, Any], None]:
    def keep(gradients: _Gradients, received: Any) -> None:  # noqa: ARG001 - torch's signature
        sent[key] = gradients

    return keep
