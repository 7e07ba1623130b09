"""Runs every benchmark and prints its table; `--write` puts the tables into docs/performance.md.

pip install -c constraints.txt -e ".[test,bench]"
python -m tests.benchmarks [--write] [trace] [record] [memory] [batched] [curvature] [estimates]
                           [contributions] [products] [blocks] [startup] [pictures] [lanes] [layout]
                           [growth] [million]

`million` takes minutes and many gigabytes, and runs only when it is named.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from tests.benchmarks import (
    batched,
    contributions,
    curvature,
    layout,
    memory,
    pictures,
    products,
    record,
    startup,
    trace,
)

BENCHMARKS: dict[str, Callable[[], str]] = {
    "trace": trace.table,
    "record": record.table,
    "memory": memory.table,
    "batched": batched.table,
    "curvature": curvature.table,
    "estimates": curvature.estimates,
    "contributions": contributions.table,
    "products": products.table,
    "blocks": products.blocks,
    "startup": startup.table,
    "pictures": pictures.table,
    "lanes": layout.table,
    "layout": pictures.layout,
    "growth": pictures.growth,
    "million": pictures.million,
}
ON_REQUEST = {"million"}
PAGE = Path(__file__).parents[2] / "docs" / "performance.md"


def main(arguments: list[str]) -> None:
    names = [name for name in arguments if name != "--write"] or [name for name in BENCHMARKS if name not in ON_REQUEST]
    page = PAGE.read_text() if "--write" in arguments else ""
    for name in names:
        table = BENCHMARKS[name]()
        print(f"## {name}\n\n{table}\n", flush=True)
        if page:
            page = put(page, name, table)
    if page:
        PAGE.write_text(put(page, "machine", machine()))


def put(page: str, name: str, text: str) -> str:
    """`page` with `text` between the two marks called `name`."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    head, _, rest = page.partition(begin)
    _, found, tail = rest.partition(end)
    if not found:
        raise SystemExit(f"{PAGE} has no place marked {name}")
    return f"{head}{begin}{text}\n{end}{tail}"


def machine() -> str:
    return (
        f"Python {platform.python_version()}, torch {torch.__version__}, {platform.system()} {platform.machine()}, "
        f"{torch.get_num_threads()} threads."
    )


if __name__ == "__main__":
    main(sys.argv[1:])
