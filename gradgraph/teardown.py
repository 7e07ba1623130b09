"""Lets a deep graph that was walked be freed without overflowing the stack.

Since torch 2.13 a node that Python has once seen keeps its Python object for life, and such nodes are freed
recursively: a chain of some 50,000 of them overflows the C stack, and the program that dropped it dies
(https://github.com/pytorch/pytorch/pull/181139 replaced the loop of `deleteNode`). Walking a graph would so plant a
crash in the program that we look at.

So along deep graphs a few edges carry a fuse. Cut the graph into bands of `BAND` levels by the height of its nodes,
the longest path to a leaf. For each edge that enters another band, the lowest apart, the node above holds, in its
`metadata`, the node below. When the node above dies, its fuse hands the node below to a queue, where it outlives the
recursion. The queue is emptied by a pending call of the interpreter; each entry frees one band more.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Iterable
from typing import Any

from torch.autograd.graph import GradientEdge, Node

from gradgraph.walk import Walk

__all__ = ["BAND", "SAFE", "lay_fuses", "reachable"]

#: Levels that any thread's stack can take: a level takes some 170 bytes, and a thread may have but 512 KiB.
SAFE = 2_000

#: Levels between fuses. A band is freed on top of the one that its fuse hung in, so two must be safe.
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
    """Make the graph of `walk` safe to free. Graphs of at most `SAFE` levels are left untouched."""
    if len(set(walk.source)) <= SAFE:  # no path is longer than there are nodes with an edge
        return
    heights = _heights(walk)
    if max(heights) <= SAFE:
        return
    band = [height // BAND for height in heights]
    for u, v in zip(walk.source, walk.target, strict=True):
        if band[u] != band[v] and band[v]:
            upper: Any = walk.nodes[u]
            fuse = upper.metadata.get(_KEY)
            if fuse is None:
                fuse = upper.metadata[_KEY] = _Fuse()
            fuse.below[walk.nodes[v]] = None


def _heights(walk: Walk) -> list[int]:
    """The longest path from each node to a node without edges, in edges."""
    users: list[list[int]] = [[] for _ in walk.nodes]
    for u, v in zip(walk.source, walk.target, strict=True):
        users[v].append(u)
    waits = [walk.start[u + 1] - walk.start[u] for u in range(len(walk.nodes))]
    height = [0] * len(walk.nodes)
    ready = [key for key, count in enumerate(waits) if not count]
    while ready:
        v = ready.pop()
        above = height[v] + 1
        for u in users[v]:
            if height[u] < above:
                height[u] = above
            waits[u] -= 1
            if not waits[u]:
                ready.append(u)
    return height


def reachable(roots: Iterable[Node]) -> list[Node]:
    """Every node behind `roots`, each once, roots first."""
    walk = Walk()
    walk.follow([GradientEdge(root, 0) for root in roots])
    lay_fuses(walk)
    return walk.nodes
