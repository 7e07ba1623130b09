"""What `curvature()` adds up: one direction, all entries for the trace, or random ones for an estimate of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from gradgraph.curvature.budget import chunk_for
from gradgraph.curvature.first_order import FirstOrder
from gradgraph.curvature.progress import Progress
from gradgraph.curvature.rows import one_hots
from gradgraph.curvature.split_graph import SplitGraph
from gradgraph.curvature.split_result import added
from gradgraph.curvature.split_rows import SplitRows, wide_of

__all__ = ["Found", "along_direction", "estimated_trace", "exact_trace"]


@dataclass
class Found:
    """A total, and what nodes add to it; the attributes are those of `Curvature`."""

    of: Literal["direction", "trace"]
    total: float = 0.0
    contributions: dict[int, float] = field(default_factory=dict)
    stderr: float | None = None
    probes: int = 0
    diagonal: dict[str, Tensor] | None = None
    entries: dict[str, dict[int, Tensor]] | None = None


def along_direction(rows: SplitRows, order: FirstOrder, direction: dict[str, Tensor]) -> Found:
    """eᵀHe for one e."""
    found = Found("direction")
    if order.gradients:
        numbers = rows.along({name: e.unsqueeze(0) for name, e in direction.items()})
        found.total = float(numbers.totals)
        found.contributions = numbers.summed()
    return found


def exact_trace(
    rows: SplitRows,
    order: FirstOrder,
    structure: SplitGraph,
    gradients: Mapping[Any, Tensor],
    per_entry: bool,
    memory: int | None,
    progress: bool | None,
) -> Found:
    """The sum of eᵀHe over all entries; with `per_entry` each of them as well."""
    entries: dict[str, dict[int, Tensor]] = {name: {} for name in order.tensors}
    with Progress(sum(one.numel() for one in order.gradients.values()), "curvature", progress) as bar, torch.no_grad():
        names = structure.choose(rows, gradients)
        known = structure.entries(rows, gradients, names, memory)
        unsure = structure.unsure(names, gradients)
        holding = _holding(rows, {name: order.gradients[name] for name in unsure}, known, memory)
        names = [name for name in names if name not in unsure or name in holding]
        entries |= {name: known[name] for name in names}
        bar.advance(sum(order.tensors[name].numel() for name in names))
        for name, gradient in order.gradients.items():
            if name in names:
                continue
            flat: dict[int, Tensor] = {}
            for start, numbers in rows.entries(name, gradient, memory):
                for key, values in numbers.by_node().items():
                    whole = flat.setdefault(key, gradient.new_zeros(gradient.numel()))
                    whole[start : start + len(values)] = values.to(whole)
                bar.advance(len(numbers.totals))
            entries[name] = {key: one.view(gradient.shape) for key, one in flat.items()}
    sums: dict[int, list[float]] = {}
    for parts in entries.values():
        for key, values in parts.items():
            sums.setdefault(key, []).append(float(values.sum(dtype=wide_of(values))))
    found = Found("trace", contributions={key: added(values) for key, values in sums.items()})
    found.total = added(found.contributions.values())
    if per_entry:
        found.entries = entries
        found.diagonal = {name: _diagonal(order.tensors[name], parts) for name, parts in entries.items()}
    return found


def _holding(
    rows: SplitRows, gradients: Mapping[str, Tensor], known: Mapping[str, Mapping[int, Tensor]], memory: int | None
) -> list[str]:
    """The parameters of which a pass along the largest entry gives what was read off the structure, with its hooks."""
    entries = {name: _largest(gradient, known[name]) for name, gradient in gradients.items() if gradient.numel()}
    names = list(entries)
    holding = [name for name in gradients if name not in entries]
    chunk = chunk_for(whole_of(gradients), None, memory)[0] if names else 1
    for first in range(0, len(names), chunk):
        some = names[first : first + chunk]
        directions = {name: gradients[name].new_zeros((len(some), *gradients[name].shape)) for name in some}
        for row, name in enumerate(some):
            directions[name][row] = one_hots(gradients[name], entries[name], 1)[0]
        numbers = rows.along(directions)
        found = {key: values.tolist() for key, values in numbers.by_node().items()}
        for row, (name, scale) in enumerate(zip(some, numbers.parts.abs().sum(1).tolist(), strict=True)):
            read = {key: float(one.reshape(-1)[entries[name]]) for key, one in known[name].items()}
            close = torch.finfo(gradients[name].dtype).eps ** 0.5 * scale
            alike = [abs(values[row] - read.get(key, 0.0)) <= close for key, values in found.items()]
            if all(alike) and all(key in found or abs(value) <= close for key, value in read.items()):
                holding.append(name)
    return holding


def _largest(gradient: Tensor, parts: Mapping[int, Tensor]) -> int:
    """Number of the entry that most is added to."""
    sizes = torch.zeros_like(gradient).reshape(-1)
    for one in parts.values():
        sizes += one.reshape(-1).abs()
    return int(sizes.nan_to_num(0.0, posinf=0.0).argmax())


def whole_of(gradients: Mapping[str, Tensor]) -> Tensor:
    """All gradients as one vector, with a graph."""
    first = next(iter(gradients.values()))
    with torch.enable_grad():
        return torch.cat([one.reshape(-1).to(first.device, first.dtype) for one in gradients.values()])


def _diagonal(tensor: Tensor, parts: Mapping[int, Tensor]) -> Tensor:
    total = torch.zeros(tensor.shape, dtype=tensor.dtype, device=tensor.device)
    for one in parts.values():
        total += one
    return total


def estimated_trace(
    rows: SplitRows,
    order: FirstOrder,
    probes: int,
    generator: torch.Generator | None,
    memory: int | None,
    progress: bool | None,
) -> Found:
    """The mean of ωᵀHω over vectors ω of random signs, whose expectation is the trace.

    M. F. Hutchinson, "A stochastic estimator of the trace of the influence matrix for Laplacian smoothing splines",
    Communications in Statistics 18 (1989). The standard error is that of the sample's mean; NaN of one vector.
    """
    found = Found("trace", stderr=0.0, probes=probes)
    if not order.gradients:
        return found
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    chunk, _ = chunk_for(whole_of(order.gradients), None, memory)
    totals: list[float] = []
    sums: dict[int, list[float]] = {}
    with Progress(probes, "curvature", progress) as bar:
        while len(totals) < probes:
            count = min(chunk, probes - len(totals))
            numbers = rows.along(_signs(order, count, generator))
            totals += numbers.totals.tolist()
            for key, value in numbers.summed().items():
                sums.setdefault(key, []).append(value)
            bar.advance(count)
    found.total = added(totals) / probes
    found.contributions = {key: added(values) / probes for key, values in sums.items()}
    if probes > 1:
        found.stderr = math.sqrt(added((one - found.total) ** 2 for one in totals) / (probes - 1) / probes)
    else:
        found.stderr = math.nan
    return found


def _signs(order: FirstOrder, count: int, generator: torch.Generator) -> dict[str, Tensor]:
    """`count` vectors, each +1 or -1 with probability 1/2: one after the other, whatever the chunks are."""
    sizes = [one.numel() for one in order.gradients.values()]
    drawn = torch.empty(count, sum(sizes), dtype=torch.int8, device=generator.device)
    for row in drawn:
        row.random_(0, 2, generator=generator)
    parts = torch.split(drawn.mul_(2).sub_(1), sizes, 1)
    return {
        name: part.to(one.device, one.dtype).view(count, *one.shape)
        for (name, one), part in zip(order.gradients.items(), parts, strict=True)
    }
