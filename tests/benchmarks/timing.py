"""Timing two things in turn, so that a machine whose speed drifts treats both alike."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["in_turn", "markdown", "one_thread"]


def in_turn(
    runs: int, *, clock: Callable[[], float] = time.perf_counter, **candidates: Callable[[], Any]
) -> dict[str, float]:
    """Median seconds of each candidate over `runs` rounds of all; what a call returns is freed outside the clock."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(runs):
        for name, call in candidates.items():
            gc.collect()
            start = clock()
            result = call()
            times[name].append(clock() - start)
            del result
    return {name: statistics.median(values) for name, values in times.items()}


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch computes on one thread."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, numbers to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
