"""Chains of simple operations that follow a site, through which tangents are carried without the engine.

Behind z stand one after another, each the only consumer of the one before, operations by entry, linear layers,
convolutions and views. A tangent is carried through them in closed form, and what an operation by entry contributes to

    v'Hv = sum over operations of <adjoint, second derivative of the operation [tangent, tangent]> + v'' H_cut v''

is added up on the way; only at the cut, where the chain ends, the engine is asked. Tangents that have one unit alone
stay compact, `[O, r, L, P]` instead of `[O, r, L, O, P]`, up to the first linear operation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from gradgraph.curvature.apart_rules import ELEMENTWISE, LOSSES, VIEWS, Shape, operation, shape_of
from gradgraph.curvature.sites import Consumers, Place, Site
from gradgraph.curvature.tangents import Block
from gradgraph.saved import saved_values
from gradgraph.walk import Walk

__all__ = ["Chain", "Slopes", "Step", "chain_behind", "derivatives"]


#: Of each step, by place and slot (two chains may meet at one operation, each through another slot), its first
#: derivatives and its second ones times the adjoint, where it is by entry; and whether they explain the gradients.
Slopes = dict[tuple[Place, int], tuple[Tensor | None, Tensor | None, bool]]


@dataclass(eq=False)
class Step:
    """One operation of a chain.

    Attributes:
        kind: "entries", "matrix", "convolution", "view", or "loss": by entry and then summed up, which ends the chain.
        place: of its output.
        node: its node.
        slot: the one that the chain goes through.
        shape: of its output.
        weight: what a linear one multiplies with.
    """

    kind: str
    place: Place
    node: Node
    slot: int
    shape: Shape
    weight: Tensor | None = None

    @property
    def edge(self) -> GradientEdge:
        """Where the gradient of the output arrives."""
        return GradientEdge(self.node, 0)


class Chain:
    """The steps from a site to the cut.

    Args:
        site: where it starts.
        steps: what follows.
    """

    def __init__(self, site: Site, steps: Sequence[Step]) -> None:
        self.site = site
        self.steps = list(steps)
        self._slopes: Slopes = {}

    @property
    def ends_at_loss(self) -> bool:
        """Whether nothing is left to the engine, if the sum there is a term of the loss as it is."""
        return bool(self.steps) and self.steps[-1].kind == "loss"

    @property
    def cut(self) -> GradientEdge:
        """Where the engine takes over."""
        return self.steps[-1].edge if self.steps else self.site.edge

    @property
    def last(self) -> Place:
        """The place of the cut."""
        return self.steps[-1].place if self.steps else self.site.place

    @property
    def edges(self) -> dict[Place, GradientEdge]:
        """The gradients that carrying needs: the cut's, and those of operations by entry and of what they are of."""
        found = {self.site.place: self.site.edge}
        found.update({step.place: step.edge for step in self.steps})
        return found

    def prepare(self, gradients: Mapping[Place, Tensor | None], slopes: Slopes | None = None) -> bool:
        """Take the derivatives of the operations by entry from the graph; whether they explain the gradients there.

        They do not where a hook of the program's changes a gradient on its way: then the chain says nothing. `slopes`
        has what other chains have found, and takes what this one finds.
        """
        slopes = self._slopes = {} if slopes is None else slopes
        before, edge = self.site.place, self.site.edge
        for step in self.steps:
            after, gradient = gradients[step.place], gradients[before]
            if after is None or gradient is None:
                return False
            if step.kind == "loss" and after.requires_grad:
                del self.steps[self.steps.index(step) :]  # the sum is not the end
                return True
            way = step.place, step.slot
            if way not in slopes:
                after = after.detach()
                if step.kind == "entries":
                    slope, bend = derivatives(step.node, [step.slot], edge, after)
                    slopes[way] = slope, bend, _close(slope * after, gradient.detach())
                elif step.kind == "loss":
                    slopes[way] = None, *_bend_of_loss(step, edge, after, gradient.detach())
                else:
                    expected = _transposed(step, after, gradient.shape)
                    slopes[way] = None, None, _close(expected, gradient.detach())
            if not slopes[way][2]:
                return False
            before, edge = step.place, step.edge
        return True

    def carry(self, block: Block) -> Block:
        """The block at the cut."""
        for step in self.steps:
            if step.kind in ("entries", "loss"):
                slope, bend, _ = self._slopes[step.place, step.slot]
                block.bend(step.place, bend)
                if slope is not None:
                    block = block.scaled(slope, step.shape)
            else:
                block = _LINEAR[step.kind](step, block)
        return block


