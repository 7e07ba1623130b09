"""What a `Curvature` tells: by module and line, Gauss-Newton's part, in pictures; and what `curvature` refuses."""

from __future__ import annotations

import json
import math
import pickle
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.nn import functional

import gradgraph
from gradgraph import annotate, curvature, hessian_diagonal, record, trace
from gradgraph.curvature import Curvature
from gradgraph.curvature.split_check import Check
from gradgraph.curvature.split_pass import SplitPass
from gradgraph.curvature.split_rows import SplitRows
from gradgraph.errors import GradGraphError, InputError
from gradgraph.graph import AutogradGraph
from gradgraph.readwrite import read_json, write_json


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh())
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.body(x))
        return result


def data(seed: int = 0) -> tuple[Net, Tensor, Tensor]:
    torch.manual_seed(seed)
    return Net().double(), torch.randn(6, 3).double(), torch.randint(0, 2, (6,))


def shown(graph: AutogradGraph) -> dict[int, Any]:
    return {key: data["curvature"] for key, data in graph.nodes.items()}


def along(params: Any) -> list[Tensor]:
    return [torch.randn_like(one) for one in params]


def recorded() -> tuple[Net, Curvature]:
    net, x, y = data()
    with record():
        logits = net(x)
        loss = functional.cross_entropy(logits, y)
    return net, curvature(loss, net, along(net.parameters()))


def test_sums_by_module_line_and_operation() -> None:
    _, result = recorded()
    for sums in (result.by_module(), result.by_source(), result.by_op()):
        assert math.fsum(sums.values()) == pytest.approx(result.total, rel=1e-12)
        sizes = [abs(value) for value in sums.values()]
        assert sizes == sorted(sizes, reverse=True)
    modules = result.by_module()
    assert set(modules) == {"body.0", "body.1", "body.2", "body.3", "head", "(no module)"}
    tanhs = result.by_op()["TanhBackward0"]
    assert modules["body.1"] + modules["body.3"] == pytest.approx(tanhs, rel=1e-12)
    assert modules["(no module)"] == pytest.approx(result.by_op()["LogSoftmaxBackward0"], rel=1e-12)
    lines = [line for line, value in result.by_source().items() if value]
    assert len(lines) == 2
    assert all("test_split_result.py:" in line for line in lines)


@pytest.mark.parametrize("is_recorded", [True, False])
def test_a_penalty_on_weights_is_no_part_of_their_modules(is_recorded: bool) -> None:
    net, x, y = data()
    with record() if is_recorded else nullcontext():
        plain = functional.cross_entropy(net(x), y)
        loss = plain + sum(weight.pow(2).sum() for weight in net.parameters())
    result = curvature(loss, net)
    penalty = 2 * sum(weight.numel() for weight in net.parameters())
    assert result.by_op()["PowBackward0"] == pytest.approx(penalty)
    graph = trace(loss, net)
    powers = {data["module"] for _, data in graph.nodes(data=True) if data["op"] == "PowBackward0"}
    if is_recorded:
        others = result.by_op()["LogSoftmaxBackward0"]
        assert result.by_module()["(no module)"] == pytest.approx(penalty + others)
        assert powers == {None}
    else:  # whose parameters it uses is all that is known
        assert powers == {"body.0", "body.2", "head"}


def test_without_recording_lines_are_not_known() -> None:
    net, x, y = data()
    result = curvature(functional.cross_entropy(net(x), y), net, along(net.parameters()))
    assert set(result.by_source()) == {"(no line)"}
    assert {"body.0", "body.2", "head"} <= set(result.by_module())  # where a module's own parameters are used
    assert result.gauss_newton is None
    assert result.residual is None


def test_gauss_newton_is_the_curvature_of_the_loss_over_the_output() -> None:
    net, x, y = data()
    logits = net(x)
    loss = functional.cross_entropy(logits, y)
    params = dict(net.named_parameters())
    e = {name: torch.randn_like(p) for name, p in params.items()}
    result = curvature(loss, net, e, outputs=logits)

    def model(*values: Tensor) -> Tensor:
        out: Tensor = torch.func.functional_call(net, dict(zip(params, values, strict=True)), (x,))
        return out

    _, moved = torch.autograd.functional.jvp(model, tuple(params.values()), tuple(e.values()))
    inner: Any = torch.autograd.functional.hvp(lambda z: functional.cross_entropy(z, y), logits.detach(), moved)
    assert result.gauss_newton == pytest.approx(float((inner[1] * moved).sum()), rel=1e-12)
    assert result.residual is not None
    assert result.gauss_newton is not None
    assert result.gauss_newton + result.residual == pytest.approx(result.total, rel=1e-12)
    assert abs(result.residual) > 1e-3
    # The whole loss is before its own result, and all is after the input.
    assert curvature(loss, net, e, outputs=[loss]).gauss_newton == 0.0
    first = net.body[0](x)
    whole = functional.cross_entropy(net.head(net.body[1:](first)), y)
    assert curvature(whole, [first], along([first]), outputs={"z": first}).residual == 0.0


