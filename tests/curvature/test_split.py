"""Contributions sum to the curvature on every loss of the corpus, and each is its operation's own second derivative."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from gradgraph import curvature, hessian_diagonal, hvp, trace
from gradgraph.curvature import Curvature
from gradgraph.errors import GradGraphError
from tests.curvature.cases import CASES
from tests.curvature.losses import full_hessian, leaves
from tests.curvature.random_losses import random_program

#: Their backward is not the gradient: there is nothing to split, and the node is named.
UNSPLITTABLE = {
    "embedding_scaled_by_frequency": "the backward of EmbeddingBackward0 gives something else than the gradient",
    "gradient_normalized_by_a_hook": "a hook on the result of MulBackward0 changes its gradient",
}
EXACT = 1e-12


def scale_of(result: Curvature) -> float:
    return math.fsum(map(abs, result.contributions.values())) + abs(result.total)


@pytest.mark.parametrize("name", [name for name in CASES if name not in UNSPLITTABLE])
def test_contributions_sum_to_the_curvature(name: str) -> None:
    if name == "gpt2":
        pytest.importorskip("transformers")
    loss, params = CASES[name]()
    tensors = leaves(params)
    torch.manual_seed(0)
    direction = {key: torch.randn_like(tensor) for key, tensor in tensors.items()}
    value = loss(tensors)
    result = curvature(value, tensors, direction)
    product = hvp(value, tensors, direction)
    expected = sum(float((product[key] * direction[key]).sum()) for key in tensors)
    assert abs(result.total - expected) <= EXACT * scale_of(result)
    assert abs(math.fsum(result.contributions.values()) - expected) <= EXACT * scale_of(result)


@pytest.mark.parametrize("name", [name for name in CASES if name not in UNSPLITTABLE and name != "gpt2"])
def test_entries_sum_to_the_diagonal(name: str) -> None:
    loss, params = CASES[name]()
    tensors = leaves(params)
    value = loss(tensors)
    result = curvature(value, tensors, per_entry=True)
    diagonal = hessian_diagonal(value, tensors, method="batched")
    assert result.diagonal is not None
    assert result.entries is not None
    for key, tensor in tensors.items():
        torch.testing.assert_close(result.diagonal[key], diagonal[key], rtol=1e-11, atol=1e-11)
        parts = sum(result.entries[key].values(), torch.zeros_like(tensor))
        torch.testing.assert_close(parts, diagonal[key], rtol=1e-11, atol=1e-11)
    trace_ = sum(float(one.sum()) for one in diagonal.values())
    assert abs(result.total - trace_) <= 1e-11 * scale_of(result)
    assert abs(math.fsum(result.contributions.values()) - trace_) <= 1e-11 * scale_of(result)


@pytest.mark.parametrize(("name", "words"), UNSPLITTABLE.items())
def test_what_cannot_be_split_is_named(name: str, words: str) -> None:
    loss, params = CASES[name]()
    tensors = leaves(params)
    value = loss(tensors)
    torch.manual_seed(0)
    for direction in (None, {key: torch.randn_like(tensor) for key, tensor in tensors.items()}):
        with pytest.raises(GradGraphError, match=words):
            curvature(value, tensors, direction)


class Step(NamedTuple):
    """One operation, and the names of what it takes."""

    result: str
    function: Callable[..., Tensor]
    inputs: tuple[str, ...]


def expected_contributions(
    steps: list[Step], params: Mapping[str, Tensor], direction: Mapping[str, Tensor]
) -> dict[str, float]:
    """By hand: each operation's second derivative along its inputs' tangents, weighted by its result's adjoint.

    Tangents by jvp of single operations, adjoints by a plain backward pass, second derivatives by
    differentiating ⟨v̄, φ(u + t u̇)⟩ twice by t.
    """
    values = leaves(dict(params))
    tangents = dict(direction)
    for step in steps:
        inputs = tuple(values[name] for name in step.inputs)
        values[step.result] = step.function(*inputs)
        along = tuple(tangents[name] for name in step.inputs)
        at = tuple(one.detach() for one in inputs)
        tangents[step.result] = torch.autograd.functional.jvp(step.function, at, along)[1]
    last = values[steps[-1].result]
    found = {}
    for step in steps:
        (adjoint,) = torch.autograd.grad(last, values[step.result], retain_graph=True)
        inputs = tuple(values[name].detach() for name in step.inputs)
        along = tuple(tangents[name] for name in step.inputs)

        def moved(t: Tensor, step: Step = step, inputs: Any = inputs, along: Any = along, bar: Any = adjoint) -> Tensor:
            result: Tensor = (bar * step.function(*(u + t * du for u, du in zip(inputs, along, strict=True)))).sum()
            return result

        second = torch.func.grad(torch.func.grad(moved))
        found[step.result] = float(second(torch.zeros((), dtype=torch.float64)))
    return found


def run(steps: list[Step], params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    values = dict(params)
    for step in steps:
        values[step.result] = step.function(*(values[name] for name in step.inputs))
    return values


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def perceptron() -> tuple[list[Step], dict[str, Tensor]]:
    x, y = random(6, 3), random(6, 2)
    return [
        Step("z1", lambda w, b: torch.addmm(b, x, w), ("w1", "b1")),
        Step("h1", torch.tanh, ("z1",)),
        Step("z2", lambda w, b, h: torch.addmm(b, h, w), ("w2", "b2", "h1")),
        Step("h2", functional.silu, ("z2",)),
        Step("z3", torch.mm, ("h2", "w3")),
        Step("loss", lambda z: functional.mse_loss(z, y), ("z3",)),
    ], {"w1": random(3, 4), "b1": random(4), "w2": random(4, 4), "b2": random(4), "w3": random(4, 2)}


def residual_norms() -> tuple[list[Step], dict[str, Tensor]]:
    x = random(4, 6)
    return [
        Step("z1", lambda w: torch.mm(x, w), ("w",)),
        Step("n1", lambda z, s: functional.layer_norm(z, (6,), s), ("z1", "scale")),
        Step("h1", functional.gelu, ("n1",)),
        Step("sum", torch.add, ("h1", "z1")),
        Step("n2", lambda z: functional.group_norm(z, 2), ("sum",)),
        Step("n3", lambda z: functional.batch_norm(z, None, None, training=True), ("n2",)),
        Step("e", torch.exp, ("n3",)),
        Step("mean", torch.mean, ("e",)),
        Step("loss", torch.sqrt, ("mean",)),
    ], {"w": random(6, 6), "scale": random(6)}


def attention() -> tuple[list[Step], dict[str, Tensor]]:
    x = random(5, 4)
    return [
        Step("q", lambda w: torch.mm(x, w), ("wq",)),
        Step("k", lambda w: torch.mm(w, x.t()), ("wk",)),
        Step("v", lambda w: torch.mm(x, w), ("wv",)),
        Step("scores", torch.mm, ("q", "k")),
        Step("weights", lambda s: torch.softmax(s, 1), ("scores",)),
        Step("mixed", torch.mm, ("weights", "v")),
        Step("logs", lambda z: torch.log_softmax(z, 1), ("mixed",)),
        Step("loss", lambda z: functional.nll_loss(z, torch.arange(5) % 4), ("logs",)),
    ], {name: random(4, 4) for name in ("wq", "wk", "wv")}


def shared() -> tuple[list[Step], dict[str, Tensor]]:
    x = random(3, 4)
    return [
        Step("a", lambda w: torch.mm(x, w), ("w",)),
        Step("b", torch.sin, ("a",)),
        Step("c", torch.mm, ("b", "w")),
        Step("d", torch.mul, ("c", "a")),
        Step("e", torch.mul, ("d", "d")),
        Step("f", torch.add, ("e", "a")),
        Step("g", torch.sigmoid, ("f",)),
        Step("r", torch.relu, ("c",)),
        Step("p", torch.mul, ("g", "r")),
        Step("loss", lambda p: p.var(), ("p",)),
    ], {"w": random(4, 4)}


def convolutions() -> tuple[list[Step], dict[str, Tensor]]:
    x = random(2, 2, 5, 5)
    return [
        Step("z1", lambda w, b: functional.conv2d(x, w, b, padding=1), ("w1", "b1")),
        Step("n", lambda z: functional.group_norm(z, 2), ("z1",)),
        Step("h", functional.silu, ("n",)),
        Step("z2", lambda h, w: functional.conv2d(h, w, stride=2), ("h", "w2")),
        Step("s", functional.softplus, ("z2",)),
        Step("loss", lambda s: torch.linalg.vector_norm(s), ("s",)),
    ], {"w1": random(4, 2, 3, 3), "b1": random(4), "w2": random(3, 4, 3, 3)}


def lookups() -> tuple[list[Step], dict[str, Tensor]]:
    tokens = torch.tensor([[0, 1, 0], [2, 1, 1]])
    return [
        Step("rows", lambda w: functional.embedding(tokens, w), ("table",)),
        Step("h", torch.tanh, ("rows",)),
        Step("pooled", lambda h: h.prod(1), ("h",)),
        Step("logits", torch.mm, ("pooled", "head")),
        Step("loss", lambda z: functional.huber_loss(z, torch.ones(2, 3, dtype=torch.float64)), ("logits",)),
    ], {"table": random(4, 3), "head": random(3, 3)}


@pytest.mark.parametrize("build", [perceptron, residual_norms, attention, shared, convolutions, lookups])
def test_each_contribution_is_its_operations_second_derivative(build: Callable[[], Any]) -> None:
    torch.manual_seed(3)
    steps, params = build()
    direction = {name: torch.randn_like(tensor) for name, tensor in params.items()}
    expected = expected_contributions(steps, params, direction)
    tensors = leaves(params)
    values = run(steps, tensors)
    result = curvature(values["loss"], tensors, direction)
    nodes = trace(values["loss"], tensors).live.nodes
    keys = {step.result: nodes.index(values[step.result].grad_fn) for step in steps}  # type: ignore[arg-type]
    found = {name: result.contributions[key] for name, key in keys.items()}
    size = scale_of(result)
    for name, value in expected.items():
        assert abs(found[name] - value) <= EXACT * size, name
    others = set(result.contributions) - set(keys.values())
    assert all(result.contributions[key] == 0.0 for key in others)
    assert sum(value != 0 for value in found.values()) > 2


def test_closed_forms() -> None:
    w = torch.tensor([0.3, -0.7], dtype=torch.float64, requires_grad=True)
    e = torch.tensor([1.5, 2.0], dtype=torch.float64)
    a = w.exp()
    result = curvature((a * w).sum() ** 2, w, e)
    # L = S², S = Σ wᵢ exp(wᵢ): the square adds 2 Ṡ², the product 2S · 2 ȧ e, the exponential 2S · w exp(w) e².
    with torch.no_grad():
        total = (a * w).sum()
        slope = ((1 + w) * a * e).sum()
        expected = {
            "PowBackward0": float(2 * slope**2),
            "MulBackward0": float((4 * total * a * e * e).sum()),
            "ExpBackward0": float((2 * total * w * a * e * e).sum()),
            "SumBackward0": 0.0,
        }
    assert result.by_op() == pytest.approx(expected, rel=1e-14)


def test_piecewise_linear_and_affine_operations_add_exactly_nothing() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 8), nn.LeakyReLU(), nn.Linear(8, 2)).double()
    loss = functional.mse_loss(net(random(5, 3)), random(5, 2))
    result = curvature(loss, net, [torch.randn_like(p) for p in net.parameters()])
    by_op = result.by_op()
    assert by_op["ReluBackward0"] == by_op["LeakyReluBackward0"] == by_op["TBackward0"] == 0.0
    assert by_op["MseLossBackward0"] > 0
    assert by_op["AddmmBackward0"] != 0.0  # bilinear in weight and input
    # Along the bias of the last layer alone nothing but the loss is curved.
    alone = curvature(loss, {"bias": net[4].bias}, torch.ones(2).double())
    assert alone.by_op() == pytest.approx({**dict.fromkeys(by_op, 0.0), "MseLossBackward0": alone.total})
    assert alone.total == pytest.approx(2.0)


def test_operations_of_a_gradient_are_the_losss_own() -> None:
    """A loss made of gradients is split like the formula that they are."""
    torch.manual_seed(0)
    x = random(5).requires_grad_()
    w = random(5).requires_grad_()
    (slope,) = torch.autograd.grad(torch.sin(w * x).sum(), x, create_graph=True)
    by_hand = torch.cos(w * x) * w
    e = random(5)
    one, other = curvature((slope**2).sum(), w, e), curvature((by_hand**2).sum(), w, e)
    wanted = {op: value for op, value in other.by_op().items() if value}
    assert set(wanted) == {"CosBackward0", "MulBackward0", "PowBackward0"}
    assert {op: value for op, value in one.by_op().items() if value} == pytest.approx(wanted, rel=1e-13)


@pytest.mark.parametrize("seed", range(40))
def test_programs_made_at_random(seed: int) -> None:
    drawn = random_program(seed, 9, (3, 3, 3, 2, 2))
    tensors = leaves(drawn.params)
    loss = drawn(tensors)
    if not loss.requires_grad:
        return
    torch.manual_seed(seed)
    direction = {key: torch.randn_like(tensor) for key, tensor in tensors.items()}
    result = curvature(loss, tensors, direction)
    product = hvp(loss, tensors, direction)
    expected = sum(float((product[key] * direction[key]).sum()) for key in tensors)
    assert abs(math.fsum(result.contributions.values()) - expected) <= EXACT * scale_of(result), drawn.trail
    # Entry by entry: what the structure tells is what a pass along the entry tells.
    whole = curvature(loss, tensors, per_entry=True)
    assert whole.entries is not None
    reached = [key for key in tensors if whole.entries[key]]
    if not reached:
        return
    key = max(reached, key=lambda name: tensors[name].numel())
    for entry in (0, tensors[key].numel() - 1):
        one = torch.zeros_like(tensors[key])
        one.view(-1)[entry] = 1
        alone = curvature(loss, {key: tensors[key]}, one)
        for node, value in alone.contributions.items():
            found = whole.entries[key].get(node)
            split = 0.0 if found is None else float(found.reshape(-1)[entry])
            assert abs(split - value) <= 1e-11 * (scale_of(alone) + scale_of(whole)), (drawn.trail, key, entry)


def test_matches_torchs_full_hessian_on_a_transformer() -> None:
    loss, params = CASES["transformer_block"]()
    blocks = full_hessian(loss, params)
    tensors = leaves(params)
    torch.manual_seed(1)
    e = {key: torch.randn_like(tensor) for key, tensor in tensors.items()}
    expected = sum(
        float(e[i].flatten() @ blocks[i][j].reshape(e[i].numel(), e[j].numel()) @ e[j].flatten()) for i in e for j in e
    )
    result = curvature(loss(tensors), tensors, e)
    assert abs(math.fsum(result.contributions.values()) - expected) <= 1e-11 * scale_of(result)
