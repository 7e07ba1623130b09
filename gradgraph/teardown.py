"""Lets a deep graph that was walked be freed without overflowing the stack.

Since torch 2.13 a node that Python has once seen keeps its Python object for life, and such nodes are freed
recursively: a chain of some 50,000 of them overflows the C stack, and the program that dropped it dies
(https://github.com/pytorch/pytorch/pull/181139 replaced the loop of `deleteNode`). Walking a graph would so plant a
crash in the program that we look at.

So along deep graphs a few edges carry a fuse. Cut the graph into bands of `BAND` levels by the longest path from the
roots; for each edge that enters a new band, the node above holds, in its `metadata`, the node below. When the node
above dies, its fuse hands the node below to a queue, where it outlives the recursion. The queue is emptied by a
pending call of the interpreter, as soon as the stack has unwound; each entry frees one band more.
"""

from __future__ import annotations

import ctypes
from collections import deque
from typing import Any

from torch.autograd.graph import Node

from gradgraph.walk import Walk

__all__ = ["BAND", "lay_fuses"]

#: Levels that may be freed by recursion. A level takes some 170 bytes of stack; a thread may have but 512 KiB.
BAND = 1_000

_KEY = "gradgraph"

_waiting: deque[Node] = deque()


class _Fuse:
    """Holds the nodes below the edges that enter a new band, until the node above dies."""

    def __init__(self) -> None:
        self.below: dict[Node, None] = {}

    def __del__(self) -> None:
        # This runs before the dying node lets go of its edges, so what is below must be dropped later.
        idle = not _waiting
        _waiting.extend(self.below)
        if idle and _waiting:
            _add_pending_call(_empty_queue, None)


def _drop_waiting(_: Any) -> int:
    while _waiting:
        _waiting.popleft()
    return 0


_add_pending_call = ctypes.pythonapi.Py_AddPendingCall
_add_pending_call.argtypes = [ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p]
_empty_queue = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(_drop_waiting)


def lay_fuses(walk: Walk) -> None:
    """Make the graph of `walk` safe to free. Graphs of at most `BAND` levels are left untouched."""
    if len(walk.nodes) <= BAND:
        return
    band = [depth // BAND for depth in _depths(walk)]
    if not any(band):
        return
    for _, u, v in walk.edges(len(walk.nodes)):
        if band[u] != band[v]:
            upper: Any = walk.nodes[u]
            upper.metadata.setdefault(_KEY, _Fuse()).below[walk.nodes[v]] = None


def _depths(walk: Walk) -> list[int]:
    """The longest path from a root to each node, in edges."""
    parents = [0] * len(walk.nodes)
    for v in walk.target:
        parents[v] += 1
    depth = [0] * len(walk.nodes)
    ready = [key for key, count in enumerate(parents) if not count]
    while ready:
        u = ready.pop()
        for v in walk.below(u):
            depth[v] = max(depth[v], depth[u] + 1)
            parents[v] -= 1
            if not parents[v]:
                ready.append(v)
    return depth