def test_no_gauss_newton_part_where_an_input_bypasses_the_model() -> None:
    net, x, y = data()
    x.requires_grad_()
    params = {"x": x, **dict(net.named_parameters())}
    with record():
        logits = net(x)
        plain = functional.cross_entropy(logits, y)
        loss = plain + x.pow(3).sum()
    assert curvature(plain, params).gauss_newton is not None
    assert curvature(loss, params).gauss_newton is None
    assert curvature(loss, params).graph.graph["curvature"]["residual"] is None
    assert curvature(loss, net).gauss_newton is not None  # x is then a constant
    asked = curvature(loss, params, outputs=logits)
    assert asked.gauss_newton == pytest.approx(curvature(plain, params).gauss_newton)
    assert asked.residual == pytest.approx(asked.total - (asked.gauss_newton or 0.0))


def test_gauss_newton_is_known_of_a_recorded_model() -> None:
    net, x, y = data()
    with record():
        logits = net(x)
        loss = functional.cross_entropy(logits, y)
        penalised = loss + sum((p**2).sum() for p in net.parameters())
        inside = net(x).pow(2).sum()
        (slope,) = torch.autograd.grad(inside, net.head.weight, create_graph=True)
    e = along(net.parameters())
    expected = curvature(loss, net, e, outputs=logits)
    assert curvature(loss, net, e).gauss_newton == expected.gauss_newton
    assert curvature(loss, {"w": net.body[0].weight}, e[:1]).gauss_newton is not None
    # Weight decay takes no output in: it is no part of Gauss-Newton's.
    assert curvature(penalised, net, e).gauss_newton == pytest.approx(expected.gauss_newton)
    assert curvature(slope.pow(2).sum(), net, e).gauss_newton is None  # what is the output of a gradient?
    with record():
        nets = nn.ModuleList([net, Net().double()])
        both = nets[0](x).pow(2).sum() + nets[1](x).pow(2).sum()
    assert curvature(both, nets, along(nets.parameters())).gauss_newton is None


def test_a_loss_that_is_computed_in_the_model_has_no_known_output() -> None:
    class WithLoss(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).pow(2).sum()

    torch.manual_seed(0)
    net = WithLoss().double()
    with record():
        loss = net(torch.randn(4, 3).double())
    assert curvature(loss, net, along(net.parameters())).gauss_newton is None


def test_annotates_graphs_of_the_same_loss(tmp_path: Path) -> None:
    net, x, y = data()
    loss = functional.cross_entropy(net(x), y)
    result = curvature(loss, net, along(net.parameters()))
    assert not result.graph.is_live
    assert result.graph.graph["curvature"]["total"] == result.total
    assert {k: v for k, v in shown(result.graph).items() if v is not None} == result.contributions
    graph = trace(loss, net)
    annotate(graph, "curvature", result)
    assert shown(graph) == shown(result.graph)
    assert all(graph.nodes[key]["curvature"] is None for key in graph.leaves())
    # In a graph with other keys, too, as long as its nodes are live.
    more = trace([net.head.weight.sum(), loss], net)
    annotate(more, "curvature", result)
    assert sum(value for value in shown(more).values() if value) == pytest.approx(result.total)
    write_json(graph, tmp_path / "graph.json")
    loaded = read_json(tmp_path / "graph.json")
    annotate(loaded, "curvature", pickle.loads(pickle.dumps(result)))
    assert shown(loaded) == shown(graph)
    json.dumps(dict(result.graph.nodes.items()))
    with pytest.raises(InputError, match=r"none of the .* operations of this curvature is in the graph"):
        annotate(trace(net(x).sum()), "curvature", result)


