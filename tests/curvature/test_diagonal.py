"""The Hessian's diagonal equals torch's own, whatever the loss and the method."""

from __future__ import annotations

import copy
import pickle
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gradgraph import annotate, hessian, hessian_diagonal, trace
from gradgraph.errors import InputError
from tests.curvature.losses import LOSSES, Cube, diagonal_of, full_hessian, leaves

Method = Literal["auto", "graph", "accumulate", "batched"]
METHODS: list[Method] = ["accumulate", "batched", "graph", "auto"]


@pytest.mark.parametrize("name", LOSSES)
def test_equals_torchs_own_hessian(name: str) -> None:
    torch.manual_seed(0)
    loss, params = LOSSES[name]()
    expected = full_hessian(loss, params)
    tensors = leaves(params)
    value = loss(tensors)
    for method in METHODS:
        result = hessian_diagonal(value, tensors, method=method)
        assert list(result) == list(tensors)
        for key, tensor in tensors.items():
            assert result[key].shape == tensor.shape
            assert result[key].dtype == tensor.dtype
            reference = diagonal_of(expected[key][key], tensor.shape)
            torch.testing.assert_close(result[key], reference, rtol=1e-11, atol=1e-11)
            assert not result[key].requires_grad
            assert result.report[key].exact
            assert tensor.grad is None
    value.backward()


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 5, 100])
def test_any_chunk_gives_the_same(chunk_size: int) -> None:
    torch.manual_seed(0)
    loss, params = LOSSES["mlp"]()
    tensors = leaves(params)
    result = hessian_diagonal(loss(tensors), tensors, method="batched", chunk_size=chunk_size)
    reference = hessian_diagonal(loss(tensors), tensors, method="accumulate")
    for key, tensor in tensors.items():
        torch.testing.assert_close(result[key], reference[key], rtol=1e-12, atol=1e-14)
        report = result.report[key]
        assert report.chunk == min(chunk_size, tensor.numel())
        checked = 1 if report.chunk > 1 else 0
        assert report.passes == -(-tensor.numel() // chunk_size) + checked


@pytest.mark.parametrize("method", METHODS)
def test_closed_form(method: Method) -> None:
    x = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64, requires_grad=True)
    w = torch.tensor([2.0, 0.5, -1.0], dtype=torch.float64, requires_grad=True)
    result = hessian_diagonal((x**3).sum() + (x * w).sum() ** 2, [x, w], method=method)
    assert list(result) == ["x", "w"]
    torch.testing.assert_close(result["x"], (6 * x + 2 * w**2).detach())
    torch.testing.assert_close(result["w"], (2 * x**2).detach())


def test_finite_differences() -> None:
    torch.manual_seed(1)
    loss, params = LOSSES["layer_norm"]()
    tensors = leaves(params)
    result = hessian_diagonal(loss(tensors), tensors)
    step = 1e-4
    for key, tensor in params.items():
        for index in range(tensor.numel()):
            values = []
            for shift in (-step, 0.0, step):
                moved = tensor.clone()
                moved.view(-1)[index] += shift
                values.append(loss({**params, key: moved}).item())
            difference = (values[0] - 2 * values[1] + values[2]) / step**2
            assert result[key].view(-1)[index].item() == pytest.approx(difference, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_what_was_reached_is_told_apart(method: Method) -> None:
    curved, linear, mixed = (torch.ones(2, requires_grad=True) for _ in range(3))
    unused, frozen = torch.ones(2, requires_grad=True), torch.ones(2)
    loss = (curved**2 * mixed).sum() + linear.sum() + frozen.sum()
    params = {"curved": curved, "linear": linear, "mixed": mixed, "unused": unused, "frozen": frozen}
    result = hessian_diagonal(loss, params, method=method)
    assert {name: report.reached for name, report in result.report.items()} == {
        "curved": "curved",
        "linear": "linear",
        "mixed": "linear",  # its gradient depends on others, not on itself
        "unused": "unreachable",
        "frozen": "unreachable",
    }
    assert all(not torch.count_nonzero(result[name]) for name in params if name != "curved")
    assert result.report["unused"].reason == "the loss does not reach it"
    assert result.report["frozen"].reason == "it does not require grad"
    assert result.report["unused"].method == "none"
    assert result.report["mixed"].passes <= 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision(method: Method, dtype: torch.dtype) -> None:
    x = torch.tensor([1.0, -2.0, 0.5], dtype=dtype, requires_grad=True)
    result = hessian_diagonal((x**3).sum(), x, method=method)
    assert result["x"].dtype == dtype
    assert result["x"].tolist() == [6.0, -12.0, 3.0]


def test_real_parameters_of_a_complex_network() -> None:
    x = torch.tensor([0.3, -0.7], dtype=torch.float64, requires_grad=True)
    result = hessian_diagonal(torch.exp(1j * x).sum().abs() ** 2, x)
    expected = full_hessian(lambda p: torch.exp(1j * p["x"]).sum().abs() ** 2, {"x": x.detach()})
    torch.testing.assert_close(result["x"], diagonal_of(expected["x"]["x"], x.shape))


@pytest.mark.parametrize("method", METHODS)
def test_sparse_gradients_give_a_dense_diagonal(method: Method) -> None:
    torch.manual_seed(0)
    dense = nn.Embedding(4, 2).double()
    sparse = nn.Embedding(4, 2, sparse=True, _weight=dense.weight.detach().clone())
    tokens = torch.tensor([1, 1, 3])
    expected = hessian_diagonal((dense(tokens) ** 3).sum(), dense)
    result = hessian_diagonal((sparse(tokens) ** 3).sum(), sparse, method=method)
    assert result["weight"].layout is torch.strided
    torch.testing.assert_close(result["weight"], expected["weight"])


@pytest.mark.parametrize("method", METHODS)
def test_a_function_that_no_vmap_follows(method: Method) -> None:
    x = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64, requires_grad=True)
    result = hessian_diagonal(Cube.apply(x).sum(), x, method=method)
    assert result["x"].tolist() == [6.0, -12.0, 18.0]
    if method != "accumulate":
        assert result.report["x"].chunk == 1
        assert result.report["x"].reason.partition("one row a pass: ")[1]


