"""What kind of node a node is: an operation, a leaf, or one that cannot be looked into or differentiated again."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["BLOCKED", "WRONG_TWICE", "is_once_differentiable", "kind_of"]

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


def is_once_differentiable(fn: Any) -> bool:
    """Whether `fn` is a Python Function whose backward is marked `@once_differentiable`."""
    backward = getattr(getattr(fn, "_forward_cls", None), "backward", None)
    # The mark wraps the user's backward in a function of torch's own module.
    return hasattr(backward, "__wrapped__") and (
        getattr(backward, "__globals__", None) is torch.autograd.function.__dict__
    )
