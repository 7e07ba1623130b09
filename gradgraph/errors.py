"""The errors that gradgraph raises. Every message says what, what was expected, what came, and what to do."""

__all__ = [
    "GradGraphError",
    "InputError",
    "ReadError",
    "ReleasedGraphError",
    "RenderError",
    "TargetError",
]


class GradGraphError(Exception):
    """Root of all errors that gradgraph raises on purpose."""


class InputError(GradGraphError, ValueError):
    """An argument does not fit: no graph behind a tensor, a parameter that is not there, a loss that is no scalar."""


class ReadError(GradGraphError, ValueError):
    """A file is not a gradgraph JSON graph, is damaged, or was written by a newer version."""


class ReleasedGraphError(GradGraphError, RuntimeError):
    """An analysis needs live autograd nodes, and the graph was released, loaded, copied or sliced."""


class RenderError(GradGraphError, RuntimeError):
    """A picture cannot be made: no engine, a failing engine, a graph too large, an unwritable file."""


class TargetError(GradGraphError, RuntimeError):
    """What the command line was pointed at raised, is missing, or holds no autograd graph."""
