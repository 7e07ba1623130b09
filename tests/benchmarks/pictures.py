"""From tensors to a picture in a file, beside what `dot` makes of torchviz's graph; and how it grows with the graph."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import gradgraph
from tests.benchmarks import programs
from tests.benchmarks.timing import markdown

LIMIT = 60
"""Seconds that `dot` may take."""


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    begin = time.perf_counter()
    result = call()
    return result, time.perf_counter() - begin


def size_of(path: Path) -> str:
    """Of the file and of the pages beside it, where there are any."""
    files = [path, *path.parent.glob(f"{path.stem}-*{path.suffix}")]
    return f"{sum(file.stat().st_size for file in files) / 1000:,.0f}"


def drawn(graph: gradgraph.AutogradGraph | gradgraph.View, path: Path, **options: Any) -> tuple[float, str]:
    """Seconds and kilobytes of a picture."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a PNG was scaled down
        _, seconds = timed(lambda: gradgraph.render(graph, path, **options))
    return seconds, size_of(path)


def torchviz(root: Tensor, model: nn.Module, folder: Path) -> str:
    """Seconds until `dot` has made an SVG of torchviz's graph; or how that failed."""
    if not find_spec("torchviz"):
        return "not installed"
    from torchviz import make_dot

    begin = time.perf_counter()
    try:
        source = make_dot(root, dict(model.named_parameters())).source
        command = ["dot", "-Tsvg", "-o", str(folder / "torchviz.svg")]
        subprocess.run(command, input=source, text=True, check=True, timeout=LIMIT)
    except RecursionError:
        return "RecursionError"
    except FileNotFoundError:
        return "no dot"
    except subprocess.TimeoutExpired:
        return f"killed at {LIMIT} s"
    except subprocess.CalledProcessError as error:
        return f"dot failed: {error.returncode}"
    return f"{time.perf_counter() - begin:.1f}"


def row(name: str, build: Callable[[], tuple[nn.Module, Tensor]], folder: Path) -> list[str]:
    with gradgraph.record():
        model, root = build()
    graph, tracing = timed(lambda: gradgraph.trace(root, model))
    view, folding = timed(lambda: gradgraph.fold(graph))
    drawing, bytes_folded = drawn(view, folder / "folded.png")
    drawing_all, bytes_all = drawn(graph, folder / "all.svg", fold="none")
    return [
        name,
        f"{len(graph):,}",
        f"{tracing:.2f}",
        str(len(view)),
        f"{folding:.2f}",
        f"{drawing:.2f}",
        f"**{tracing + folding + drawing:.2f}**",
        bytes_folded,
        f"**{tracing + drawing_all:.2f}**",
        bytes_all,
        torchviz(root, model, folder),
    ]


def table() -> str:
    """The models."""
    head = ["model", "nodes", "trace, s", "boxes", "fold, s", "PNG, s", "tensors to folded PNG, s", "kB"]
    head += ["tensors to unfolded SVG, s", "kB", "torchviz and `dot`, s"]
    with tempfile.TemporaryDirectory() as folder:
        gradgraph.trace(programs.chain(2)).render(Path(folder, "first.png"))  # imports, and compiles the engine
        return markdown(head, [row(name, build, Path(folder)) for name, build in programs.MODELS.items()])


def loop_row(steps: int) -> list[str]:
    with gradgraph.record():
        root = programs.loop(steps)
    graph, tracing = timed(lambda: gradgraph.trace(root))
    view, folding = timed(lambda: gradgraph.fold(graph))
    with tempfile.TemporaryDirectory() as folder:
        drawing, _ = drawn(view, Path(folder, "folded.png"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    after = folding + drawing
    each = 1e6 * after / len(graph)
    figures = [f"{tracing:.2f}", str(len(view)), f"{folding:.2f}", f"{drawing:.2f}", f"**{after:.2f}**", f"{each:.0f}"]
    return [f"{len(graph):,}", *figures, f"{peak:.1f}"]


def loops(*steps: int) -> str:
    """Unrolled loops, each in a process of its own, so that its peak of memory is its own."""
    head = ["nodes", "trace, s", "boxes", "fold, s", "PNG, s", "graph to folded PNG, s", "µs a node", "peak RSS, GiB"]
    command = [sys.executable, "-m", "tests.benchmarks.pictures"]
    rows = [
        subprocess.run([*command, str(count)], check=True, capture_output=True, text=True).stdout.strip().split("\t")
        for count in steps
    ]
    return markdown(head, rows)


def growth() -> str:
    """Loops of up to 100,000 nodes."""
    return loops(500, 5_000, 15_000, 50_000)


def million() -> str:
    """A loop of 1,000,000 nodes, which takes minutes."""
    return loops(500_000)


def layout() -> str:
    """Unfolded pictures, of deeper and deeper GPT-2s: seconds a node stay the same."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for layers in (3, 6, 12, 24, 48, 96):
            with gradgraph.record():
                model, root = programs.plain_gpt2(layers)
            graph = gradgraph.trace(root, model)
            seconds, kilobytes = drawn(graph, Path(folder, "all.svg"), fold="none")
            each = f"{1e6 * seconds / len(graph):.0f}"
            rows.append([f"GPT-2, {layers} layers", f"{len(graph):,}", f"{seconds:.2f}", each, kilobytes])
    return markdown(["graph", "nodes", "unfolded SVG, s", "µs a node", "kB"], rows)


if __name__ == "__main__":
    print("\t".join(loop_row(int(sys.argv[1]))))