def chain_behind(walk: Walk, consumers: Consumers, site: Site, *, by_row: bool) -> Chain:
    """The longest chain behind `site`; `by_row`, one whose every tensor keeps the rows of the site first."""
    steps: list[Step] = []
    place, shape = site.place, site.shape
    lead, _, trail = site.sizes
    while len(found := consumers.get(place, ())) == 1:
        key, slot = found[0]
        node: Any = walk.nodes[key]
        if operation(node) in LOSSES and node._saved_reduction and len(walk.below(key)) == 1:
            steps.append(Step("loss", (key, 0), node, slot, ()))
            break
        step = _step(key, node, slot, shape)
        if key == 0 or step is None or len(node._input_metadata) > 1:
            break
        if by_row and step.weight is not None and (trail != 1 or shape[0] != lead):
            break
        steps.append(step)
        place, shape = step.place, step.shape
    return Chain(site, steps)


def _step(key: int, node: Node, slot: int, shape: Shape) -> Step | None:
    """The operation as a step, where it can be one."""
    after = shape_of(node, 0)
    name = operation(node)
    if after is None or 0 in after:
        return None
    if name in VIEWS - {"ToCopy"}:
        return Step("view", (key, 0), node, slot, after)
    # With its statistics fixed a batch norm scales and shifts each entry.
    fixed = name in ("NativeBatchNorm", "CudnnBatchNorm") and slot == 0 and not getattr(node, "_saved_training", True)
    if (name in ELEMENTWISE or fixed) and after == shape:
        return Step("entries", (key, 0), node, slot, after)
    rule = _WEIGHTS.get(name)
    if rule is None:
        return None
    saved = {one.name: one.data for one in saved_values(node) if one.data is not None and one.state == "live"}
    weight = rule(node, slot, saved)
    if weight is None:
        return None
    return Step("convolution" if name == "Convolution" else "matrix", (key, 0), node, slot, after, weight)


def _matrix_of(first: int) -> Callable[[Any, int, Mapping[str, Tensor]], Tensor | None]:
    def rule(node: Any, slot: int, saved: Mapping[str, Tensor]) -> Tensor | None:
        if slot != first or getattr(node, "_saved_alpha", 1) != 1:
            return None
        return saved.get("mat2")

    return rule


def _kernel(node: Any, slot: int, saved: Mapping[str, Tensor]) -> Tensor | None:  # noqa: ARG001
    return saved.get("weight") if slot == 0 else None


_WEIGHTS = {"Addmm": _matrix_of(1), "Mm": _matrix_of(0), "Convolution": _kernel}


def derivatives(node: Any, slots: Sequence[int], before: GradientEdge, adjoint: Tensor) -> tuple[Tensor, Tensor | None]:
    """First derivatives of an operation by entry, and the second ones times the adjoint of its output, None for 0.

    The node itself is run, on ones and then on its own graph: nothing is known here of any function. `slots` are those
    by which it takes what arrives at `before`.
    """
    with torch.enable_grad():
        found = node(torch.ones_like(adjoint))
        slope: Tensor = sum(found[slot] for slot in slots) if isinstance(found, tuple) else found
    bend = None
    if slope.requires_grad:
        (bend,) = torch.autograd.grad(slope, before, adjoint, retain_graph=True, allow_unused=True)
    return slope.detach(), None if bend is None else bend.detach()


def _bend_of_loss(step: Step, before: GradientEdge, adjoint: Tensor, gradient: Tensor) -> tuple[Tensor | None, bool]:
    """The second derivatives by each entry, and whether the operation explains the gradient."""
    node: Any = step.node
    with torch.enable_grad():
        found = node(adjoint)
    own: Tensor = found[step.slot] if isinstance(found, tuple) else found
    bend = None
    if own.requires_grad:
        (bend,) = torch.autograd.grad(own, before, torch.ones_like(own), retain_graph=True, allow_unused=True)
    return bend, _close(own.detach(), gradient)


