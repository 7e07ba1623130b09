"""How each parameter's part of a Hessian was computed."""

from __future__ import annotations

from dataclasses import dataclass

from gradgraph.curvature.first_order import Reached

__all__ = ["ParameterReport"]


@dataclass(frozen=True)
class ParameterReport:
    """How one parameter's second derivatives were computed.

    Attributes:
        method: "graph", "batched", "accumulate", "hutchinson", "xdiag", or "none" where no pass was needed.
        exact: whether the result is exact to rounding.
        passes: engine passes that it took, the shared first-order one not counted; others may have shared them.
        chunk: rows per pass, at most.
        reason: why it was done so, in words.
        seconds: spent on it, the shared first-order pass not counted; shared passes are divided.
        reached: "curved"; "linear": the gradient does not depend on the parameter, so zeros; "unreachable": the loss
            does not reach it or it does not require grad, so zeros.
    """

    method: str
    exact: bool
    passes: int
    chunk: int
    reason: str
    reached: Reached
    seconds: float = 0.0