def test_a_hook_that_reads_numbers_falls_back_to_one_row_a_pass() -> None:
    x = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    y = x * 1
    norms: list[float] = []
    y.register_hook(lambda g: norms.append(g.detach().norm().item()))
    result = hessian_diagonal((y**3).sum(), x)
    assert result["x"].tolist() == [6.0, 12.0]
    assert result.report["x"].chunk == 1


def test_a_non_leaf_is_differentiated_by_except_through_grad() -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    y = x * 2
    loss = (y**3).sum()
    assert hessian_diagonal(loss, {"y": y})["y"].tolist() == [12.0, 24.0]
    with pytest.raises(InputError, match=r'method "accumulate" expected leaves.*Use method="batched"'):
        hessian_diagonal(loss, {"y": y}, method="accumulate")


@pytest.mark.parametrize("method", METHODS)
def test_dropout_behind_a_checkpoint_draws_the_forwards_numbers(method: Method) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(4, 4).double()
    x = torch.randn(3, 4, dtype=torch.float64)

    def block(inputs: Tensor) -> Tensor:
        return nn.functional.dropout(torch.tanh(layer(inputs)), 0.5)

    torch.manual_seed(7)
    plain = block(x).pow(2).sum()
    expected = hessian_diagonal(plain, layer, method="accumulate")
    torch.manual_seed(7)
    again = checkpoint(block, x, use_reentrant=False)
    assert isinstance(again, Tensor)
    result = hessian_diagonal(again.pow(2).sum(), layer, method=method)
    for key in expected:
        torch.testing.assert_close(result[key], expected[key])


def test_annotates_leaves() -> None:
    x = torch.tensor([1.0, -2.0, 0.0], dtype=torch.float64, requires_grad=True)
    z = torch.ones(1, requires_grad=True)
    loss = (x**3).sum() + z.sum()
    graph = trace(loss, {"x": x, "z": z})
    annotate(graph, "hessian_diagonal", hessian_diagonal(loss, {"x": x, "z": z}))
    assert graph.nodes[graph.find("x")]["hessian_diagonal"] == {
        "method": "graph",
        "exact": True,
        "mean": -2.0,
        "min": -12.0,
        "max": 6.0,
        "norm": pytest.approx(180**0.5),
        "negative": 1,
        "zeros": 1,
        "stderr": None,
    }
    assert graph.nodes[graph.find("z")]["hessian_diagonal"]["method"] == "none"


def test_results_are_copied_and_saved() -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    loss = (x**3).sum()
    graph = trace(loss)
    for again in (copy.deepcopy, lambda result: pickle.loads(pickle.dumps(result))):
        result = again(hessian_diagonal(loss, x))
        assert result["x"].tolist() == [6.0, 12.0]
        assert result.report["x"].reached == "curved"
        annotate(graph, "hessian_diagonal", result)
        assert graph.nodes[graph.find("x")]["hessian_diagonal"]["max"] == 12.0
    assert copy.deepcopy(hessian(loss, x, blocks="full")).matrix().tolist() == [[6.0, 0.0], [0.0, 12.0]]


def test_repr_is_a_bounded_table() -> None:
    params = {f"p{i}": torch.ones(2, requires_grad=True) for i in range(40)}
    params["empty"] = torch.ones(0, requires_grad=True)
    loss = sum(((p**3).sum() for p in params.values()), torch.zeros(()))
    result = hessian_diagonal(loss, params)
    lines = repr(result).splitlines()
    assert lines[0] == "<HessianDiagonal: 41 parameters>"
    assert lines[1].split() == ["parameter", "shape", "min", "mean", "max", "zeros", "method", "passes", "reached"]
    assert lines[2].split() == ["p0", "[2]", "6", "6", "6", "0", "graph", "0", "curved"]
    assert lines[-1] == "... and 11 more parameters"
    assert repr(hessian_diagonal(loss, params["p0"])).startswith("<HessianDiagonal: 1 parameter>\n")
    fewer = dict(list(params.items())[:31])
    assert repr(hessian_diagonal(loss, fewer)).endswith("\n... and 1 more parameter")
    assert repr(hessian_diagonal(loss, {"empty": params["empty"], "p1": params["p1"]})).count("–") == 3


def test_names_of_the_caller() -> None:
    def fresh() -> Tensor:
        return torch.ones(1, requires_grad=True)

    mine, model = fresh(), nn.Linear(1, 1)
    parts: list[Any] = [mine, model.weight, fresh()]
    result = hessian_diagonal((parts[0] * parts[1] * parts[2]).pow(2).sum(), iter(parts))
    assert list(result)[:2] == ["mine", "model.weight"]


def test_chains_that_meet_at_one_operation_through_different_slots() -> None:
    """Of tanh's second derivative one parameter is behind the gradient, the other behind the result."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    x = torch.ones(2, 2, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    penalty = slope.square().mean()
    params = {"weight": net[2].weight, "bias": net[0].bias, "x": x}
    for order in (list(params), list(params)[::-1]):
        chosen = {name: params[name] for name in order}
        read = hessian_diagonal(penalty, chosen, method="graph")
        rows = hessian_diagonal(penalty, chosen, method="batched")
        assert read.report["weight"].method == "graph"
        for name, expected in rows.items():
            torch.testing.assert_close(read[name], expected, rtol=1e-12, atol=1e-14)