def _transposed(step: Step, adjoint: Tensor, shape: Sequence[int]) -> Tensor:
    """The adjoint of a linear operation's input."""
    if step.weight is None:
        return adjoint.reshape(tuple(shape))
    if step.kind == "matrix":
        return adjoint @ step.weight.t()
    node: Any = step.node
    found = torch.ops.aten.convolution_backward(
        adjoint, adjoint.new_zeros(()).expand(tuple(shape)), step.weight, None, *_convolved(node), [True, False, False]
    )
    result: Tensor = found[0]
    return result


def _view(step: Step, block: Block) -> Block:
    if block.fan is not None:
        return replace(block, shape=step.shape)
    value = block.value if block.units else block.value.reshape(*block.value.shape[:2], *step.shape)
    return block.moved(value, step.shape, block.units)


def _matrix(step: Step, block: Block) -> Block:
    assert step.weight is not None
    weight = step.weight
    count, each, lead = block.value.shape[:3]
    if block.fan is not None and block.shape[0] == lead and weight.shape[1] < count:
        # [O, K] times [K, L * M], which is smaller than the products themselves.
        scaled = weight if block.scale is None else block.scale.unsqueeze(2) * weight
        spread = torch.tensordot(block.fan, scaled.movedim(-2, 0), 1)  # [O, L, M], or [O, M]
        value = block.value * (spread if block.scale is not None else spread.unsqueeze(1)).unsqueeze(1)
    elif block.units and block.shape[0] == lead:
        mine = weight.view(block.units, -1, weight.shape[1])[block.first : block.first + count]
        if mine.shape[1] == 1:
            return replace(block, shape=step.shape, units=0, fan=mine[:, 0])
        value = torch.bmm(block.value.reshape(count, -1, mine.shape[1]), mine)
    else:
        value = block.multiplied().spread() @ weight
    return block.moved(value.reshape(count, each, *step.shape), step.shape, 0)


def _convolution(step: Step, block: Block) -> Block:
    assert step.weight is not None
    block = block.multiplied()
    node: Any = step.node
    weight, (*how, groups) = step.weight, _convolved(node)
    count, each = block.value.shape[:2]
    samples = step.shape[0]
    alone = block.units == block.shape[1] and block.value.shape[2] == samples and groups == 1
    if block.units and alone and not node._saved_transposed:
        # Each unit is a channel of its own: a grouped convolution of one channel a group.
        mine = weight[:, block.first : block.first + count].transpose(0, 1).reshape(-1, 1, *weight.shape[2:])
        data = block.value.permute(1, 2, 0, 3).reshape(each * samples, count, *block.shape[2:])
        value = torch.ops.aten.convolution(data, mine, None, *how, count)
        value = value.reshape(each, samples, count, *step.shape[1:]).movedim(2, 0)
    else:
        data = block.spread().reshape(-1, *block.shape[1:])
        value = torch.ops.aten.convolution(data, weight, None, *how, groups)
    return block.moved(value.reshape(count, each, *step.shape), step.shape, 0)


def _convolved(node: Any) -> list[Any]:
    """How: stride, padding, dilation, whether transposed, output padding, groups."""
    return [
        list(node._saved_stride),
        list(node._saved_padding),
        list(node._saved_dilation),
        node._saved_transposed,
        list(node._saved_output_padding),
        node._saved_groups,
    ]


_LINEAR: Mapping[str, Callable[[Step, Block], Block]] = {
    "view": _view,
    "matrix": _matrix,
    "convolution": _convolution,
}


def _close(one: Tensor, other: Tensor) -> bool:
    """Whether both are the same but for rounding."""
    if one.dtype != other.dtype:
        return False
    close = 64 * math.sqrt(torch.finfo(one.dtype).eps)
    return bool(torch.dist(one, other) <= close * torch.linalg.vector_norm(other))
