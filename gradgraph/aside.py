"""Engine runs of our own, beside the program's: unseen by observers, without a trace, with clear errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

from gradgraph.errors import GradGraphError, InputError
from gradgraph.kinds import BLOCKED, name_of
from gradgraph.passes import unobserved
from gradgraph.recording.log import made_at
from gradgraph.retained import retained
from gradgraph.saved import saved_values
from gradgraph.teardown import reachable

__all__ = ["aside", "hooks_suspended", "reentrant"]


@contextmanager
def aside(what: str, roots: Sequence[Node], *, again: str) -> Iterator[Callable[[], None]]:
    """Run the engine inside the block; the RNG and the `.grad` of retained tensors are put back at its end.

    Neither inference mode nor autocast around the call reaches into it: the one would give gradients without a graph,
    the other compute them in half the precision of the graph.

    `retain_grad()` makes every pass, `autograd.grad` too, add to the `.grad` of a tensor that is no leaf. What the
    block is given empties those again: call it between runs.

    Args:
        what: the analysis, for error texts.
        roots: nodes that the runs start from.
        again: how the user gets a graph that can be analysed, once this one is freed.

    Raises:
        InputError: the graph is freed, or something that it needs was changed in place.
        GradGraphError: a node refuses: it cannot be differentiated again, or not by `autograd.grad`.
    """
    devices = sorted(
        {one.device.index or 0 for root in roots for one in root._input_metadata if one.device.type == "cuda"}
    )
    kinds = {one.device.type for root in roots for one in root._input_metadata} | {"cpu"}
    with ExitStack() as stack:
        stack.enter_context(unobserved())
        stack.enter_context(torch.inference_mode(False))
        for kind in sorted(kinds & {"cpu", "cuda", "mps", "xpu"}):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        # A custom backward may draw random numbers; the program's next pass draws the same ones.
        stack.enter_context(torch.random.fork_rng(devices=devices))
        reset = stack.enter_context(_retained_grads_kept(roots))
        try:
            yield reset
        except (RuntimeError, NotImplementedError) as error:
            explained = None if isinstance(error, GradGraphError) else _explained(error, what, roots, again)
            if explained is None:
                raise
            raise explained from error


@contextmanager
def _retained_grads_kept(roots: Sequence[Node]) -> Iterator[Callable[[], None]]:
    """Empties the `.grad` of the retained tensors behind `roots`, and puts it back."""
    kept = [(tensor, tensor.grad) for tensor in retained(roots)]

    def reset() -> None:
        for tensor, _ in kept:
            tensor.grad = None

    reset()
    try:
        yield reset
    finally:
        for tensor, grad in kept:
            tensor.grad = grad


@contextmanager
def hooks_suspended(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Silence the hooks on `tensors` themselves, in place: they change a gradient or act on it, and define none."""
    emptied: list[tuple[dict[int, Any], dict[int, Any]]] = []
    try:
        for tensor in tensors:
            for hooks in (tensor._backward_hooks, getattr(tensor, "_post_accumulate_grad_hooks", None)):
                if hooks:
                    emptied.append((hooks, dict(hooks)))
                    hooks.clear()
        yield
    finally:
        for hooks, kept in emptied:
            hooks.update(kept)


def reentrant(what: str) -> GradGraphError:
    """The error that says why a reentrant checkpoint cannot be differentiated, and what can."""
    return GradGraphError(
        f"{what} cannot look into a reentrant checkpoint (CheckpointFunctionBackward): its forward runs again, unseen, "
        "inside its backward. Call torch.utils.checkpoint.checkpoint(..., use_reentrant=False)."
    )


def _explained(error: Exception, what: str, roots: Sequence[Node], again: str) -> GradGraphError | None:
    """The error of ours that says what an error of the engine means here; None where it is the program's own."""
    text = str(error)
    first = text.partition("\n")[0][:300]
    if "backward through the graph a second time" in text:
        freed = [name_of(fn) for fn in reachable(roots) if any(one.state == "freed" for one in saved_values(fn))]
        names = ", ".join(dict.fromkeys(freed[:5])) or "some node"
        return InputError(
            f"{what} needs the tensors that the graph saved, but an earlier backward pass freed them (at {names}). "
            f"Call that pass with retain_graph=True, or {again}."
        )
    if "modified by an inplace operation" in text:
        return InputError(
            f"{what} needs a saved tensor that was changed in place since the forward: a parameter by "
            "optimizer.step(), a buffer by another forward, or a tensor by an operation such as add_(). Analyse before "
            f"that, or run the forward again. torch says: {first}"
        )
    if "checkpoint is not compatible with .grad()" in text or "checkpoint is incompatible with .grad()" in text:
        return reentrant(what)
    if "donated buffers" in text:
        return GradGraphError(
            f"{what} keeps the graph, and torch.compile gave its buffers away ({first}). Set "
            "torch._functorch.config.donated_buffer = False before compiling, or analyse the uncompiled function."
        )
    if "aot_autograd does not currently support double backward" in text:
        return GradGraphError(
            f"{what} differentiates the graph twice, and a compiled function (CompiledFunctionBackward) cannot be: "
            f"{first.rstrip('.')}. Call the uncompiled module, or compile it with torch.compile(..., backend='eager')."
        )
    if _refuses(text):
        return GradGraphError(
            f"{what} differentiates the graph twice, and {_blocked(roots)} cannot be differentiated again: "
            f"{first.rstrip('.')}. Use an implementation made of differentiable operations: for attention "
            "torch.nn.attention.sdpa_kernel(SDPBackend.MATH), for cuDNN torch.backends.cudnn.flags(enabled=False), "
            "for a custom Function a backward of differentiable operations without once_differentiable."
        )
    return None


def _refuses(text: str) -> bool:
    return (
        "once_differentiable" in text
        or ("derivative for" in text and "not implemented" in text)
        or "does not support double backward" in text
        or "is not differentiable twice" in text
    )


def _blocked(roots: Sequence[Node]) -> str:
    """The nodes behind `roots` that refuse to be differentiated, by the operations that they stand in for."""
    found = []
    for fn in reachable(roots):
        name = name_of(fn)
        fused = any(word in name for word in ("Flash", "Efficient", "Cudnn"))
        if name in BLOCKED or fused:
            found.append(made_at(fn))
    return ", ".join(list(dict.fromkeys(found))[:5]) or "one of its nodes"
