"""The gradients of a loss with a graph of their own: what every Hessian is differentiated from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from gradgraph.aside import aside, hooks_suspended, reentrant
from gradgraph.errors import GradGraphError, InputError
from gradgraph.kinds import WRONG_TWICE, is_once_differentiable, is_reentrant_checkpoint, name_of
from gradgraph.recording.log import made_at
from gradgraph.teardown import reachable
from gradgraph.walk import edge_of

__all__ = ["Differentiate", "FirstOrder", "Reached", "first_order", "gradients_of"]

#: Whether the gradient depends on the parameter ("curved"), is constant in it ("linear"), or the loss does not reach
#: it or it does not require grad ("unreachable").
Reached = Literal["curved", "linear", "unreachable"]

#: Gives the gradients with a graph; besides the loss, the pass starts at these edges, with these gradients.
Differentiate: TypeAlias = Callable[[Sequence[GradientEdge], Sequence[Tensor]], dict[str, Tensor]]


@dataclass(eq=False)
class FirstOrder:
    """Gradients of one loss, to be differentiated again.

    Attributes:
        tensors: the parameters by name.
        gradients: the dense gradient of each parameter whose gradient has a graph.
        reached: of every parameter, as far as the first order tells: "curved" may still turn out "linear".
        reset: to be called before each run of the engine.
    """

    tensors: dict[str, Tensor]
    gradients: dict[str, Tensor]
    reached: dict[str, Reached]
    reset: Callable[[], None]


@contextmanager
def first_order(
    what: str,
    loss: Tensor,
    tensors: Mapping[str, Tensor],
    run: Callable[[Differentiate], dict[str, Tensor]] | None = None,
) -> Iterator[FirstOrder]:
    """Differentiate `loss` by `tensors` once, with a graph; differentiate again inside the block.

    The program's `.grad`, RNG, hooks on the parameters and graph are as before when the block is left. `run` may run
    the pass itself, to watch it, or run it again: it is given what does, and returns what that returns.

    Raises:
        InputError: the loss is no real scalar or has no graph, its graph was freed, a parameter is complex, or the loss
            reaches none of them.
        GradGraphError: something in the graph cannot be differentiated twice.
    """
    _check_loss(what, loss)
    _check_params(what, tensors)
    active = {name: tensor for name, tensor in tensors.items() if tensor.requires_grad}
    roots = [get_gradient_edge(loss).node]
    with aside(what, roots, again=f"call {what} before it") as reset, hooks_suspended(tensors.values()):
        if active:
            _check_twice_differentiable(what, roots, active)
        differentiate = partial(gradients_of, loss, active)
        found = differentiate() if run is None or not active else run(differentiate)
        if len(found) < len(active) and any(map(is_reentrant_checkpoint, reachable(roots))):
            raise reentrant(what)  # the parameters that nothing reaches may be inside
        if not found:
            raise InputError(_unreached(what, tensors, active))
        reached: dict[str, Reached] = {
            name: "unreachable" if name not in found else "curved" if found[name].requires_grad else "linear"
            for name in tensors
        }
        yield FirstOrder(dict(tensors), {name: one for name, one in found.items() if one.requires_grad}, reached, reset)


def gradients_of(
    loss: Tensor,
    active: Mapping[str, Tensor],
    edges: Sequence[GradientEdge] = (),
    gradients: Sequence[Tensor] = (),
) -> dict[str, Tensor]:
    """The gradients of `loss` by the tensors in `active` that it reaches, with a graph; see `Differentiate`."""
    if not active:
        return {}
    received = torch.autograd.grad(
        [get_gradient_edge(loss), *edges],
        list(active.values()),
        [torch.ones_like(loss), *gradients],
        create_graph=True,
        allow_unused=True,
    )
    with torch.enable_grad():
        return {
            name: gradient.to_dense() if gradient.layout is not torch.strided else gradient
            for name, gradient in zip(active, received, strict=True)
            if gradient is not None
        }


def _check_loss(what: str, loss: Any) -> None:
    if not isinstance(loss, Tensor):
        raise InputError(f"{what} expected the loss, a scalar tensor with a graph; got {type(loss).__name__}.")
    dtype = str(loss.dtype).removeprefix("torch.")
    if loss.numel() != 1 or not loss.dtype.is_floating_point:
        raise InputError(
            f"{what} expected a real scalar loss, got a {dtype} tensor of shape {list(loss.shape)}. Reduce it to one "
            "number, for example with .sum() or .mean(), or call once per entry in a loop."
        )
    if not loss.requires_grad:
        raise InputError(
            f"{what} expected a loss with an autograd graph, got a {dtype} scalar that does not require grad. Was it "
            "computed under torch.no_grad(), detached, or converted by .item()?"
        )


def _check_params(what: str, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.is_meta:
            raise InputError(
                f"{what} expected parameters with values, but {name!r} is on the meta device, which holds none. Move "
                "the model with .to_empty(device=...) and give it values."
            )
        if not (tensor.is_floating_point() or tensor.is_complex()):
            raise InputError(
                f"{what} expected floating-point parameters, but {name!r} is "
                f"{str(tensor.dtype).removeprefix('torch.')}, by which nothing can be differentiated. Leave it out, or "
                "convert it with .double() before the forward."
            )
        if tensor.is_complex():
            raise InputError(
                f"{what} expected real parameters, but {name!r} is {str(tensor.dtype).removeprefix('torch.')}: a real "
                "loss has no single second derivative by a complex number. Make the parameter real, of shape "
                f"{[*tensor.shape, 2]}, and use torch.view_as_complex(parameter) in the forward."
            )


def _unreached(what: str, tensors: Mapping[str, Tensor], active: Mapping[str, Tensor]) -> str:
    names = ", ".join(repr(name) for name in list(tensors)[:5])
    more = "" if len(tensors) <= 5 else f" and {len(tensors) - 5} more"
    if not active:
        return (
            f"{what}: none of the parameters ({names}{more}) requires grad; call requires_grad_() before the forward."
        )
    return (
        f"{what}: the loss reaches none of the parameters ({names}{more}). Are they those that the forward used? A "
        "detach(), no_grad(), a copy of the model or a view such as p[i] made outside the forward cuts the path."
    )


def _check_twice_differentiable(what: str, roots: list[Node], active: Mapping[str, Tensor]) -> None:
    """Refuse what would give a wrong number on the way to the parameters, and say nothing.

    The gradient of a `once_differentiable` Function often just has no graph, which looks linear.
    """
    suspects = [fn for fn in reachable(roots) if is_once_differentiable(fn) or name_of(fn) in WRONG_TWICE]
    if not suspects:
        return
    targets = {edge_of(tensor).node for tensor in active.values()}
    for fn in suspects:
        if not targets.intersection(reachable([fn])):
            continue
        if name_of(fn) in WRONG_TWICE:
            raise GradGraphError(
                f"{what} differentiates the graph twice, and torch's second derivative of {made_at(fn)} is wrong: it "
                "fails torch.autograd.gradgradcheck. For weight_norm, write the weight as g * v / v.norm(dim=1, "
                "keepdim=True), in a parametrization of your own."
            )
        raise GradGraphError(
            f"{what} differentiates the graph twice, and {made_at(fn)} cannot be: its backward is marked "
            "@once_differentiable. Write its backward in differentiable operations and remove the mark."
        )
