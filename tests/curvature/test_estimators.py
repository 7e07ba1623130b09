"""Estimates of the diagonal: no bias, honest errors, exact where they can be, the same whatever the chunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gradgraph.curvature.estimators import Estimator, estimate, planned
from gradgraph.curvature.first_order import first_order
from gradgraph.curvature.many_products import ManyProducts
from gradgraph.curvature.probing import Moments, Signs, batches
from gradgraph.curvature.report import ParameterReport
from gradgraph.curvature.sharding import Share
from gradgraph.curvature.sketch import Sketch
from gradgraph.errors import InputError
from tests.curvature.losses import LOSSES, Cube, diagonal_of, full_hessian, leaves

METHODS: list[Estimator] = ["hutchinson", "xdiag"]
SINGLE = Share.of(False)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def symmetric(eigenvalues: Tensor, seed: int = 0) -> Tensor:
    """A matrix with these eigenvalues and random eigenvectors."""
    size = len(eigenvalues)
    turn = torch.linalg.qr(torch.randn(size, size, generator=seeded(seed), dtype=torch.float64)).Q
    matrix: Tensor = (turn * eigenvalues.double()) @ turn.T
    return matrix


def decaying(size: int, factor: float) -> Tensor:
    """Eigenvalues of both signs that fall geometrically."""
    return factor ** torch.arange(size).double() * torch.tensor([1.0, -1.0]).repeat(size)[:size]


def of_matrix(
    method: Estimator, matrix: Tensor, seed: int = 0, probes: int | None = None, tolerance: float | None = None
) -> tuple[Tensor, Tensor, ParameterReport]:
    x = torch.ones(len(matrix), dtype=matrix.dtype, requires_grad=True)
    with first_order("test", x @ matrix @ x / 2, {"x": x}) as order:
        values, stderr, report = estimate(
            method, order, ["x"], probes=probes, tolerance=tolerance, generator=seeded(seed)
        )
    return values["x"], stderr["x"], report["x"]


def joined(parts: dict[str, Tensor]) -> Tensor:
    return torch.cat([part.reshape(-1) for part in parts.values()])


@pytest.mark.parametrize(("method", "probes"), [("hutchinson", 30), ("xdiag", 30), ("xdiag", 60)])
def test_no_bias_and_honest_errors(method: Estimator, probes: int) -> None:
    matrix = symmetric(decaying(100, 0.9))
    draws = [of_matrix(method, matrix, seed, probes) for seed in range(300)]
    misses = torch.stack([values for values, _, _ in draws]) - matrix.diagonal()
    errors = torch.stack([stderr for _, stderr, _ in draws])
    # The mean of 300 misses is within its own error: 100 entries, each squared a chi-square of one degree.
    bias = misses.mean(0) / (misses.std(0) / 300**0.5)
    assert 0.4 < bias.square().mean() < 1.8
    assert 0.92 < (errors.square().mean(0) / misses.square().mean(0)).sqrt().mean() < 1.08
    assert 0.92 < (misses.abs() < 2 * errors).double().mean() < 0.97
    assert 0.62 < (misses.abs() < errors).double().mean() < 0.72


@pytest.mark.parametrize("method", METHODS)
def test_honest_on_a_net(method: Estimator) -> None:
    expected, draws = _net_estimates(method, probes=60, count=30)
    misses = torch.stack([values for values, _ in draws]) - expected
    errors = torch.stack([stderr for _, stderr in draws])
    assert 0.92 < (misses.abs() < 2 * errors).double().mean() < 0.97
    total = (errors.square().sum() / misses.square().sum()).sqrt()
    assert 0.9 < total < 1.1


def test_xdiag_is_better_on_a_net() -> None:
    error = {}
    for method in METHODS:
        expected, draws = _net_estimates(method, probes=120, count=3)
        error[method] = max(float((values - expected).norm() / expected.norm()) for values, _ in draws)
    assert error["xdiag"] < error["hutchinson"] / 2


def _net_estimates(method: Estimator, probes: int, count: int) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """The exact diagonal of an MLP's Hessian, and estimates with their errors."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 1)).double()
    x, y = torch.randn(64, 12).double(), torch.randn(64, 1).double()
    with first_order("test", functional.mse_loss(net(x), y), dict(net.named_parameters())) as order:
        names = list(order.gradients)
        exact, _, report = estimate("xdiag", order, names, probes=10_000)
        assert all(one.exact for one in report.values())
        draws = []
        for seed in range(count):
            values, stderr, report = estimate(method, order, names, probes=probes, generator=seeded(seed))
            assert not any(one.exact for one in report.values())
            draws.append((joined(values), joined(stderr)))
    return joined(exact), draws


