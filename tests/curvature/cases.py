"""The corpus: named losses in float64, small enough for `torch.autograd.functional.hessian`.

`CASES[name]()` gives a loss of a dict of tensors, and the dict; the same numbers at every call.
"""

from __future__ import annotations

from collections.abc import Mapping

from tests.curvature.corpus import (
    attentions,
    convolutions,
    lookups,
    mixing,
    nested,
    norms,
    perceptrons,
    recurrences,
    weights,
)
from tests.curvature.corpus.build import Build, Built, seeded

__all__ = ["CASES", "NO_GRADIENT", "Built"]

_KINDS = (perceptrons, norms, attentions, recurrences, nested, convolutions, lookups, mixing, weights)

CASES: Mapping[str, Build] = {name: seeded(build) for kind in _KINDS for name, build in kind.CASES.items()}

#: What torch calls the gradient is not that of the loss.
NO_GRADIENT = frozenset({"gradient_reversal", "gradient_normalized_by_a_hook", "embedding_scaled_by_frequency"})
