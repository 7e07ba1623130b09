"""gradgraph: the debugger for PyTorch's autograd.

`trace` turns tensors into an `AutogradGraph`, analyses such as `gradients` and `hessian_diagonal` return plain dicts,
`annotate` writes them into the graph, and `render` draws it.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradgraph.curvature import (
        Curvature,
        HessianDiagonal,
        HessianOperator,
        curvature,
        hessian,
        hessian_diagonal,
        hvp,
    )
    from gradgraph.errors import GradGraphError, InputError, ReadError, ReleasedGraphError, RenderError, TargetError
    from gradgraph.gradients import GradientStats, gradients
    from gradgraph.graph import AutogradGraph, annotate
    from gradgraph.ledger import Ledger, watch
    from gradgraph.readwrite import read_json, write_graphml, write_json
    from gradgraph.recorder import Recording, record
    from gradgraph.render import render
    from gradgraph.tracer import trace
    from gradgraph.view import View, focus, fold, path

__version__ = "0.1.0"

# Nothing heavy is imported before it is used: `gradgraph --help` needs no torch, a saved graph opens without it.
_HOME = {
    "AutogradGraph": "graph",
    "Curvature": "curvature",
    "GradGraphError": "errors",
    "GradientStats": "gradients",
    "HessianDiagonal": "curvature",
    "HessianOperator": "curvature",
    "InputError": "errors",
    "Ledger": "ledger",
    "ReadError": "errors",
    "Recording": "recorder",
    "ReleasedGraphError": "errors",
    "RenderError": "errors",
    "TargetError": "errors",
    "View": "view",
    "annotate": "graph",
    "curvature": "curvature",
    "focus": "view",
    "fold": "view",
    "gradients": "gradients",
    "hessian": "curvature",
    "hessian_diagonal": "curvature",
    "hvp": "curvature",
    "path": "view",
    "read_json": "readwrite",
    "record": "recorder",
    "render": "render",
    "trace": "tracer",
    "watch": "ledger",
    "write_graphml": "readwrite",
    "write_json": "readwrite",
}

__all__ = [
    "AutogradGraph",
    "Curvature",
    "GradGraphError",
    "GradientStats",
    "HessianDiagonal",
    "HessianOperator",
    "InputError",
    "Ledger",
    "ReadError",
    "Recording",
    "ReleasedGraphError",
    "RenderError",
    "TargetError",
    "View",
    "__version__",
    "annotate",
    "curvature",
    "focus",
    "fold",
    "gradients",
    "hessian",
    "hessian_diagonal",
    "hvp",
    "path",
    "read_json",
    "record",
    "render",
    "trace",
    "watch",
    "write_graphml",
    "write_json",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'gradgraph' has no attribute {name!r}")
    value = getattr(import_module(f"gradgraph.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})


class _Package(ModuleType):
    """Keeps `gradgraph.render` the function: importing the submodule of that name would put the module over it."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