@pytest.mark.parametrize(("size", "count"), [(12, 5), (12, 2), (30, 15), (7, 7)])
def test_leave_one_outs_equal_their_definition(size: int, count: int) -> None:
    matrix = symmetric(decaying(size, 0.8))
    signs = Signs(size, 3, torch.device("cpu"))(0, count)
    vectors = signs.double()
    each, left = [], []
    for number in range(count):
        others = torch.cat([vectors[:number], vectors[number + 1 :]])
        range_of = torch.linalg.svd(matrix @ others.T, full_matrices=False)
        basis = range_of.U[:, range_of.S > 1e-10]  # signs may be dependent
        inside = basis @ basis.T
        outside = torch.eye(size, dtype=torch.float64) - inside
        near = inside @ matrix + matrix @ inside - inside @ matrix @ inside
        each.append(near.diagonal() + vectors[number] * (outside @ matrix @ outside @ vectors[number]))
        left.append(vectors[number] * (outside @ matrix @ vectors[number]))
    for cut in (count, 1, count // 2):  # all at once, and in two batches
        sketch = Sketch(size, SINGLE)
        for part in (signs[:cut], signs[cut:]):
            if len(part):
                sketch.extend(part, part.double() @ matrix)
                assert sketch.complete(lambda basis: basis @ matrix)
        values, stderr = sketch.estimate()
        torch.testing.assert_close(values, torch.stack(each).mean(0), rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(stderr, torch.stack(each).std(0) / count**0.5, rtol=1e-9, atol=1e-10)
        expected = torch.stack(left).var(0).sum()
        torch.testing.assert_close(sketch.variance_left(), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("tolerance", [None, 1e-9])
def test_xdiag_is_exact_on_low_rank(tolerance: float | None) -> None:
    matrix = symmetric(torch.cat([torch.tensor([3.0, -2.0, 1.0, 0.5, -0.1]), torch.zeros(95)]))
    values, stderr, report = of_matrix("xdiag", matrix, probes=40, tolerance=tolerance)
    torch.testing.assert_close(values, matrix.diagonal(), rtol=1e-11, atol=1e-13)
    assert stderr.max() < 1e-12
    assert "a basis of 5" in report.reason
    assert not report.exact  # it cannot know


@pytest.mark.parametrize("probes", [40, 41, 1000])
def test_as_many_probes_as_entries_are_the_columns(probes: int) -> None:
    matrix = symmetric(decaying(40, 0.99))
    values, stderr, report = of_matrix("xdiag", matrix, probes=probes)
    torch.testing.assert_close(values, matrix.diagonal(), rtol=1e-14, atol=1e-15)
    assert not stderr.any()
    assert report.exact
    assert report.passes <= 41


def test_a_tolerance_may_take_the_whole_range() -> None:
    matrix = symmetric(torch.linspace(1, 2, 40) * torch.tensor([1.0, -1.0]).repeat(20))
    values, _, report = of_matrix("xdiag", matrix, probes=1000, tolerance=1e-12)
    torch.testing.assert_close(values, matrix.diagonal(), rtol=1e-10, atol=1e-11)
    assert "met" in report.reason
    assert report.passes <= 85


@pytest.mark.parametrize("method", METHODS)
def test_diagonal_and_zero_matrices_are_exact(method: Estimator) -> None:
    for diagonal in (torch.linspace(-1, 2, 50).double(), torch.zeros(50).double()):
        values, stderr, _ = of_matrix(method, torch.diag(diagonal), probes=20)
        torch.testing.assert_close(values, diagonal, rtol=1e-14, atol=1e-15)
        assert stderr.max() < 1e-14


def test_xdiag_gives_way_where_a_sketch_does_not_pay() -> None:
    flat = symmetric(torch.linspace(1, 2, 100) * torch.tensor([1.0, -1.0]).repeat(50))
    shifted = torch.eye(100).double() + 0.01 * flat
    for matrix in (flat, shifted):
        values, stderr, report = of_matrix("xdiag", matrix, probes=40)
        expected, errors, _ = of_matrix("hutchinson", matrix, probes=40)
        torch.testing.assert_close(values, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(stderr, errors, rtol=1e-9, atol=1e-12)
        assert report.reason.startswith("40 probes, as many as wanted; Hutchinson's estimator, since a sketch does not")


@pytest.mark.parametrize("method", METHODS)
def test_stops_at_the_tolerance(method: Estimator) -> None:
    matrix = symmetric(decaying(200, 0.95))
    spent = []
    for tolerance in (1.0, 0.4) if method == "hutchinson" else (0.3, 0.1):
        values, stderr, report = of_matrix(
            method, matrix, probes=5000 if method == "hutchinson" else 190, tolerance=tolerance
        )
        assert stderr.norm() <= tolerance * values.norm()
        assert (values - matrix.diagonal()).norm() < 1.3 * tolerance * matrix.diagonal().norm()
        assert f"tolerance {tolerance:g} met" in report.reason
        spent.append(int(report.reason.split()[0]))
    assert spent[0] < spent[1]
    _, stderr, report = of_matrix(method, matrix, probes=20, tolerance=1e-4)
    assert report.reason.startswith("20 ")
    assert "tolerance 0.0001 not met" in report.reason


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["mlp", "tied_weights", "conv_group_norm"])
def test_real_losses_within_three_errors(method: Estimator, name: str) -> None:
    torch.manual_seed(0)
    loss, params = LOSSES[name]()
    expected = full_hessian(loss, params)
    tensors = leaves(params)
    probes = min(200, sum(tensor.numel() for tensor in tensors.values()) - 1)
    with first_order("test", loss(tensors), tensors) as order:
        values, stderr, report = estimate(method, order, list(order.gradients), probes=probes)
    for key in values:
        reference = diagonal_of(expected[key][key], tensors[key].shape)
        assert values[key].shape == stderr[key].shape == tensors[key].shape
        assert (values[key] - reference).norm() <= 3 * stderr[key].norm()
        assert report[key].method == method
        assert tensors[key].grad is None


@pytest.mark.parametrize("method", METHODS)
def test_repeats_and_leaves_the_global_generator_alone(method: Estimator) -> None:
    matrix = symmetric(decaying(60, 0.9))
    x = torch.ones(60, dtype=torch.float64, requires_grad=True)
    loss = x @ matrix @ x
    before = torch.get_rng_state()

    def run(generator: torch.Generator | None) -> Tensor:
        with first_order("test", loss, {"x": x}) as order:
            return estimate(method, order, ["x"], probes=30, generator=generator)[0]["x"]

    assert torch.equal(run(None), run(None))
    assert torch.equal(run(None), run(seeded(0)))
    assert not torch.equal(run(seeded(0)), run(seeded(1)))
    generator = seeded(0)
    assert not torch.equal(run(generator), run(generator))  # it goes on
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["mlp", "tied_weights", "conv_group_norm"])
def test_any_chunk_gives_the_same(method: Estimator, name: str) -> None:
    torch.manual_seed(0)
    loss, params = LOSSES[name]()
    tensors = leaves(params)
    found = []
    with first_order("test", loss(tensors), tensors) as order:
        for chunk_size in (1, 3, 7, 100):
            values, stderr, report = estimate(method, order, list(order.gradients), probes=12, chunk_size=chunk_size)
            found.append((joined(values), joined(stderr)))
            assert all(one.chunk <= chunk_size for one in report.values())
    for other, error in found[1:]:
        torch.testing.assert_close(other, found[0][0], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(error, found[0][1], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_one_by_one_where_no_vmap_can(method: Estimator) -> None:
    x = torch.linspace(-1, 2, 20, dtype=torch.float64).requires_grad_()
    with first_order("test", Cube.apply(x).sum(), {"x": x}) as order:
        values, _, report = estimate(method, order, ["x"], probes=8)
    torch.testing.assert_close(values["x"], (6 * x).detach())
    assert report["x"].chunk == 1
    assert "one row a pass" in report["x"].reason


@pytest.mark.parametrize("method", METHODS)
def test_what_is_not_finite_is_marked(method: Estimator) -> None:
    x = torch.tensor([4.0, 0.0, 1.0, 9.0], dtype=torch.float64).repeat(10).requires_grad_()
    w = torch.ones(5, dtype=torch.float64, requires_grad=True)
    with first_order("test", x.sqrt().sum() + (w**4).sum() + (w.sum() ** 2), {"x": x, "w": w}) as order:
        values, stderr, report = estimate(method, order, ["x", "w"], probes=20)
    bad = (x == 0).detach()
    assert not values["x"][bad].isfinite().any()
    assert not stderr["x"][bad].isfinite().any()
    torch.testing.assert_close(values["x"][~bad], -0.25 * x.detach()[~bad] ** -1.5)
    assert ((values["w"] - 14).abs() <= 5 * stderr["w"]).all()
    if method == "xdiag":
        assert "not finite" in report["x"].reason


@pytest.mark.parametrize("method", METHODS)
def test_dtypes_are_the_parameters(method: Estimator) -> None:
    torch.manual_seed(0)
    wide = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    narrow = torch.randn(5, 4, requires_grad=True)
    half = torch.randn(4, dtype=torch.bfloat16, requires_grad=True)
    loss = (torch.tanh(wide.float() @ narrow) * half.float()).pow(2).sum()
    params = {"wide": wide, "narrow": narrow, "half": half}
    with first_order("test", loss, params) as order:
        values, stderr, _ = estimate(method, order, list(params), probes=50)
        exact, _, report = estimate("xdiag", order, list(params), probes=54)
    assert report["half"].exact
    for name, tensor in params.items():
        assert values[name].dtype == stderr[name].dtype == tensor.dtype
        near = 5 * stderr[name].double() + 0.02 * exact[name].double().abs() + 1e-4
        assert ((values[name].double() - exact[name].double()).abs() <= near).all()


def test_a_single_probe_has_no_spread() -> None:
    matrix = symmetric(decaying(20, 0.9))
    values, stderr, report = of_matrix("hutchinson", matrix, probes=1)
    signs = Signs(20, int(torch.randint(2**31, (), generator=seeded(0))), torch.device("cpu"))(0, 1)[0].double()
    torch.testing.assert_close(values, signs * (matrix @ signs))
    assert stderr.isnan().all()
    assert report.reason.startswith("1 probe, as many as wanted")
    one, error, report = of_matrix("hutchinson", matrix, probes=1, tolerance=1e9)
    assert torch.equal(one, values)
    assert "not met" in report.reason
    assert error.isnan().all()


def test_part_of_the_parameters_is_their_own_block() -> None:
    torch.manual_seed(0)
    loss, params = LOSSES["mlp"]()
    tensors = leaves(params)
    (name, other), size = list(tensors)[:2], next(iter(tensors.values())).numel()
    with first_order("test", loss(tensors), tensors) as order:
        values, _, _ = estimate("hutchinson", order, [name], probes=4000)
        exact, _, report = estimate("xdiag", order, [name], probes=size)
    assert other not in values
    assert report[name].exact
    assert (values[name] - exact[name]).norm() < 0.2 * exact[name].norm()


def test_linear_parameters_are_told_apart() -> None:
    a = torch.ones(3, requires_grad=True)
    b = torch.ones(3, requires_grad=True)
    c = torch.ones(3, requires_grad=True)
    # The gradient by c has a graph that ends nowhere near the parameters.
    data = torch.ones(3, requires_grad=True)
    with first_order("test", (a**2 * b).sum() + (c * data).sum(), {"a": a, "b": b, "c": c}) as order:
        values, stderr, report = estimate("hutchinson", order, ["a", "b", "c"], probes=500)
    assert {name: one.reached for name, one in report.items()} == {"a": "curved", "b": "curved", "c": "linear"}
    assert not values["c"].any()
    assert not stderr["c"].any()


def test_products_equal_the_matrix() -> None:
    torch.manual_seed(0)
    loss, params = LOSSES["mlp"]()
    tensors = leaves(params)
    sizes = [tensor.numel() for tensor in tensors.values()]
    blocks = full_hessian(loss, params)
    rows = [torch.cat([blocks[i][j].reshape(tensors[i].numel(), -1) for j in tensors], 1) for i in tensors]
    matrix = torch.cat(rows)
    with first_order("test", loss(tensors), tensors) as order:
        products = ManyProducts(order, list(tensors), chunk_size=4)
        vectors = torch.randn(9, sum(sizes), dtype=torch.float64)
        torch.testing.assert_close(products.of(vectors), vectors @ matrix, rtol=1e-11, atol=1e-12)
        assert products.plan.passes == 3 + 1


def test_signs_are_by_number() -> None:
    signs = Signs(2000, 5, torch.device("cpu"))
    some = signs(0, 50).double()
    assert torch.equal(some[20:30], signs(20, 30).double())
    assert torch.equal(some.abs(), torch.ones_like(some))
    assert some.mean().abs() < 5 / (50 * 2000) ** 0.5
    products = some @ some.T / 2000**0.5  # off its diagonal about normal
    assert products.fill_diagonal_(0).abs().max() < 5
    assert 0.9 < products[~torch.eye(50, dtype=torch.bool)].std() < 1.1


@pytest.mark.parametrize("cuts", [[10], [3, 10], [1, 2, 9, 10]])
def test_moments_do_not_cancel(cuts: Sequence[int]) -> None:
    samples = torch.randn(10, 4, generator=seeded(0), dtype=torch.float64) + 1e8
    moments = Moments(4, torch.float64, torch.device("cpu"))
    for start, stop in zip([0, *cuts[:-1]], cuts, strict=True):
        moments.add(samples[start:stop])
    torch.testing.assert_close(moments.mean, samples.mean(0), rtol=1e-15, atol=0)
    torch.testing.assert_close(moments.variance, samples.var(0), rtol=1e-6, atol=0)
    torch.testing.assert_close(moments.stderr, samples.std(0) / 10**0.5, rtol=1e-6, atol=0)


def test_batches() -> None:
    assert list(batches(0, 100, None)) == [100]
    assert list(batches(0, 100, 0.1)) == [16, 32, 48, 64, 80, 100]
    assert list(batches(100, 200, 0.1)) == [125, 156, 195, 200]
    assert list(batches(5, 5, 0.1)) == []


def test_what_is_planned() -> None:
    assert planned("hutchinson", None, None) == planned("xdiag", None, None) == 100
    assert planned("hutchinson", None, 0.1) == 10_000
    assert planned("xdiag", None, 0.1) == 1_000
    assert planned("xdiag", 7, 0.1) == 7


@pytest.mark.parametrize("probes", [0, -3, 2.5, True, "7"])
def test_too_few_probes(probes: Any) -> None:
    for method in METHODS:
        with pytest.raises(InputError, match=r"probes expected a whole number of Hessian-vector products, \d at least"):
            planned(method, probes, None)
    with pytest.raises(InputError, match="4 at least for 'xdiag'"):
        planned("xdiag", 3, None)


@pytest.mark.parametrize("tolerance", [0.0, -1.0, float("nan"), float("inf"), "0.1", True])
def test_no_tolerance(tolerance: Any) -> None:
    with pytest.raises(InputError, match="tolerance expected a positive number"):
        planned("hutchinson", None, tolerance)
