"""Several processes find what one finds."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]

Run = Callable[[str], Any]


def test_sharded_diagonal_alone(ran: Run) -> None:
    values = ran("sharded_diagonal").values
    exact, estimated = values["exact"], values["estimated"]
    assert not exact.stderr
    assert all(report.exact for report in exact.report.values())
    assert not any(report.exact for report in estimated.report.values())
    miss, error = (
        values["flat"](parts).norm() for parts in ({k: estimated[k] - exact[k] for k in exact}, estimated.stderr)
    )
    assert miss < 2 * error
    # The last bias enters a mean of squares: its second derivative is 2.
    torch.testing.assert_close(exact["4.bias"], torch.tensor([2.0], dtype=torch.float64))


def test_sharded_diagonal_by_two(ran: Run) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *launcher, "examples/sharded_diagonal.py"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    # Some versions of gloo speak on the same stream.
    processes, *found = (line for line in done.stdout.splitlines() if not line.startswith("[Gloo]"))
    assert processes == "processes: 2"
    assert found == ran("sharded_diagonal").printed.splitlines()[1:]
