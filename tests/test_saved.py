"""What nodes saved: states, versions, bytes, storages; nobody's code runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from gradgraph import AutogradGraph, trace
from tests.cases import CASES, Cube, OnceOnly


def saved(graph: AutogradGraph, op: str) -> list[dict[str, Any]]:
    (found,) = [data["saved"] for _, data in graph.nodes(data=True) if data["op"] == op]
    return list(found)


def test_live_values_tell_all() -> None:
    x = torch.ones(2, 3, requires_grad=True)
    graph = trace(x.exp() * 2.5)
    assert saved(graph, "ExpBackward0") == [
        {
            "name": "result",
            "shape": [2, 3],
            "dtype": "float32",
            "bytes": 24,
            "storage": 1,
            "state": "live",
            "version": 0,
        }
    ]
    assert saved(graph, "MulBackward0")[0]["name"] == "other"


def test_an_input_that_needs_no_gradient_was_never_saved() -> None:
    w = torch.ones(3, 3, requires_grad=True)
    graph = trace(torch.ones(2, 3) @ w)
    # MmBackward0 has a slot for mat2, but torch saves it only if `self` needs a gradient.
    assert [value["name"] for value in saved(graph, "MmBackward0")] == ["self"]


def test_modified_values_give_both_versions() -> None:
    x = torch.ones(3, requires_grad=True)
    y = x * 2
    z = y * x
    y.add_(1).add_(1)
    node = trace(z).nodes[0]
    states = {
        value["name"]: (value["state"], value["version"], value.get("current_version")) for value in node["saved"]
    }
    assert states == {"self": ("modified", 0, 2), "other": ("live", 0, None)}
    result = x.exp()
    result.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(result.sum(), x, retain_graph=True)
    exp = [data for _, data in trace(result).nodes(data=True) if data["op"] == "ExpBackward0"]
    assert [value["state"] for value in exp[0]["saved"]] == ["modified"]


def test_modified_values_of_a_python_function() -> None:
    x = torch.ones(3, requires_grad=True)
    y = x * 2
    z = Cube.apply(y)
    y.add_(1)
    assert [value["state"] for value in saved(trace(z), "CubeBackward")] == ["modified"]


def test_freed_values_of_all_sorts() -> None:
    x = torch.ones(3, requires_grad=True)
    y = x[torch.tensor([0, 1])] * torch.ones(2, requires_grad=True)
    z = OnceOnly.apply(Cube.apply(y)).sum()
    z.backward()
    graph = trace(z)
    assert {
        (data["op"], value["name"], value["state"]) for _, data in graph.nodes(data=True) for value in data["saved"]
    } == {
        ("OnceOnlyBackward", "saved_tensors", "freed"),
        ("CubeBackward", "saved_tensors", "freed"),
        ("MulBackward0", "other", "freed"),
        ("MulBackward0", "self", "freed"),
        ("IndexBackward0", "indices", "freed"),
    }
    assert all(value["bytes"] is None for _, data in graph.nodes(data=True) for value in data["saved"])


def test_packed_values_stay_packed() -> None:
    calls: list[str] = []

    def pack(tensor: Tensor) -> Tensor:
        calls.append("pack")
        return tensor.clone()  # a tensor, as if it were the saved one

    def unpack(packed: Tensor) -> Tensor:
        calls.append("unpack")
        return packed

    w = torch.ones(3, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        y = Cube.apply(w * w)
    del calls[:]
    graph = trace(y)
    assert calls == []
    assert {value["state"] for _, data in graph.nodes(data=True) for value in data["saved"]} == {"packed"}
    assert sum(data["saved_bytes"] for _, data in graph.nodes(data=True)) == 0


def test_a_checkpointed_forward_does_not_run_again() -> None:
    runs: list[int] = []

    def forward(x: Tensor) -> Tensor:
        runs.append(1)
        return x.sin().exp()

    x = torch.ones(3, requires_grad=True)
    y = checkpoint(forward, x, use_reentrant=False)
    trace(y)
    assert len(runs) == 1


def test_shared_storages_are_charged_once() -> None:
    x = torch.ones(100, requires_grad=True)
    y = x.exp()
    total = y.sin() + y[:50].repeat(2).cos() + y.view(10, 10).tanh().view(-1)
    graph = trace(total)
    # y is held by exp (its result) and sin; repeat and tanh each hold a tensor of their own.
    assert sum(data["saved_bytes"] for _, data in graph.nodes(data=True)) == 3 * 400
    sin, exp = saved(graph, "SinBackward0"), saved(graph, "ExpBackward0")
    assert sin[0]["storage"] == exp[0]["storage"]
    charged = [
        data["saved_bytes"] for _, data in graph.nodes(data=True) if data["op"] in ("SinBackward0", "ExpBackward0")
    ]
    assert sorted(charged) == [0, 400]


def test_leaves_know_their_storage() -> None:
    w = torch.ones(3, requires_grad=True)
    graph = trace(w.sin())
    assert graph.nodes[1]["storage"] == saved(graph, "SinBackward0")[0]["storage"] == 0
    assert graph.nodes[0]["storage"] is None


def test_tensors_kept_on_ctx_count() -> None:
    class Keeps(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.factor = torch.full((10,), 2.0)
            ctx.more = [torch.ones(5), None]
            scaled: Tensor = x * ctx.factor
            return scaled

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> Tensor:
            scaled: Tensor = grads[0] * ctx.factor
            return scaled

    graph = trace(Keeps.apply(torch.ones(10, requires_grad=True)))
    assert [(value["name"], value["bytes"]) for value in graph.nodes[0]["saved"]] == [
        ("ctx.factor", 40),
        ("ctx.more[0]", 20),
    ]
    assert graph.nodes[0]["saved_bytes"] == 60


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_sparse_and_complex_bytes() -> None:
    graph = trace(CASES["sparse"]().outputs)
    for _, data in graph.nodes(data=True):
        for value in data["saved"]:
            # 3 values of 4 bytes with two indices of 8 bytes each; csr: 4 + 3 indices
            assert value["bytes"] in (3 * 4 + 2 * 3 * 8, 3 * 4 + 4 * 8 + 3 * 8, 3 * 2 * 4)
    z = torch.ones(4, dtype=torch.complex128, requires_grad=True)
    assert saved(trace(z * z), "MulBackward0")[0]["bytes"] == 64
