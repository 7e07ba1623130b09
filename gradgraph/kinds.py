"""What kind of node a node is: an operation, a leaf, or one that cannot be looked into or differentiated again."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["BLOCKED", "WRONG_TWICE", "is_once_differentiable", "is_reentrant_checkpoint", "kind_of", "name_of"]

#: Nodes that raise when a backward pass comes to them, by the names that torch gives them.
BLOCKED = ("NotImplemented", "Error", "DelayedError")

#: Nodes whose second derivative torch gets wrong: `torch.autograd.gradgradcheck` fails on them (2.10 to 2.15).
WRONG_TWICE = ("WeightNormInterfaceBackward0",)


def kind_of(fn: Any, op: str) -> str:
    """The node attribute `kind` of `fn`, which is called `op`."""
    if type(fn).__name__ == "AccumulateGrad":
        return "leaf"
    if isinstance(fn, torch._C._FunctionBase):
        where = getattr(getattr(fn, "_forward_cls", None), "__module__", "")
        if op == "CheckpointFunctionBackward" and where.startswith("torch."):
            return "opaque"  # reentrant checkpoint: its forward runs again, unseen, within its backward
        if where.startswith("torch._functorch") and "Compiled" in op:
            return "opaque"
        return "blocked" if is_once_differentiable(fn) else "custom"
    return "blocked" if op in BLOCKED else "op"


def name_of(fn: Any) -> str:
    """What torch calls the node; a Python Function may carry a `ctx.name` of the user's own, which hides `name()`."""
    name = type(fn).__name__ if isinstance(fn, torch._C._FunctionBase) else str(fn.name())
    return name.removeprefix("torch::autograd::")


def is_reentrant_checkpoint(fn: Any) -> bool:
    """Whether `fn` hides a forward that runs again within its backward."""
    return name_of(fn) == "CheckpointFunctionBackward" and kind_of(fn, name_of(fn)) == "opaque"


def is_once_differentiable(fn: Any) -> bool:
    """Whether `fn` is a Python Function whose backward is marked `@once_differentiable`."""
    backward = getattr(getattr(fn, "_forward_cls", None), "backward", None)
    # The mark wraps the user's backward in a function of torch's own module.
    return hasattr(backward, "__wrapped__") and (
        getattr(backward, "__globals__", None) is torch.autograd.function.__dict__
    )
