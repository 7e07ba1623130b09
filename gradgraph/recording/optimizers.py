"""Leaves optimizers alone: what they do makes no nodes, but the mode would see each of their many looks at `.grad`."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from gradgraph.recording.sources import Lines

__all__ = ["unwatched_optimizers"]

_KEY = -1  # torch's own numbers of hooks begin at 0
_compiling = torch.compiler.is_dynamo_compiling


@contextmanager
def unwatched_optimizers(lines: Callable[[], Lines | None]) -> Iterator[None]:
    """Meanwhile `step()` and `zero_grad()` run without this thread's mode.

    A step with a closure, which runs the model, and one that is to be differentiated are watched. A step that raises
    leaves the mode aside until the next module call or backward pass.

    Args:
        lines: gives the mode of the thread that calls, or None where there is none.
    """
    optimizers: Any = sys.modules[torch.optim.Optimizer.__module__]  # torch.optim deletes its name for it
    classes: tuple[Any, ...] = torch.optim.Optimizer, nn.Module
    originals = [one.zero_grad for one in classes]
    patched = [_unwatched(original, lines) for original in originals]

    def before(optimizer: Any, args: Any, kwargs: Any) -> None:
        if _compiling():
            return
        mode = lines()
        if mode is not None and len(args) == 1 and not kwargs and not optimizer.defaults.get("differentiable"):
            mode.put_aside()

    def after(optimizer: Any, args: Any, kwargs: Any) -> None:  # noqa: ARG001 - torch's signature
        if _compiling():
            return
        mode = lines()
        if mode is not None:
            mode.put_back()

    optimizers._global_optimizer_pre_hooks[_KEY] = before
    optimizers._global_optimizer_post_hooks[_KEY] = after
    for one, replacement in zip(classes, patched, strict=True):
        one.zero_grad = replacement
    try:
        yield
    finally:
        del optimizers._global_optimizer_pre_hooks[_KEY]
        del optimizers._global_optimizer_post_hooks[_KEY]
        for one, original, replacement in zip(classes, originals, patched, strict=True):
            if one.zero_grad is replacement:
                one.zero_grad = original


def _unwatched(method: Callable[..., Any], lines: Callable[[], Lines | None]) -> Callable[..., Any]:
    @functools.wraps(method)
    def run(*args: Any, **kwargs: Any) -> Any:
        mode = None if _compiling() else lines()
        if mode is None or mode.aside:
            return method(*args, **kwargs)
        mode.put_aside()
        try:
            return method(*args, **kwargs)
        finally:
            mode.put_back()

    return run
