"""Blocks of the Hessian, and its products with vectors."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gradgraph import hessian, hessian_diagonal, hvp
from gradgraph.errors import InputError
from tests.curvature.losses import LOSSES, Cube, full_hessian, leaves
from tests.curvature.ranks import loss_and_params

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", LOSSES)
def test_equals_torchs_own_hessian(name: str) -> None:
    torch.manual_seed(0)
    loss, params = LOSSES[name]()
    expected = full_hessian(loss, params)
    tensors = leaves(params)
    value = loss(tensors)
    blocks = hessian(value, tensors)
    full = hessian(value, tensors, blocks="full")
    vector = {key: torch.randn_like(tensor) for key, tensor in params.items()}
    products = hvp(value, tensors, vector)
    for i, tensor in tensors.items():
        assert blocks[i].shape == (*tensor.shape, *tensor.shape)
        torch.testing.assert_close(blocks[i], expected[i][i], rtol=1e-11, atol=1e-11)
        for j in tensors:
            torch.testing.assert_close(full[i][j], expected[i][j], rtol=1e-11, atol=1e-11)
        assert tensor.grad is None
    size = sum(tensor.numel() for tensor in params.values())
    matrix = full.matrix()
    assert matrix.shape == (size, size)
    flat = torch.cat([vector[key].reshape(-1) for key in params])
    product = torch.cat([products[key].reshape(-1) for key in params])
    torch.testing.assert_close(product, matrix @ flat, rtol=1e-11, atol=1e-11)


def test_against_func_hessian() -> None:
    torch.manual_seed(0)
    loss, params = LOSSES["mlp"]()
    tensors = leaves(params)
    expected: Any = torch.func.jacrev(torch.func.jacrev(loss))(params)
    full = hessian(loss(tensors), tensors, blocks="full", chunk_size=3)
    for i in params:
        for j in params:
            torch.testing.assert_close(full[i][j], expected[i][j], rtol=1e-11, atol=1e-12)


def test_matrix_of_one_block_and_of_all() -> None:
    x, y = torch.ones(2, requires_grad=True), torch.ones(1, requires_grad=True)
    loss = (x**3).sum() * y.sum()
    blocks = hessian(loss, {"x": x, "y": y})
    assert blocks.matrix("x").tolist() == [[6.0, 0.0], [0.0, 6.0]]
    with pytest.raises(InputError, match=r'the whole matrix needs the blocks between parameters: .*blocks="full"'):
        blocks.matrix()
    full = hessian(loss, {"x": x, "y": y}, blocks="full")
    assert full.matrix().tolist() == [[6.0, 0.0, 3.0], [0.0, 6.0, 3.0], [3.0, 3.0, 0.0]]
    assert full.matrix("y").tolist() == [[0.0]]
    assert hessian(loss, x).matrix().tolist() == [[6.0, 0.0], [0.0, 6.0]]
    assert repr(full) == "<HessianBlocks, full: x: 2 × 2, y: 1 × 1>"
    assert repr(blocks) == "<HessianBlocks, one block a parameter: x: 2 × 2, y: 1 × 1>"


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    x, y = (torch.ones(2, requires_grad=True) for _ in range(2))
    for kind in ("parameter", "full"):
        blocks = hessian((x * y).sum(), {"x": x, "y": y}, blocks=kind)
        for call, names in ((blocks.matrix, ["z"]), (blocks.block, ["z", "x"]), (blocks.block, ["x", "z"])):
            with pytest.raises(InputError, match="a name of a parameter was expected, one of 'x', 'y'; got 'z'"):
                call(*names)
        with pytest.raises(KeyError):
            blocks["z"]


def test_two_to_one_map_of_the_seeds() -> None:
    x = torch.tensor([0.0, 1.0], requires_grad=True)
    weight = torch.tensor([0.5596, 0.1991])
    y = x @ weight + 0.0408 + (x**3).sum()
    assert y.item() == pytest.approx(1.2399, abs=1e-4)
    assert hessian(y, x)["x"].tolist() == [[0.0, 0.0], [0.0, 6.0]]
    assert hessian_diagonal(y, x)["x"].tolist() == [0.0, 6.0]


def test_blocks_of_unreached_and_linear_parameters_are_zeros() -> None:
    x, linear, unused = (torch.ones(2, requires_grad=True) for _ in range(3))
    full = hessian((x**2).sum() + linear.sum(), {"x": x, "linear": linear, "unused": unused}, blocks="full")
    assert torch.count_nonzero(full.matrix()) == 2
    product = hvp((x**2).sum() + linear.sum(), {"x": x, "linear": linear, "unused": unused}, [torch.ones(2)] * 3)
    assert {name: one.tolist() for name, one in product.items()} == {
        "x": [2.0, 2.0],
        "linear": [0.0, 0.0],
        "unused": [0.0, 0.0],
    }
    assert hvp(linear.sum(), linear, torch.ones(2))["linear"].tolist() == [0.0, 0.0]


def test_a_function_that_no_vmap_follows() -> None:
    x = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    loss = Cube.apply(x).sum() * x.sum()
    expected = hessian((x**3).sum() * x.sum(), x)
    torch.testing.assert_close(hessian(loss, x)["x"], expected["x"])


class Straight(torch.autograd.Function):
    """Rounds, and passes gradients on as if it were x³: a straight-through estimator."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        return x.round() * y.sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, y = ctx.saved_tensors
        return grad * y.sum(), (grad * x**2).sum().expand_as(y)


