"""Contributions must sum to eᵀHe: checked for every direction."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from gradgraph.curvature.first_order import Differentiate
from gradgraph.curvature.split_adjoints import Adjoints
from gradgraph.curvature.split_blame import inconsistent
from gradgraph.errors import GradGraphError

__all__ = ["Check"]


class Check:
    """Compares sums with totals.

    Rounding moves either by a few eps times the sum of the moduli of what is added. So up to eps to the power of 2/3
    of that (4e-11 in float64, 2e-5 in float32) all is well. Beyond, the operations are looked at one by one.

    Args:
        loss: the loss.
        params: what is differentiated by.
        differentiate: gives the gradients.
        adjoints: how they were made.
    """

    def __init__(
        self, loss: Tensor, params: Mapping[str, Tensor], differentiate: Differentiate, adjoints: Adjoints
    ) -> None:
        self._loss = loss
        self._params = params
        self._differentiate = differentiate
        self._adjoints = adjoints
        self._eps = max((torch.finfo(one.dtype).eps for one in params.values()), default=0.0)

    def __call__(self, totals: Tensor, parts: Tensor, direction: Callable[[int], Mapping[str, Tensor]]) -> None:
        """Compare `totals` `[rows]` with the sums of `parts` `[rows, parts]`; `direction` gives that of a row.

        Raises:
            GradGraphError: they differ by more than rounding.
        """
        error = (totals - parts.sum(1)).abs()
        scale = parts.abs().sum(1) + totals.abs()
        if not bool((error > self._eps ** (2 / 3) * scale).any()):  # NaN is not larger: it is what the Hessian is
            return
        eps = max(self._eps, *(torch.finfo(dtype).eps for dtype in self._dtypes()))
        worst = int((error / scale).nan_to_num(0.0).argmax())
        off = float(error[worst] / scale[worst])
        if off <= eps ** (2 / 3):
            return
        names = inconsistent(self._loss, self._params, direction(worst), self._differentiate)
        if names or off > eps**0.5:
            raise GradGraphError(_text(names, float(parts[worst].sum()), float(totals[worst])))

    def _dtypes(self) -> set[torch.dtype]:
        """The floating dtypes of the tensors between the loss and the parameters: autocast's are narrower."""
        nodes = (self._adjoints.walk.nodes[key] for key in self._adjoints.path)
        return {one.dtype for node in nodes for one in node._input_metadata if one.dtype.is_floating_point}


def _text(names: list[str], found: float, expected: float) -> str:
    who = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    where = (
        f"The backward of {who}, or a hook on what goes into it, gives something else than the gradient (it rescales, "
        "clips or drops some), so that no tangents can be had there. Write a backward that is the gradient, or remove "
        "the hook."
        if names
        else "Which operation is to blame cannot be told: do its passes differ from one to the next (random numbers "
        "in a backward, or a hook with a state)?"
    )
    return (
        f"curvature cannot split this loss: the operations' parts sum to {found:.6g}, and the Hessian gives "
        f"{expected:.6g}. {where}"
    )
