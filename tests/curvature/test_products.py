"""Products of the Hessian: with one vector, with several at once, and one after the other."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

from gradgraph import HessianOperator, hessian, hvp
from gradgraph.errors import InputError
from tests.curvature.losses import LOSSES, Cube, leaves


@pytest.mark.parametrize("name", LOSSES)
def test_several_vectors_are_one_vector_each(name: str) -> None:
    torch.manual_seed(0)
    loss, params = LOSSES[name]()
    tensors = leaves(params)
    value = loss(tensors)
    vectors = {key: torch.randn(5, *tensor.shape, dtype=tensor.dtype) for key, tensor in params.items()}
    together = hvp(value, tensors, vectors)
    operator = HessianOperator(value, tensors)
    in_turn = operator(vectors, chunk_size=2)
    for row in range(5):
        vector = {key: entry[row] for key, entry in vectors.items()}
        alone, applied = hvp(value, tensors, vector), operator(vector)
        for key, product in alone.items():
            assert together[key].shape == (5, *params[key].shape)
            assert torch.equal(applied[key], product)
            torch.testing.assert_close(together[key][row], product, rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(in_turn[key][row], product, rtol=1e-12, atol=1e-12)
        assert all(tensor.grad is None for tensor in tensors.values())


def test_the_identity_gives_the_block() -> None:
    x = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    loss = x.exp().sum() * x.prod()
    assert torch.allclose(hvp(loss, x, torch.eye(3, dtype=torch.float64))["x"], hessian(loss, x).matrix(), rtol=1e-14)


def test_several_vectors_of_parameters_without_curvature_and_none_at_all() -> None:
    x, linear, unused = (torch.ones(2, requires_grad=True) for _ in range(3))
    params = {"x": x, "linear": linear, "unused": unused}
    loss = (x**3).sum() + linear.sum()
    vectors = [torch.ones(4, 2), torch.ones(4, 2), torch.ones(4, 2)]
    found = hvp(loss, params, vectors)
    assert found["x"].tolist() == [[6.0, 6.0]] * 4
    assert torch.count_nonzero(found["linear"]) == torch.count_nonzero(found["unused"]) == 0
    assert found["unused"].shape == (4, 2)
    assert hvp(loss, params, [torch.ones(0, 2)] * 3)["x"].shape == (0, 2)
    assert hvp(linear.sum(), linear, torch.ones(3, 2))["linear"].tolist() == [[0.0, 0.0]] * 3


def test_several_vectors_of_a_scalar_parameter_and_of_mixed_dtypes() -> None:
    scale = torch.tensor(2.0, requires_grad=True)
    x = torch.tensor([1.0, 3.0], dtype=torch.float64, requires_grad=True)
    loss = (scale**3 * x**2).sum()
    vectors = {"scale": torch.tensor([1.0, 0.0]), "x": torch.tensor([[0.0, 0.0], [1.0, 0.0]], dtype=torch.float64)}
    found = hvp(loss, {"scale": scale, "x": x}, vectors)
    assert found["scale"].tolist() == [120.0, 24.0]
    assert found["x"].tolist() == [[24.0, 72.0], [16.0, 0.0]]
    assert [one.dtype for one in found.values()] == [torch.float32, torch.float64]


def test_several_vectors_through_a_function_that_no_vmap_follows() -> None:
    x = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    loss = Cube.apply(x).sum() * x.sum()
    vectors = torch.tensor([[1.0, 0.0], [0.5, 2.0], [0.0, 1.0]], dtype=torch.float64)
    expected = vectors @ hessian((x**3).sum() * x.sum(), x).matrix()
    torch.testing.assert_close(hvp(loss, x, vectors)["x"], expected)


def test_vectors_of_different_numbers_are_refused() -> None:
    x, y = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
    loss = (x**2).sum() * (y**2).sum()
    with pytest.raises(
        InputError, match=r"for 'y' expected float32 of shape \[4, 3\] on cpu, got float32 of shape \[5"
    ):
        hvp(loss, {"x": x, "y": y}, [torch.ones(4, 2), torch.ones(5, 3)])
    with pytest.raises(
        InputError, match=r"for 'y' expected float32 of shape \[3\] on cpu, got float32 of shape \[4, 3"
    ):
        hvp(loss, {"x": x, "y": y}, [torch.ones(2), torch.ones(4, 3)])
    with pytest.raises(InputError, match="chunk_size expected a positive number"):
        hvp(loss, {"x": x, "y": y}, [torch.ones(4, 2), torch.ones(4, 3)], chunk_size=0)


def test_power_iteration_finds_the_largest_curvature() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    loss = (net(torch.randn(16, 3, dtype=torch.float64)) - 1).square().mean()
    operator = HessianOperator(loss, net)
    assert repr(operator) == "<HessianOperator: 21 × 21, of 4 parameters>"
    x = torch.ones(2, requires_grad=True)
    assert repr(HessianOperator((x**2).sum(), x)) == "<HessianOperator: 2 × 2, of 1 parameter>"
    vector = {name: torch.ones_like(tensor.detach()) for name, tensor in net.named_parameters()}
    for _ in range(300):
        vector = operator(vector)
        length = torch.stack([one.square().sum() for one in vector.values()]).sum().sqrt()
        vector = {name: one / length for name, one in vector.items()}
    largest = torch.linalg.eigvalsh(hessian(loss, net, blocks="full").matrix()).abs().max()
    assert float(length) == pytest.approx(float(largest), rel=1e-9)


def test_an_operator_leaves_the_program_alone() -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    calls: list[str] = []

    def doubled(gradient: Tensor) -> Tensor:
        calls.append("hook")
        return gradient * 2

    x.register_hook(doubled)
    hidden = x * 1
    hidden.retain_grad()
    loss = nn.functional.dropout(hidden**3, 0.0).sum()
    state = torch.get_rng_state()
    operator = HessianOperator(loss, x)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert operator(torch.ones(2))["x"].tolist() == [6.0, 12.0]
    assert hidden.grad is None
    assert x.grad is None
    assert calls == []
    assert torch.equal(torch.get_rng_state(), state)
    loss.backward()
    assert calls == ["hook"]
    with pytest.raises(InputError, match=r"HessianOperator needs the tensors that the graph saved.*freed"):
        operator(torch.ones(2))


def test_an_operator_notices_that_the_parameters_moved() -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    operator = HessianOperator((x**3).sum(), x)
    with torch.no_grad():
        x.add_(1)
    with pytest.raises(InputError, match="HessianOperator needs a saved tensor that was changed in place"):
        operator(torch.ones(2))


def test_an_operator_keeps_the_graph_and_nothing_after_it_is_dropped() -> None:
    x = torch.ones(50, requires_grad=True)
    hidden = x.exp()
    hidden.retain_grad()
    reference = weakref.ref(hidden)
    loss = (hidden * hidden).sum()
    operator = HessianOperator(loss, {"x": x})
    operator(torch.ones(50))
    gc.collect()
    gc.disable()
    try:
        del hidden, loss
        assert float(operator(torch.ones(50))["x"][0]) == pytest.approx(4 * torch.e**2)
        del operator
        assert reference() is None
    finally:
        gc.enable()
