"""`gradgraph --help` against `python -c "import click"`, as whole processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.benchmarks.timing import in_turn, markdown


def run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def table() -> str:
    script = str(Path(sys.executable).with_name("gradgraph"))
    times = in_turn(
        30,
        click=lambda: run(sys.executable, "-c", "import click"),
        help=lambda: run(script, "--help"),
        package=lambda: run(sys.executable, "-c", "import gradgraph"),
    )
    rows = [
        ['`python -c "import click"`', f"{1000 * times['click']:.0f}", "1"],
        ["`gradgraph --help`", f"{1000 * times['help']:.0f}", f"{times['help'] / times['click']:.2f}"],
        [
            '`python -c "import gradgraph"`',
            f"{1000 * times['package']:.0f}",
            f"{times['package'] / times['click']:.2f}",
        ],
    ]
    return markdown(["process", "ms", "ratio"], rows)