def test_the_repr_is_a_bounded_table() -> None:
    _, result = recorded()
    text = repr(result)
    assert text.startswith(f"<Curvature: curvature along one direction {result.total:.6g}: Gauss-Newton ")
    assert "LogSoftmaxBackward0" in text
    assert "body.1" in text
    assert "operations add nothing" in text
    magnitude = math.fsum(map(abs, result.contributions.values()))
    assert result.magnitude == pytest.approx(magnitude, rel=1e-12)
    assert magnitude > 1.1 * abs(result.total)
    share = 100 * result.by_op()["LogSoftmaxBackward0"] / magnitude
    assert share > 0 > result.total
    assert f" {share:+.1f} %  LogSoftmaxBackward0" in text
    assert text.endswith(f"\nshares of {magnitude:.3g}, the sum of all magnitudes")
    x = torch.ones(3, dtype=torch.float64, requires_grad=True)
    y = x
    for _ in range(40):
        y = torch.sin(y)
    long = curvature(y.sum(), x, torch.ones(3).double())
    assert len(repr(long).splitlines()) == 19
    assert "… and 25 more: " in repr(long)
    assert repr(curvature(x.sum(), x)) == "<Curvature: trace of the Hessian 0>\n1 operation adds nothing"


def test_the_trace_and_its_estimate() -> None:
    net, x, y = data()
    loss = functional.cross_entropy(net(x), y)
    exact = curvature(loss, net)
    diagonal = hessian_diagonal(loss, net, method="batched")
    assert exact.total == pytest.approx(sum(float(one.sum()) for one in diagonal.values()), rel=1e-12)
    assert exact.of == "trace"
    assert exact.stderr is None
    assert exact.entries is exact.diagonal is None
    estimate = curvature(loss, net, probes=400, generator=torch.Generator().manual_seed(3))
    assert estimate.stderr is not None
    assert 0 < estimate.stderr < abs(exact.total) / 2
    assert abs(estimate.total - exact.total) < 4 * estimate.stderr
    assert math.fsum(estimate.contributions.values()) == pytest.approx(estimate.total, rel=1e-12)
    assert estimate.contributions.keys() == exact.contributions.keys()
    # The same generator gives the same numbers, however they are chunked; and draws go on.
    again = [curvature(loss, net, probes=20, generator=torch.Generator().manual_seed(3), memory=m) for m in (1, None)]
    assert again[0].total == pytest.approx(again[1].total, rel=1e-13)
    generator = torch.Generator().manual_seed(3)
    one, two = (curvature(loss, net, probes=20, generator=generator) for _ in range(2))
    assert one.total == again[1].total
    assert two.total != one.total
    assert curvature(loss, net, probes=20).total == curvature(loss, net, probes=20).total
    assert "(20 probes)" in repr(one)


@pytest.mark.parametrize("memory", [1, 20_000, None])
def test_entries_do_not_depend_on_the_memory(memory: int | None) -> None:
    net, x, y = data()
    loss = functional.cross_entropy(net(x), y)
    result = curvature(loss, net, per_entry=True, memory=memory)
    expected = hessian_diagonal(loss, net, method="batched")
    assert result.entries is not None
    assert result.diagonal is not None
    for name, values in expected.items():
        torch.testing.assert_close(result.diagonal[name], values, rtol=1e-11, atol=1e-13)
        parts: Tensor = sum(result.entries[name].values(), torch.zeros_like(values))
        torch.testing.assert_close(parts, values, rtol=1e-11, atol=1e-13)
        assert all(not one.requires_grad and one.shape == values.shape for one in result.entries[name].values())
    for key, value in result.contributions.items():
        own = [float(entries[key].sum()) for entries in result.entries.values() if key in entries]
        assert math.fsum(own) == pytest.approx(value, abs=1e-13)


