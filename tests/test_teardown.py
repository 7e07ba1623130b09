"""A deep graph that was walked is freed without overflowing the stack, and wholly."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref

import torch

from gradgraph import trace
from gradgraph.teardown import BAND, SAFE, _waiting

# In a process of its own: what is tested for is a segmentation fault, in threads with little stack too.
PROGRAM = """
import threading, torch
from gradgraph import trace

def look(depth):
    w = torch.ones((), requires_grad=True)
    y = w.clone()
    side = []
    for i in range(depth):
        y = y * w + y
        if i % 500 == 0:
            side.append(y)
    total = torch.stack(side).sum() + y
    trace(total, lower=[y]).release()
    trace(y)  # again, from another root
    del total, y, side

look(100_000)
threading.stack_size(512 * 1024)
thread = threading.Thread(target=look, args=(20_000,))
thread.start()
thread.join()
print("alive")
"""


def test_deep_graphs_are_freed_without_a_crash() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "alive"), done.stderr[-500:]


def test_deep_graphs_are_freed_wholly() -> None:
    w = torch.ones((), requires_grad=True)
    y = w.exp()
    deepest = weakref.ref(y)
    for _ in range(5 * BAND):
        y = y * w
    trace(y).release()
    assert deepest() is not None
    del y
    for _ in range(3):  # the pending call runs at the interpreter's next chance
        gc.collect()
    assert not _waiting
    assert deepest() is None


def test_few_fuses_are_laid() -> None:
    w = torch.ones((), requires_grad=True)
    y = w
    for _ in range(5 * BAND):
        y = y * w
    graph = trace(y)
    assert sum(bool(fn.metadata) for fn in graph.live.nodes) == 4


def test_shallow_graphs_are_left_untouched() -> None:
    w = torch.ones((), requires_grad=True)
    y = w
    for _ in range(SAFE):
        y = y * w
    graph = trace(y)
    assert not any(fn.metadata for fn in graph.live.nodes)
