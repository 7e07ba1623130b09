"""What one of two ranks does in the tests of sharding: `python -m tests.curvature.ranks RANK FOLDER`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

import gradgraph
from gradgraph.curvature.estimators import Estimator, estimate
from gradgraph.curvature.first_order import FirstOrder, first_order
from gradgraph.curvature.rows import one_hots
from gradgraph.curvature.sharding import Share

SIZE = 2

#: Calls of `hessian_diagonal`; those with one row a pass come first.
PUBLIC: list[tuple[str, dict[str, Any]]] = [
    ("accumulate", {}),
    ("batched", {"chunk_size": 1}),
    ("batched", {}),
    ("graph", {}),
    ("auto", {}),
    ("hutchinson", {"probes": 30}),
    ("xdiag", {"probes": 30, "tolerance": 0.01}),
]


def loss_and_params(scale: float = 1.0, shift: float = 0.0, width: int = 7) -> tuple[Tensor, dict[str, Tensor]]:
    """A small MLP's loss, in float64."""
    generator = torch.Generator().manual_seed(0)
    last = nn.Linear(width, 3)
    net = nn.Sequential(nn.Linear(5, width), nn.Tanh(), last).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        last.weight[-1, -1] += shift
    x = torch.randn(11, 5, generator=generator, dtype=torch.float64) * scale
    return net(x).pow(2).mean(), dict(net.named_parameters())


def estimated(method: Estimator, probes: int, tolerance: float | None, share: Share, seed: int = 0) -> dict[str, Any]:
    loss, params = loss_and_params()
    with share, first_order("test", loss, params) as order:
        share.check(loss, order)
        generator = torch.Generator().manual_seed(seed)
        values, stderr, report = estimate(
            method, order, list(params), probes=probes, tolerance=tolerance, generator=generator, share=share
        )
    reason = report["0.weight"].reason
    return {"values": _listed(values), "stderr": _listed(stderr), "reason": reason, "exact": report["0.weight"].exact}


def row_by_row(share: Share) -> list[float]:
    """The diagonal, every entry by a pass of its own on one of the ranks."""
    loss, params = loss_and_params()
    values = {name: torch.zeros(tensor.numel(), dtype=torch.float64) for name, tensor in params.items()}
    with share, first_order("test", loss, params) as order:
        share.check(loss, order)
        for name, gradient in order.gradients.items():
            for entry in range(*share.slice(gradient.numel())):
                values[name][entry] = _entry(order, name, entry)
        share.sum_(list(values.values()))
    return _listed(values)


def _entry(order: FirstOrder, name: str, entry: int) -> Tensor:
    order.reset()
    gradient, tensor = order.gradients[name], order.tensors[name]
    (row,) = torch.autograd.grad(gradient, tensor, one_hots(gradient, entry, 1)[0], retain_graph=True)
    return row.reshape(-1)[entry]


def public(method: Any, shard: bool, **options: Any) -> list[list[float]]:
    """Values and standard errors by the public function."""
    loss, params = loss_and_params()
    found = gradgraph.hessian_diagonal(loss, params, method=method, shard=shard, **options)
    return [_listed(found), _listed(found.stderr)]


def _listed(parts: dict[str, Tensor]) -> list[float]:
    return [number for part in parts.values() for number in part.reshape(-1).tolist()]


def _sums(rank: int) -> dict[str, Any]:
    with Share.of(True) as share:
        tensors = [
            torch.full((3,), 1.5 + rank, dtype=dtype) for dtype in (torch.float64, torch.float32, torch.bfloat16)
        ]
        tensors.append(torch.full((2, 2), 3 + rank, dtype=torch.int64))
        wide = torch.zeros(4, 6)
        wide[:, rank::2] = rank + 1
        share.sum_([*tensors, wide.t(), torch.zeros(0)])
        first = torch.full((2,), float(rank + 1)).bfloat16()
        share.first_([first])
        number = share.first(rank + 0.5)
    sums = [tensor.reshape(-1).tolist() for tensor in tensors]
    return {
        "sums": sums,
        "dtypes": [str(one.dtype) for one in tensors],
        "wide": wide.tolist(),
        "first": first.tolist(),
        "number": number,
    }


