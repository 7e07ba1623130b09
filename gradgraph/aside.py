"""Engine runs of our own, beside the program's: unseen by observers, without a trace in the RNG, with clear errors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.autograd.graph import Node

from gradgraph.errors import GradGraphError, InputError
from gradgraph.passes import unobserved
from gradgraph.saved import saved_values

__all__ = ["aside", "reachable"]


@contextmanager
def aside(what: str, roots: Sequence[Node], *, again: str) -> Iterator[None]:
    """Run the engine inside the block.

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
    # A custom backward may draw random numbers; the program's next pass draws the same ones.
    with unobserved(), torch.random.fork_rng(devices=devices):
        try:
            yield
        except (RuntimeError, NotImplementedError) as error:
            explained = None if isinstance(error, GradGraphError) else _explained(error, what, roots, again)
            if explained is None:
                raise
            raise explained from error


def reachable(roots: Iterable[Node]) -> list[Node]:
    """Every node behind `roots`, each once, roots first. Iterative."""
    seen = dict.fromkeys(roots)
    nodes = list(seen)
    for fn in nodes:  # grows while it is walked
        for child, _ in fn.next_functions:
            if child is not None and child not in seen:
                seen[child] = None
                nodes.append(child)
    return nodes


def _explained(error: Exception, what: str, roots: Sequence[Node], again: str) -> GradGraphError | None:
    """The error of ours that says what an error of the engine means here; None where it is the program's own."""
    text = str(error)
    first = text.partition("\n")[0][:300]
    if "backward through the graph a second time" in text:
        freed = [fn.name() for fn in reachable(roots) if any(one.state == "freed" for one in saved_values(fn))]
        names = ", ".join(dict.fromkeys(freed[:5])) or "some node"
        return InputError(
            f"{what} needs the tensors that the graph saved, but an earlier backward pass freed them (at {names}). "
            f"Call that pass with retain_graph=True, or {again}."
        )
    if "modified by an inplace operation" in text:
        return InputError(f"{what} needs a saved tensor that was changed in place since: {first}")
    if "checkpoint is not compatible with .grad()" in text or "checkpoint is incompatible with .grad()" in text:
        return GradGraphError(
            f"{what} cannot look into a reentrant checkpoint (CheckpointFunctionBackward): its forward runs again, "
            "unseen, inside its backward. Call torch.utils.checkpoint.checkpoint(..., use_reentrant=False)."
        )
    if "donated buffers" in text:
        return GradGraphError(
            f"{what} keeps the graph, and torch.compile gave its buffers away ({first}). Set "
            "torch._functorch.config.donated_buffer = False before compiling, or analyse the uncompiled function."
        )
    if _refuses(text):
        return GradGraphError(
            f"{what} differentiates the graph twice, and {_blocked(roots)} cannot be differentiated again: {first} "
            "Use an implementation made of differentiable operations: for attention "
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
        or "aot_autograd does not currently support double backward" in text
    )


def _blocked(roots: Sequence[Node]) -> str:
    """The nodes behind `roots` that refuse to be differentiated, by the operations that they stand in for."""
    names = [fn.name() for fn in reachable(roots)]
    found = [name for name in names if name in ("NotImplemented", "Error", "DelayedError")]
    found += [name for name in names if "flash" in name.lower() or "efficient" in name.lower() or "Cudnn" in name]
    return ", ".join(dict.fromkeys(found)) or "one of its nodes"