def test_inputs_intermediate_tensors_and_edges() -> None:
    net, x, y = data()
    x.requires_grad_()
    hidden = net.body(x)
    loss = functional.cross_entropy(net.head(hidden), y)
    v = torch.randn_like(hidden)
    reference = curvature(loss, {"hidden": hidden}, v)
    by_hand: Any = torch.autograd.functional.hvp(lambda h: functional.cross_entropy(net.head(h), y), hidden.detach(), v)
    assert reference.total == pytest.approx(float((by_hand[1] * v).sum()), rel=1e-12)
    edge = get_gradient_edge(hidden)
    for params in ({"hidden": edge}, edge, [("hidden", edge)], (one for one in [edge])):
        assert curvature(loss, params, v).total == reference.total
    assert curvature(loss, get_gradient_edge(x), torch.ones_like(x)).total == pytest.approx(
        curvature(loss, x, torch.ones_like(x)).total
    )
    # A tensor behind another one: its tangent has a part of its own, and one from what it was made of.
    weight = net.get_parameter("body.0.weight")
    e = {"weight": torch.randn_like(weight), "hidden": v}
    both = curvature(loss, {"weight": weight, "hidden": hidden}, e)
    product = gradgraph.hvp(loss, {"weight": weight, "hidden": hidden}, e)
    assert both.total == pytest.approx(sum(float((product[k] * e[k]).sum()) for k in e), rel=1e-12)
    assert math.fsum(both.contributions.values()) == pytest.approx(both.total, rel=1e-12)
    with pytest.raises(InputError, match="output 0 of MulBackward0, which the loss does not depend on"):
        curvature(loss, get_gradient_edge(x * 2))
    shifted = hidden + 1
    with pytest.raises(InputError, match=r"nothing in the graph keeps that tensor\. Pass the tensor itself instead"):
        curvature((shifted * 2).sum(), get_gradient_edge(shifted))


class TwiceTheSame(torch.autograd.Function):
    """Hands one and the same tensor to both of its inputs."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        return a + b

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        same = grad * 1
        return same, same


class Dot(torch.autograd.Function):
    """Its gradients are tensors of the forward as they are; it takes for granted that its result is the loss."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return (a * b).sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        return b, a