def _fails(rank: int, action: Callable[[Share], object]) -> str:
    """The error that `action` ends in, and that the group still works."""
    try:
        with Share.of(True) as share:
            action(share)
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
    else:
        told = "nothing"
    ones = torch.ones(1)
    with Share.of(True) as share:
        share.sum_([ones])
    assert ones.item() == SIZE
    return told


def _boom(rank: int, before: bool) -> Callable[[Share], object]:
    def action(share: Share) -> None:
        if before and rank == 1:
            raise ValueError("boom")
        share.sum_([torch.ones(3)])
        if rank == 1:
            raise ValueError("boom")

    return action


def _both_fail(rank: int) -> Callable[[Share], object]:
    def action(share: Share) -> None:
        raise ValueError(f"boom {rank}")

    return action


def _other_calls(rank: int) -> Callable[[Share], object]:
    def action(share: Share) -> None:
        share.sum_([torch.ones(3 + rank)])

    return action


def _disagree(rank: int) -> Callable[[Share], object]:
    def action(share: Share) -> None:
        share.agree(["w"])
        share.agree({"w": rank})

    return action


def _checked(loss: Tensor, params: dict[str, Tensor]) -> Callable[[Share], object]:
    def action(share: Share) -> None:
        with first_order("test", loss, params) as order:
            share.check(loss, order)

    return action


def _renamed(rank: int) -> tuple[Tensor, dict[str, Tensor]]:
    loss, params = loss_and_params()
    return loss, {f"{rank}.{name}": tensor for name, tensor in params.items()}


def run(rank: int) -> dict[str, Any]:
    """All that two ranks can do without dying."""
    share = Share.of(True)
    return {
        "slices": [share.slice(total) for total in (0, 1, 2, 7, 100)],
        "row by row": row_by_row(Share.of(True)),
        "hutchinson": estimated("hutchinson", 41, None, Share.of(True)),
        "hutchinson tolerance": estimated("hutchinson", 4000, 0.2, Share.of(True)),
        "xdiag": estimated("xdiag", 41, None, Share.of(True)),
        "xdiag tolerance": estimated("xdiag", 200, 1e-9, Share.of(True)),
        "xdiag columns": estimated("xdiag", 100, None, Share.of(True)),
        "seeds": estimated("hutchinson", 41, None, Share.of(True), seed=rank),
        "sums": _sums(rank),
        "fails before": _fails(rank, _boom(rank, True)),
        "fails after": _fails(rank, _boom(rank, False)),
        "both fail": _fails(rank, _both_fail(rank)),
        "other calls": _fails(rank, _other_calls(rank)),
        "disagree": _fails(rank, _disagree(rank)),
        "same": _fails(rank, _checked(*loss_and_params())),
        "other batch": _fails(rank, _checked(*loss_and_params(scale=1 + 1e-9 * rank))),
        "other parameters": _fails(rank, _checked(*loss_and_params(shift=1e-15 * rank))),
        "other model": _fails(rank, _checked(*loss_and_params(width=7 + rank))),
        "public": [public(method, True, **options) for method, options in PUBLIC],
        "other names": _fails(rank, _checked(*_renamed(rank))),
    }


def _dies(rank: int) -> str:
    try:
        with Share.of(True) as share:
            if rank == 1:
                os._exit(0)
            share.sum_([torch.ones(3)])
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


if __name__ == "__main__":
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=SIZE, timeout=timedelta(seconds=60)
    )
    (folder / f"{rank}.json").write_text(json.dumps(run(rank)))
    (folder / "death.json").write_text(json.dumps(_dies(rank)))
    os._exit(0)  # gloo's threads may end in std::terminate once a peer is dead
