"""Runs each example once, as `python examples/NAME.py` would."""

from __future__ import annotations

import contextlib
import io
import runpy
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


class Ran(NamedTuple):
    """A finished script: its globals and what it printed."""

    values: dict[str, Any]
    printed: str


@cache
def _run(name: str) -> Ran:
    path = ROOT / "examples" / f"{name}.py"
    saved = sys.argv, list(sys.path), torch.get_num_threads()
    sys.argv, sys.path = [str(path)], [str(path.parent), *sys.path]
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            values = runpy.run_path(str(path), run_name="__main__")
    finally:
        sys.argv, sys.path[:] = saved[:2]
        torch.set_num_threads(saved[2])
        sys.modules.pop("curve_fit", None)
    return Ran(values, printed.getvalue())


@pytest.fixture
def ran() -> Callable[[str], Ran]:
    return _run
