"""Finds the operations whose backward is not the transpose of their derivative: of those no tangent can be had."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gradgraph.curvature.first_order import Differentiate
from gradgraph.curvature.split_adjoints import Adjoints
from gradgraph.curvature.split_pass import SplitPass, inner

__all__ = ["inconsistent"]


def inconsistent(
    loss: Tensor, params: Mapping[str, Tensor], direction: Mapping[str, Tensor], differentiate: Differentiate
) -> list[str]:
    """Names of the operations at which ⟨R, u̇⟩ is not ⟨S, v̇⟩.

    S is what the pass brings to the outputs of an operation, R what it sends to its inputs, u̇ and v̇ are the tangents
    of inputs and outputs. Tangents come from the backward of the backward, R from the backward itself. Where that is
    linear, and differentiates truly, the two agree; of a backward that clips, rescales or leaves out, they do not.

    Cost: both passes once more, with hooks on every node.
    """
    adjoints = Adjoints(loss, params, everywhere=True)
    found = adjoints(differentiate)
    gradients = {name: gradient for name, gradient in found.items() if gradient.requires_grad}
    tangents = SplitPass(adjoints, gradients, params, everywhere=True)
    walk = adjoints.walk
    received: dict[int, Sequence[Tensor | None]] = {}
    sent: dict[int, Sequence[Tensor | None]] = {}
    hooks = [walk.nodes[key].register_prehook(partial(received.__setitem__, key)) for key in adjoints.path]
    hooks += [walk.nodes[key].register_hook(_keep(sent, key)) for key in adjoints.path]
    try:
        with tangents.hooked():
            tangents.run(direction)
    finally:
        for hook in hooks:
            hook.remove()
    names: list[str] = []
    for key in sorted(adjoints.path):
        outputs = [((key, nr), one) for nr, one in enumerate(received.get(key, ()))]
        edges = range(walk.start[key], walk.start[key + 1])
        inputs = [
            ((walk.target[edge], walk.output_nr[edge]), sent[key][walk.slot[edge]]) for edge in edges if key in sent
        ]
        out_sum, out_size = _paired(outputs, tangents.tangents)
        in_sum, in_size = _paired(inputs, tangents.tangents)
        eps = max((torch.finfo(one.dtype).eps for _, one in [*outputs, *inputs] if one is not None), default=0.0)
        if abs(in_sum - out_sum) > eps**0.5 * (in_size + out_size):
            names.append(walk.nodes[key].name())
    return list(dict.fromkeys(names))


def _keep(sent: dict[int, Sequence[Tensor | None]], key: int) -> Callable[[Sequence[Tensor | None], Any], None]:
    def keep(gradients: Sequence[Tensor | None], received: Any) -> None:  # noqa: ARG001 - torch's signature
        sent[key] = gradients

    return keep


def _paired(
    ends: Sequence[tuple[tuple[int, int], Tensor | None]], tangents: Mapping[tuple[int, int], Tensor]
) -> tuple[float, float]:
    """The sum of ⟨gradient, tangent⟩ over `ends`, and how large the terms might be."""
    pairs = [(one, tangents[place]) for place, one in ends if one is not None and place in tangents]
    values = [float(inner(one, tangent)) for one, tangent in pairs]
    sizes = [float(torch.linalg.vector_norm(one)) * float(torch.linalg.vector_norm(tangent)) for one, tangent in pairs]
    return sum(values), sum(sizes)
