"""Whether ranks have the same loss and parameters, and what to do where they do not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["checksum", "closeness_of", "difference_of"]

_STEP = 2**20


def checksum(tensor: Tensor) -> int:
    """A sum of the entries' bits, weighted by their places: the same on every device, whatever the order of adding."""
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    flat = tensor.detach().to_dense().reshape(-1) if tensor.layout is not torch.strided else tensor.detach().reshape(-1)
    total = 0
    for start in range(0, flat.numel(), _STEP):
        bits = flat[start : start + _STEP].contiguous().view(kinds[flat.element_size()]).to(torch.int64)
        places = torch.arange(1, len(bits) + 1, device=bits.device) * 2654435761 + start
        total += int((bits * places).sum())  # wraps around, everywhere alike
    return total % 2**64


def closeness_of(dtype: torch.dtype) -> float:
    """The relative difference that roundings explain."""
    eps = torch.finfo(dtype).eps
    return max(4 * eps, min(1000 * eps, 1e-4))


def difference_of(everyone: Sequence[Mapping[str, Any]], closeness: float) -> str | None:
    """What sets ranks apart, for an error; None where nothing does."""
    for what, remedy in _REMEDIES.items():
        values = [one[what] for one in everyone]
        if what in ("loss", "gradient"):
            # A sum over many entries: its norm is less sure than the loss.
            near = closeness if what == "loss" else 100 * closeness
            same = [[_near(one, other, near) for other in values] for one in values]
        else:
            same = [[one == other for other in values] for one in values]
        usual = max(range(len(values)), key=lambda rank: sum(same[rank]))
        odd = [rank for rank in range(len(values)) if not same[usual][rank]]
        if odd:
            return _told(what, values, usual, odd) + remedy
    return None


def _near(one: float, other: float, closeness: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other)) or math.isclose(one, other, rel_tol=closeness)


_SAME = (
    "Sharding splits one Hessian over the ranks, so each must compute the same loss of the same batch with the same "
    "parameters. "
)
#: What is compared, the causes before their effects, and what to do about it.
_REMEDIES = {
    "names": _SAME + "Pass the same parameters on every rank.",
    "shapes": _SAME + "Build the same model on every rank.",
    "parameters": _SAME + "Load the same checkpoint, wrap the model in DistributedDataParallel, or broadcast rank 0's.",
    "reached": _SAME + "A branch of the forward was taken on some ranks only.",
    "loss": _SAME
    + "Give every rank the same batch (a DistributedSampler splits it) and the same seed for dropout; or use "
    "shard=False for a Hessian of each rank's own loss.",
    "gradient": _SAME
    + "Give every rank the same batch (a DistributedSampler splits it) and the same seed for dropout.",
}


def _told(what: str, values: Sequence[Any], usual: int, odd: Sequence[int]) -> str:
    ranks = f"rank {odd[0]}" if len(odd) == 1 else f"ranks {', '.join(map(str, odd[:8]))}"
    verb = "differs" if len(odd) == 1 else "differ"
    here, there = values[odd[0]], values[usual]
    if isinstance(here, Mapping):
        name = next(name for name in there if here.get(name) != there[name])
        return f"{ranks} {verb} from rank {usual} in {what}, first in {name!r}. "
    if isinstance(here, list):
        return f"{ranks} {verb} from rank {usual} in the parameters' {what}. "
    return f"{ranks} {verb} from rank {usual} in the {what}{' norm' * (what == 'gradient')}: {here!r}, not {there!r}. "
