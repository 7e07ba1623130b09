"""gradgraph: the debugger for PyTorch's autograd.

`trace` turns tensors into an `AutogradGraph`, analyses such as `gradients` and `hessian_diagonal` return plain dicts,
`annotate` writes them into the graph, and `render` draws it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Nothing heavy is imported before it is used: `gradgraph --help` needs no torch, a saved graph opens without it.
_HOME = {
    "AutogradGraph": "graph",
    "GradGraphError": "errors",
    "GradientStats": "gradients",
    "HessianDiagonal": "curvature",
    "InputError": "errors",
    "Ledger": "ledger",
    "ReadError": "errors",
    "ReleasedGraphError": "errors",
    "RenderError": "errors",
    "TargetError": "errors",
    "annotate": "graph",
    "gradients": "gradients",
    "hessian": "curvature",
    "hessian_diagonal": "curvature",
    "hvp": "curvature",
    "read_json": "readwrite",
    "render": "render",
    "trace": "tracer",
    "watch": "ledger",
    "write_graphml": "readwrite",
    "write_json": "readwrite",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'gradgraph' has no attribute {name!r}")
    value = getattr(import_module(f"gradgraph.{_HOME[name]}"), name)
    # Importing gradgraph.render, gradgraph.gradients or gradgraph.curvature sets the module as an attribute of this
    # package, so the function has to be put over it.
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
