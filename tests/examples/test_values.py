"""The examples compute what they say: the values are worked out by hand or by torch alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import gradgraph

Run = Callable[[str], Any]


def test_chained_linears_one_node_two_names(ran: Run) -> None:
    values = ran("chained_linears").values
    w2, o1, o2, graph = (values[name] for name in ("w2", "o1", "o2", "graph"))
    (bias, _), (data, _), (weight, _) = o2.grad_fn.next_functions
    assert bias.variable is w2.bias
    assert data is o1.grad_fn
    assert weight.name() == "TBackward0"
    assert weight.next_functions[0][0].variable is w2.weight

    key = graph.find("o1 = input 1 of o2")
    assert graph.live.nodes[key] is o1.grad_fn
    assert list(graph.successors(graph.find("o2")))[1] == key
    # addmm, bias, transposition and weight, twice
    assert len(graph) == 8
    assert set(graph.leaves().values()) == {"w1.weight", "w1.bias", "w2.weight", "w2.bias"}


def test_curve_fit_learns(ran: Run) -> None:
    values = ran("curve_fit").values
    x, y = values["data"](100)
    assert x.shape == y.shape == (100, 1)
    assert y[0].item() == pytest.approx(-20 + 3 + 3 * 0.5440211 * 10**0.5 + 0.7539023, abs=1e-4)
    assert values["mse"](values["net"], x, y).item() < 5 < 100 < values["training_step"]().item()


def test_curve_fit_create_graph_is_needless(ran: Run) -> None:
    values = ran("curve_fit").values
    nets = [values["make_net"]() for _ in range(2)]
    with_graph, without = (
        values["descend"](net, create_graph, epochs=20) for net, create_graph in zip(nets, (True, False), strict=True)
    )
    assert with_graph == without
    assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True))
    (nodes, held), (more_nodes, more_held) = (values["cost_of_a_step"](create_graph) for create_graph in (False, True))
    assert nodes == 17  # 3 addmm with a transposition each, 2 tanh, sub, pow, mean, 6 parameters
    assert more_nodes > 2 * nodes
    assert more_held > held > 2 * 4 * 1000 * 10  # two layers' tanh


def test_retained_graph_ledger(ran: Run) -> None:
    values = ran("retained_graph").values
    eye = torch.eye(4, 5)
    for number, times in ((1, 1), (2, 2), (3, 1)):
        assert torch.equal(values["seen"][number - 1], times * (2 + 2 * eye))
        assert torch.equal(values["ledger"].total("inp", number), times * (2 + 2 * eye))
        assert torch.equal(values["ledger"].contribution("inp", number), 2 + 2 * eye)
    assert [entry.event for entry in values["ledger"]["inp"]] == [None, None, "zeroed"]


def test_powers_values_and_orders(ran: Run) -> None:
    values = ran("powers").values
    assert [values[name].item() for name in ("f", "f1", "f2", "f3")] == [1, 4, 12, 24]
    graph = values["graph"]
    assert graph.graph["orders"] == [0, 1, 2, 3]
    assert graph.nodes[graph.roots[0]]["order"] == 3
    assert all(graph.nodes[u]["order"] >= graph.nodes[v]["order"] for u, v in graph.edges())
    assert all(graph.nodes[u]["order"] > graph.nodes[v]["order"] for u, v in values["curvature"])
    assert len(values["curvature"]) > 3


def test_one_to_one_map(ran: Run) -> None:
    values = ran("one_to_one_map").values
    x = torch.tensor([[1.0], [2.0]], requires_grad=True)
    both = torch.cat([value.detach() for value in values["evaluate"](values["net"], x)], dim=1)
    expected = torch.tensor([[0.5711, -0.0628, -0.0005], [0.5141, -0.0463, 0.0278]])
    assert torch.allclose(both, expected, rtol=0, atol=5e-5)
    at_two = [values[name].item() for name in ("f", "first", "second")]
    assert at_two == pytest.approx(expected[1].tolist(), abs=5e-5)
    # gradients() counts what really arrived, so the branch that 0 switches off is reached, by exact zeros.
    assert gradgraph.gradients(values["graph"])[values["square"]].max_abs == 0


def test_two_to_one_map(ran: Run) -> None:
    values = ran("two_to_one_map").values
    assert values["y"].item() == pytest.approx(1.2399, abs=5e-5)
    assert values["gradient"].tolist() == pytest.approx([0.5596, 3.1991], abs=5e-5)
    assert values["hessian_rows"](values["gradient"], values["x"]).tolist() == [[0, 0], [0, 6]]
    assert gradgraph.hessian_diagonal(values["y"], {"x": values["x"]})["x"].tolist() == [0, 6]


def test_hessian_vector_product(ran: Run) -> None:
    values = ran("hessian_vector_product").values
    net, product, vector = values["net"], values["product"], values["vector"]
    assert {name: value.shape for name, value in product.items()} == {
        name: parameter.shape for name, parameter in net.named_parameters()
    }
    flat, direction = (torch.cat([piece.flatten() for piece in by_name.values()]) for by_name in (product, vector))
    hessian = values["full_hessian"](net, values["x"], values["y"])
    assert flat.dtype == torch.float64
    assert (flat - hessian @ direction).norm() <= 1e-13 * hessian.norm() * direction.norm()
    assert torch.equal(direction, torch.cat([piece.flatten() for piece in values["random_direction"](net).values()]))


def _torch_hessian(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    hessian: Tensor = torch.autograd.functional.hessian(function, at)
    return hessian


def _torch_blocks(values: dict[str, Any]) -> dict[str, Tensor]:
    """Each parameter's block of the Hessian by torch's own function, [n, n]."""
    net = values["net"]
    x, y = values["data"](100, torch.float64)
    blocks = {}
    for name, parameter in net.named_parameters():

        def loss_of(value: Tensor, name: str = name) -> Tensor:
            prediction: Tensor = torch.func.functional_call(net, {name: value}, (x,))
            loss: Tensor = (prediction - y).pow(2).mean()
            return loss

        block = _torch_hessian(loss_of, parameter.detach())
        blocks[name] = block.reshape(parameter.numel(), parameter.numel())
    return blocks


def test_hessian_blocks(ran: Run) -> None:
    values = ran("hessian_blocks").values
    expected = _torch_blocks(values)
    assert list(values["blocks"]) == list(expected)
    for name, block in values["blocks"].items():
        assert torch.allclose(block, expected[name], rtol=1e-12, atol=1e-13)
        diagonal, off_diagonal = values["split"](block)
        assert torch.equal(diagonal.diag() + off_diagonal, block)
        assert torch.equal(off_diagonal.diagonal(), torch.zeros_like(diagonal))
    assert values["split"](values["blocks"]["2.weight"])[1].norm() > 0.1


def test_hessian_diagonal_loop(ran: Run) -> None:
    values = ran("hessian_diagonal_loop").values
    expected = _torch_blocks(values)
    for method in ("accumulate", "batched"):
        for name, diagonal in values[method].items():
            assert torch.allclose(diagonal.flatten(), expected[name].diagonal(), rtol=1e-12, atol=1e-13), (method, name)
    block = expected["2.bias"]
    assert torch.allclose(values["added"], block.diagonal(), rtol=1e-12, atol=1e-13)
    # Read without zeroing, entry i is the sum of H[j, i] over j <= i.
    assert torch.allclose(values["read"], block.cumsum(0).diagonal(), rtol=1e-12, atol=1e-13)
    assert not torch.allclose(values["read"], values["added"], rtol=0.1)


def test_orders_of_a_cubic(ran: Run) -> None:
    values = ran("orders_of_a_cubic").values
    x, by_power, derivative = values["x"], values["by_power"], values["derivative"]
    assert [derivative(by_power, x, order).item() for order in range(5)] == [-16, 24, -24, 12, 0]
    assert values["seen"] == [24, 0, 12, 12]
    assert [entry.contribution.item() for entry in values["ledger"]["x"]] == [24, -24, 12, 0]
    assert values["third"].requires_grad
    assert not values["by_hand"].requires_grad
    with pytest.raises(RuntimeError, match="does not require grad"):
        values["by_hand"].backward()


def test_relu_on_squares_is_five_times_stale(ran: Run) -> None:
    values = ran("relu_on_squares").values
    weight, gw, x = values["W"], values["gW"].detach(), values["x"]
    assert values["gx"].tolist() == pytest.approx([-0.0906, -0.0671], abs=5e-5)
    assert gw[0].tolist() == pytest.approx([-0.2138, -0.2138], abs=5e-5)
    assert gw[3].tolist() == pytest.approx([0.3319, 0.3319], abs=5e-5)
    # What was believed, and what it is.
    assert torch.allclose(weight.grad, 5 * gw, rtol=1e-6)
    assert torch.equal(weight.grad, values["before"])
    assert weight.grad[0, 0].item() == pytest.approx(-1.0688, abs=5e-5)
    assert weight.grad[3, 0].item() == pytest.approx(1.6595, abs=5e-5)
    # Who added what: the first backward 1 gW, row i of either run 2 gW in column i, the double backward 0.
    ledger = values["ledger"]
    for number, times in enumerate([(1, 1), (2, 0), (0, 2), (2, 0), (0, 2), (0, 0)], start=1):
        assert torch.allclose(ledger.contribution("0.weight", number), torch.tensor(times) * gw, rtol=1e-6)
    assert torch.equal(ledger.contribution("0.weight", 6), torch.zeros(5, 2))
    assert torch.allclose(ledger.contribution("2.weight", 6), 4 * torch.tensor([[-0.21376, 0, 0, 0.3319, 0]]))
    # The Hessian of the input is diagonal, and equals the gradient since x = 1.
    hessian = _torch_hessian(lambda at: values["net"](at**2).sum(), x.detach())
    assert torch.allclose(hessian, values["gx"].detach().diag(), rtol=1e-6)
    for number in (2, 3, 4, 5):
        assert torch.allclose(ledger.contribution("x", number), hessian[number % 2], rtol=1e-6)
    assert "what the double backward added to W.grad: 0.0" in ran("relu_on_squares").printed
