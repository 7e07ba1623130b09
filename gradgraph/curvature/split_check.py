"""Contributions must sum to eᵀHe: checked for every direction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from gradgraph.curvature.first_order import Differentiate
from gradgraph.curvature.split_adjoints import Adjoints, dtype_of
from gradgraph.curvature.split_blame import culprits
from gradgraph.curvature.split_numbers import Numbers
from gradgraph.errors import GradGraphError

__all__ = ["Check"]

_SEED = 0  # of passes that are compared: what draws random numbers draws the same


class Check:
    """Compares sums of parts with totals.

    Rounding moves either by a few eps times the moduli of what is added: within eps to the power of 2/3 of those (4e-11
    in float64, 2e-5 in float32) all is well. Where nothing is left but rounding, because all that is added cancels (of
    a bias before a normalization), that scale is too small. Then a direction longer by √eps tells: it rounds
    otherwise, so the difference is another, while one that has another cause stays.

    Args:
        loss: the loss.
        params: what is differentiated by.
        differentiate: gives the gradients.
        adjoints: how they were made.
    """

    def __init__(
        self,
        loss: Tensor,
        params: Mapping[Any, Tensor | GradientEdge],
        differentiate: Differentiate,
        adjoints: Adjoints,
    ) -> None:
        self._loss = loss
        self._params = params
        self._differentiate = differentiate
        self._adjoints = adjoints
        self._eps = max((torch.finfo(dtype_of(one)).eps for one in params.values()), default=0.0)

    def __call__(
        self,
        directions: Mapping[Any, Tensor],
        numbers: Numbers,
        again: Callable[[Mapping[Any, Tensor]], Numbers],
    ) -> None:
        """Compare the numbers of some directions; `again` computes those of others.

        Raises:
            GradGraphError: they differ by more than rounding.
        """
        if not bool((numbers.off() > self._eps ** (2 / 3)).any()):
            return
        eps = max(self._eps, *(torch.finfo(dtype).eps for dtype in self._dtypes()))
        rows = (numbers.off() > eps ** (2 / 3)).nonzero().flatten()
        if not len(rows):
            return
        suspects = {name: one[rows] for name, one in directions.items()}

        def errors(scale: float) -> Tensor:
            torch.manual_seed(_SEED)  # put back by `aside`
            return again({name: one * scale for name, one in suspects.items()}).error() / scale**2

        first = errors(1.0)
        for factor in (3, 5, 11):
            stays = (errors(1 + factor * eps**0.5) - first).abs() <= max(0.02, 3 * eps**0.5) * first.abs()
            rows, first = rows[stays], first[stays]
            suspects = {name: one[stays] for name, one in suspects.items()}
            if not len(rows):
                return
        worst = int(numbers.off()[rows].argmax())
        direction = {name: one[worst] for name, one in suspects.items()}
        wrong = culprits(self._loss, self._params, direction, self._differentiate)
        row = int(rows[worst])
        raise GradGraphError(_text(wrong, float(numbers.parts[row].sum()), float(numbers.totals[row])))

    def _dtypes(self) -> set[torch.dtype]:
        """The floating dtypes of the tensors between the loss and the parameters: autocast's are narrower."""
        nodes = (self._adjoints.walk.nodes[key] for key in self._adjoints.path)
        return {one.dtype for node in nodes for one in node._input_metadata if one.dtype.is_floating_point}


def _text(wrong: list[str], found: float, expected: float) -> str:
    what = "; ".join(wrong[:4]) + (f"; and {len(wrong) - 4} more" if len(wrong) > 4 else "")
    where = (
        f"There are no tangents to be had: {what}. Write a backward that is the gradient (one that rescales, clips or "
        "drops some is not), and remove hooks that change gradients."
        if wrong
        else "Which operation is to blame cannot be told: do its passes differ from one to the next (random numbers "
        "in a backward, or a hook with a state)?"
    )
    return (
        f"curvature cannot split this loss: the operations' parts sum to {found:.6g}, and the Hessian gives "
        f"{expected:.6g}. {where}"
    )
