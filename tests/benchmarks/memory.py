"""Bytes that a traced graph takes for each node, beside those of a bare MultiDiGraph."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from typing import Any

from torch import Tensor

from tests.benchmarks import programs
from tests.benchmarks.timing import markdown
from tests.benchmarks.trace import floor, traced


def bytes_of(make: Callable[[], Any]) -> tuple[int, int]:
    """Bytes that stay allocated by Python, and the most there were at once, while `make` runs."""
    gc.collect()
    tracemalloc.start()
    result = make()
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del result
    return kept, peak


def row(name: str, root: Tensor) -> list[str]:
    nodes = len(floor(root))
    bare, _ = bytes_of(lambda: floor(root))
    kept, peak = bytes_of(lambda: traced(root))
    return [name, f"{nodes:,}", f"{bare / nodes:,.0f}", f"{kept / nodes:,.0f}", f"{peak / nodes:,.0f}"]


def table() -> str:
    _, _, penalty = programs.gpt2_double_backward()
    rows = [row("GPT-2, double backward", penalty)]
    rows += [row(f"chain of {length:,}", programs.chain(length)) for length in (100_000, 1_000_000)]
    return markdown(["graph", "nodes", "bare, bytes a node", "`trace`, bytes a node", "its peak"], rows)