def test_adjoints_that_are_one_tensor_are_told_apart() -> None:
    torch.manual_seed(0)
    a, b = (torch.randn(4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    e = along([a, b])
    for custom, plain in (
        (TwiceTheSame.apply(a.sin(), b.cos()).pow(3).sum(), (a.sin() + b.cos()).pow(3).sum()),
        (TwiceTheSame.apply(a, b.cos()).pow(3).sum(), (a + b.cos()).pow(3).sum()),
        (Dot.apply(a, b), (a * b).sum()),
        (Dot.apply(a.sin(), b.exp()), (a.sin() * b.exp()).sum()),
    ):
        one, other = curvature(custom, [a, b], e).by_op(), curvature(plain, [a, b], e).by_op()
        found = {op.replace("DotBackward", "MulBackward0"): value for op, value in one.items() if value}
        assert found == pytest.approx({op: value for op, value in other.items() if value}, rel=1e-12)


class Clipped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.clamp(-0.1, 0.1)


def test_a_backward_that_is_not_the_gradient_is_named() -> None:
    torch.manual_seed(0)
    x = torch.tensor([0.05, -0.1, 0.7], dtype=torch.float64, requires_grad=True)
    words = r"parts sum to .*, and the Hessian gives .*: the backward of ClippedBackward gives something else than the"
    with pytest.raises(GradGraphError, match=words):
        curvature(3 * Clipped.apply(x.sin()).pow(3).sum(), x, along([x]))
    y = x.sin()
    y.register_hook(lambda g: g * 2)
    with pytest.raises(GradGraphError, match="a hook on the result of SinBackward0 changes its gradient"):
        curvature(y.pow(3).sum(), x, along([x]))
    z = x.sin()
    z.register_hook(lambda g: g + torch.rand_like(g) * g)
    with pytest.raises(GradGraphError, match="curvature cannot split this loss"):
        curvature(z.pow(3).sum(), x, along([x]))


def test_a_hook_that_mixes_samples_does_not_deceive_the_structure() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    hidden = net[0](torch.randn(6, 3).double())
    loss = functional.cross_entropy(net[1:](hidden).tanh(), torch.arange(6) % 2)
    expected = hessian_diagonal(loss, net, method="batched")
    whole = curvature(loss, net, per_entry=True)
    assert whole.diagonal is not None
    for name, values in expected.items():
        torch.testing.assert_close(whole.diagonal[name], values, rtol=1e-11, atol=1e-13)
    # Linear hooks are part of the Hessian as autograd has it; all rows, one by one, are right about them.
    for hook in (lambda g: g.flip(0), lambda g: 2 * g):
        handle = hidden.register_hook(hook)
        expected = hessian_diagonal(loss, net, method="batched")
        whole = curvature(loss, net, per_entry=True)
        handle.remove()
        assert whole.diagonal is not None
        for name, values in expected.items():
            torch.testing.assert_close(whole.diagonal[name], values, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("turned", [lambda w: w.t(), lambda w: w.view(4, 3).transpose(0, 1)])
def test_a_hook_on_the_way_to_a_weight_does_not_deceive_the_structure(turned: Any) -> None:
    torch.manual_seed(0)
    weight = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    other = turned(weight)
    other.register_hook(lambda g: 2 * g)
    loss = (torch.randn(5, 3).double() @ other).exp().pow(2).mean()
    expected = hessian_diagonal(loss, weight, method="batched")["weight"]
    whole = curvature(loss, weight, per_entry=True)
    assert whole.diagonal is not None
    torch.testing.assert_close(whole.diagonal["weight"], expected, rtol=1e-11, atol=1e-13)


def test_a_straight_through_estimator_is_split_as_autograd_sees_it() -> None:
    class Rounded(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.round()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return grad

    x = torch.tensor([0.4, 1.7], dtype=torch.float64, requires_grad=True)
    result = curvature(Rounded.apply(x * x).pow(2).sum(), x, torch.ones(2).double())
    by_op = result.by_op()
    value = x.detach()
    assert by_op["PowBackward0"] == pytest.approx(float((2 * (2 * value) ** 2).sum()))
    assert by_op["MulBackward0"] == pytest.approx(float((4 * (value * value).round()).sum()))
    assert by_op["RoundedBackward"] == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rounding_is_no_error(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layers = [layer for _ in range(6) for layer in (nn.Linear(16, 16), nn.LayerNorm(16), nn.Tanh())]
    net = nn.Sequential(*layers, nn.Linear(16, 1)).to(dtype)
    loss = net(torch.randn(32, 16, dtype=dtype)).float().pow(2).mean().sqrt()
    result = curvature(loss, net, along(net.parameters()))
    scale = math.fsum(map(abs, result.contributions.values()))
    assert abs(math.fsum(result.contributions.values()) - result.total) < torch.finfo(dtype).eps * scale * 10
    curvature(loss, net, probes=3)


def test_autocast_is_no_error() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(*[layer for _ in range(5) for layer in (nn.Linear(16, 16), nn.Tanh())])
    with torch.autocast("cpu", torch.bfloat16):
        loss = net(torch.randn(8, 16)).float().pow(2).mean()
    assert math.isfinite(curvature(loss, net, along(net.parameters())).total)


def test_what_rounding_leaves_of_nothing_is_no_error() -> None:
    """A bias before batch norm has no curvature: all that is left of it is rounding, of which nothing is to be said."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Softplus(), nn.Linear(4, 1)).double()
    loss = net(torch.randn(7, 3).double()).pow(2).mean().sqrt()
    result = curvature(loss, {"bias": net[0].bias}, per_entry=True)
    assert abs(result.total) < 1e-14


def test_complex_tensors_inside() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    z = torch.view_as_complex(x)
    loss = (torch.fft.fft(z.exp()) * z.conj()).abs().pow(3).sum()
    e = along([x])
    result = curvature(loss, x, e)
    product = gradgraph.hvp(loss, x, e)
    assert result.total == pytest.approx(float((product["x"] * e[0]).sum()), rel=1e-12)
    assert math.fsum(result.contributions.values()) == pytest.approx(result.total, rel=1e-12)


def test_not_finite_curvature_is_shown_where_it_arises() -> None:
    x = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    result = curvature((x + x.abs().sqrt()).exp().sum(), x, torch.ones(2).double())
    assert math.isnan(result.total)
    assert math.isnan(result.by_op()["SqrtBackward0"])
    assert "nan" in repr(result)


def test_a_split_row_with_zero_times_infinity_is_nan() -> None:
    """As the page says: 0 times the infinite slope of the root is what its result moves by."""
    x = torch.tensor([0.0, 4.0], dtype=torch.float64, requires_grad=True)
    result = curvature(x.sqrt().sum(), x, per_entry=True)
    assert result.diagonal is not None
    assert result.diagonal["x"][0] == -math.inf
    assert math.isnan(result.diagonal["x"][1])
    assert math.isnan(result.total)
    assert curvature(x.sqrt().sum(), x, torch.tensor([1.0, 1.0]).double()).total == -math.inf


def test_constant_and_linear_losses() -> None:
    a, b = (torch.ones(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    for options in ({}, {"probes": 3}, {"per_entry": True}):
        result = curvature((a * 3).sum(), a, **options)
        assert result.total == 0.0
        assert set(result.contributions.values()) == {0.0}
    ones = torch.ones(3).double()
    assert curvature((a * b).sum(), {"a": a}, ones).total == 0.0
    assert curvature((a * b).sum(), {"a": a, "b": b}, [ones, ones]).by_op()["MulBackward0"] == 6.0
    leaf = torch.tensor(2.0, requires_grad=True)
    assert curvature(leaf, leaf).contributions == {}


def test_options_that_exclude_each_other() -> None:
    x = torch.ones(2, requires_grad=True)
    loss = (x**2).sum()
    v = torch.ones(2)
    for given, words in (
        ({"direction": v, "probes": 3}, "probes is for the trace, so expected no direction"),
        ({"direction": v, "per_entry": True}, "per_entry is for the trace, so expected no direction"),
        ({"probes": 3, "per_entry": True}, "per_entry splits the exact diagonal, and probes estimate the trace"),
        ({"probes": 0}, "probes expected a whole number, 1 or more .2 for a standard error., or None for .*; got 0"),
        ({"probes": 2, "generator": 3}, r"generator expected a torch.Generator, such as .*; got 3"),
        ({"direction": "gradient"}, r"direction expected a tensor for each of 'x': .*; got 'gradient'"),
        ({"direction": 2.0}, r"direction expected a tensor for each of 'x': .*; got 2.0"),
        (
            {"direction": v.double()},
            r"direction's tensor for 'x' expected float32 .*; convert it: .to\(torch.float32\)",
        ),
        ({"probes": "7"}, "probes expected a whole number, .*; got '7'"),
        ({"probes": 2.5}, "got 2.5"),
        ({"direction": torch.ones(3)}, "expected float32 of shape .2., got|expected .* of shape .2. on cpu, got"),
        ({"direction": torch.ones(4, 2)}, "splits along one direction, got 4 vectors at once"),
        ({"direction": v, "outputs": x * 3}, "the loss depends on none of outputs"),
        ({"direction": v, "outputs": torch.ones(2)}, "outputs is a float32 tensor of shape .2. that does not require"),
        ({"memory": 0}, "memory expected a positive number of bytes"),
    ):
        with pytest.raises(InputError, match=words):
            curvature(loss, x, **given)


def test_a_single_probe_has_no_spread() -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    result = curvature((x**3).sum(), x, probes=1)
    assert result.total == pytest.approx(18.0)  # the Hessian is diagonal: any signs give its trace
    assert result.stderr is not None
    assert math.isnan(result.stderr)
    assert "± nan (1 probe)" in str(result)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_noise_is_no_wrong_batching_rule(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss does not depend on a bias before a batch norm: its parts are rounding."""
    kept: list[SplitRows] = []

    def made(split: SplitPass, reset: Callable[[], None], check: Check) -> SplitRows:
        kept.append(SplitRows(split, reset, check))
        return kept[-1]

    monkeypatch.setattr(sys.modules["gradgraph.curvature.split_watched"], "SplitRows", made)
    for seed in range(3):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4)).to(dtype)
        loss = nn.functional.cross_entropy(net(torch.randn(8, 2, 6, 6, dtype=dtype)), torch.randint(0, 4, (8,)))
        for options in ({"per_entry": True}, {"probes": 20}):
            curvature(loss, {"bias": net[0].bias}, **options)
    assert [rows.alone for rows in kept] == [None] * 6


def test_a_wrong_batching_rule_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = torch.func.vmap

    def wrong(*args: Any, **options: Any) -> Callable[..., Any]:
        def run(*given: Any) -> Any:
            totals, parts = batch(*args, **options)(*given)
            return totals * 1.01, parts * 1.01

        return run

    x = torch.tensor([1.0, 2.0], requires_grad=True)
    loss = x.prod() ** 2
    expected = curvature(loss, x, probes=3)
    monkeypatch.setattr(torch.func, "vmap", wrong)
    assert curvature(loss, x, probes=3).contributions == pytest.approx(expected.contributions)


def test_the_picture_shows_shares(tmp_path: Path) -> None:
    net, result = recorded()
    gradgraph.render(result.graph, tmp_path / "curvature.svg", color="curvature")
    drawn = (tmp_path / "curvature.svg").read_text()
    assert f"{result.by_op()['LogSoftmaxBackward0']:+.3g}"[:5] in drawn
    del net
