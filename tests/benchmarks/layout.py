"""Seconds that `lanes` takes for chains and for GPT-2-like double backwards of growing length: the curve is a line."""

from __future__ import annotations

import gc
import statistics
import time

from gradgraph.layout import Link, Spot, lanes
from tests.benchmarks.timing import markdown

__all__ = ["blocks", "chain", "table"]

Picture = tuple[list[Spot], list[Link]]


def chain(boxes: int) -> Picture:
    """An unrolled loop: half of the boxes are operations, the other half the stubs of the weight that each uses."""
    spots, links = [Spot("n0", 110, 36)], []
    for step in range(1, boxes // 2):
        spots += [Spot(f"n{step}", 110, 36), Spot(f"w{step}", 60, 24, stub=True)]
        links += [Link(f"n{step - 1}", f"n{step}"), Link(f"n{step}", f"w{step}")]
    return spots, links


def blocks(boxes: int) -> Picture:
    """Residual blocks of five linear layers, their gradients in lane 1, and the squares of these, summed.

    A layer has a weight and a bias; its backward three boxes, two of them with a curvature arrow, and two squares and
    sums hang on it.
    """
    spots, links = [Spot("loss", 90, 36), Spot("penalty", 90, 36, 1)], []
    for layer in range(boxes // 10):
        n, above = f"n{layer}", f"n{layer - 1}" if layer else "loss"
        spots += [Spot(n, 120, 36), Spot(f"w{n}", 70, 36, stub=True), Spot(f"b{n}", 70, 24, stub=True)]
        spots += [Spot(f"{part}{n}", 100, 36, 1, ((n, 1.0),)) for part in ("dx", "dw", "db")]
        links += [Link(above, n), Link(n, f"w{n}"), Link(n, f"b{n}")]
        links += [Link(f"{part}{n}", n, "curvature") for part in ("dx", "dw")]
        if layer:
            links += [Link(f"{part}{n}", f"dxn{layer - 1}") for part in ("dx", "dw", "db")]
        if layer % 5 == 0 and layer >= 5:
            links += [Link(f"n{layer - 5}", n), Link(f"dx{n}", f"dxn{layer - 5}")]
        for part in ("dw", "db"):
            spots += [Spot(f"{part}{n}^2", 90, 36, 1), Spot(f"{part}{n} sum", 90, 24, 1)]
            links += [Link(f"{part}{n}^2", f"{part}{n}"), Link(f"{part}{n} sum", f"{part}{n}^2")]
            links.append(Link("penalty", f"{part}{n} sum"))
    return spots, links


def row(name: str, picture: Picture, runs: int) -> list[str]:
    spots, links = picture
    times = []
    for _ in range(runs):
        gc.collect()
        start = time.process_time()  # one thread that waits for nothing: what else the machine does is not its cost
        lanes(spots, links)
        times.append(time.process_time() - start)
    seconds = statistics.median(times)
    return [name, f"{len(spots):,}", f"{len(links):,}", f"{seconds:.3f}", f"{1e6 * seconds / len(spots):.1f}"]


def table() -> str:
    rows = []
    for name, make in (("unrolled loop", chain), ("residual blocks, double backward", blocks)):
        rows += [row(name, make(size), runs) for size, runs in ((1_000, 15), (10_000, 7), (100_000, 3), (1_000_000, 1))]
    return markdown(["graph", "boxes", "arrows", "processor s", "µs a box"], rows)