def test_gradients_that_are_no_derivative_are_not_mirrored() -> None:
    """Rows of an asymmetric "Hessian" come as autograd gives them, whichever parameter is nearer to the loss."""
    x = torch.tensor([0.3, 1.2], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([2.0, 0.5, 1.0], dtype=torch.float64, requires_grad=True)
    loss = Straight.apply(x, y).sin().sum()
    params = {"x": x, "y": y}
    first = torch.autograd.grad(loss, [x, y], create_graph=True)
    entries = torch.cat([one.reshape(-1) for one in first])
    rows = [torch.cat(torch.autograd.grad(entry, [x, y], retain_graph=True)) for entry in entries]
    expected = torch.stack(rows)
    assert not torch.allclose(expected, expected.t())
    torch.testing.assert_close(hessian(loss, params, blocks="full").matrix(), expected, rtol=1e-12, atol=1e-14)


def test_blocks_by_intermediate_tensors_and_inputs() -> None:
    w = torch.tensor([1.0, 2.0], requires_grad=True)
    x = torch.tensor([0.5, 3.0], requires_grad=True)
    hidden = w * x
    full = hessian((hidden**3).sum(), {"hidden": hidden, "x": x}, blocks="full")
    values = hidden.detach()
    assert full["hidden"]["hidden"].tolist() == torch.diag(6 * values).tolist()
    assert full["x"]["x"].tolist() == torch.diag(6 * values * w.detach() ** 2).tolist()
    assert full["hidden"]["x"].tolist() == full["x"]["hidden"].t().tolist()
    product = hvp((hidden**3).sum(), hidden, torch.ones(2))
    assert product["hidden"].tolist() == (6 * values).tolist()


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**31))
def test_quadratic_forms(m: int, n: int, seed: int) -> None:
    """d² of ½ vᵀ A v is A, in blocks, whatever the shapes."""
    generator = torch.Generator().manual_seed(seed)
    half = torch.randn(m + n, m + n, generator=generator, dtype=torch.float64)
    a = half + half.t()
    x = torch.randn(m, generator=generator, dtype=torch.float64, requires_grad=True)
    y = torch.randn(n, 1, generator=generator, dtype=torch.float64, requires_grad=True)
    v = torch.cat([x, y.view(-1)])
    loss = v @ a @ v / 2
    torch.testing.assert_close(hessian(loss, [x, y], blocks="full").matrix(), a)
    diagonal = hessian_diagonal(loss, [x, y], chunk_size=2)
    torch.testing.assert_close(torch.cat([diagonal["x"], diagonal["y"].view(-1)]), a.diagonal())
    direction = [torch.randn(m, dtype=torch.float64, generator=generator), torch.ones(n, 1, dtype=torch.float64)]
    product = hvp(loss, [x, y], direction)
    expected = a @ torch.cat([one.view(-1) for one in direction])
    torch.testing.assert_close(torch.cat([product["x"], product["y"].view(-1)]), expected)


def test_vectors_that_do_not_fit() -> None:
    x, y = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
    loss = (x**2).sum() * (y**2).sum()
    params = {"x": x, "y": y}
    with pytest.raises(InputError, match="it lacks 'y'"):
        hvp(loss, params, {"x": torch.ones(2)})
    with pytest.raises(InputError, match="it has 'z', which is no parameter"):
        hvp(loss, params, {"x": torch.ones(2), "y": torch.ones(3), "z": torch.ones(1)})
    with pytest.raises(InputError, match="vector expected 2 tensors, one per parameter in their order, got 1"):
        hvp(loss, params, torch.ones(2))
    described = "vector's tensor for 'y' expected float32 of shape [3] on cpu, got float32 of shape [2] on cpu"
    with pytest.raises(InputError, match=re.escape(described)):
        hvp(loss, params, [torch.ones(2), torch.ones(2)])
    with pytest.raises(InputError, match="got float64 of shape"):
        hvp(loss, params, [torch.ones(2), torch.ones(3, dtype=torch.float64)])
    with pytest.raises(InputError, match="vector expected a tensor for 'x', got float"):
        hvp(loss, params, [1.0, 2.0])  # type: ignore[list-item]
    with pytest.raises(InputError, match="blocks expected 'parameter' or 'full', got 'all'"):
        hessian(loss, params, blocks="all")  # type: ignore[arg-type]


_RANK = """
import sys, torch, gradgraph, torch.distributed as dist
from tests.curvature.ranks import loss_and_params
rank, folder = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
loss, params = loss_and_params()
full = gradgraph.hessian(loss, params, blocks="full", shard=True)
own = gradgraph.hessian(loss, params, shard=True)
torch.save([full.matrix(), {name: own.matrix(name) for name in own}], f"{folder}/{rank}.pt")
"""


def test_two_ranks_share_the_rows(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-W", "ignore", "-c", _RANK, str(rank), str(tmp_path)], cwd=ROOT)
        for rank in range(2)
    ]
    try:
        assert [process.wait(120) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    loss, params = loss_and_params()
    expected = hessian(loss, params, blocks="full")
    (first, own), (second, other) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert torch.equal(first, second)
    torch.testing.assert_close(first, expected.matrix(), rtol=1e-13, atol=1e-15)
    for name in params:
        assert torch.equal(own[name], other[name])
        torch.testing.assert_close(own[name], expected.matrix(name), rtol=1e-13, atol=1e-15)


def test_sharding_without_a_process_group() -> None:
    x = torch.ones(2, requires_grad=True)
    with pytest.raises(InputError, match=r"shard=True expected an initialized process group, got none.*torchrun"):
        hessian((x**3).sum(), x, shard=True)
