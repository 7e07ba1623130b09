"""Gradient statistics: right by an independent computation, and without a trace."""

from __future__ import annotations

import gc
import math
import re
import weakref
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gradgraph
from gradgraph import annotate, trace
from gradgraph.errors import GradGraphError, InputError, ReleasedGraphError
from gradgraph.gradients import GradientStats, OutputStats, capture, gradients
from gradgraph.measure import FIGURES, figures, norm
from gradgraph.passes import observe
from tests.cases import CASES, Case, mlp

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def test_every_node_of_a_network_against_retained_gradients() -> None:
    model = mlp()
    x = torch.randn(5, 3, dtype=torch.float64)
    first = model[0](x)
    second = torch.tanh(first)
    out = model[2](second)
    loss = (out**2).sum()
    graph = trace(loss, model)
    found = gradients(graph)
    for tensor in (first, second, out):
        tensor.retain_grad()
    loss.backward()
    nodes: list[Any] = graph.live.nodes
    for tensor in (first, second, out):
        _agrees(found[nodes.index(tensor.grad_fn)], tensor.grad)
    for name, parameter in model.named_parameters():
        _agrees(found[graph.find(name)], parameter.grad)
    assert set(found) == set(graph)


def test_shared_leaf_gets_the_accumulated_gradient() -> None:
    w = torch.tensor([3.0, 4.0], requires_grad=True)
    graph = trace((w * w + w).sum())
    (stats,) = gradients(graph)[graph.find("w")].outputs
    assert stats is not None
    assert stats.max_abs == 9.0
    assert stats.mean == 8.0


def test_unreached_outputs_and_nodes_are_none_and_zero_is_not() -> None:
    x, y = torch.ones(4, requires_grad=True), torch.ones(4, requires_grad=True)
    a, b = x.split(2)
    graph = trace([(a * 0).sum(), y.sum()])
    found = gradients(graph, [torch.ones(()), None])
    split = next(key for key, data in graph.nodes(data=True) if data["op"] == "SplitBackward0")
    first, second = found[split].outputs
    assert first is not None
    assert (first.norm, first.zeros, first.numel) == (0.0, 2, 2)
    assert second is None
    assert b.grad_fn is a.grad_fn

    class Half(torch.autograd.Function):
        """Gives a gradient to its first input only."""

        @staticmethod
        def forward(ctx: Any, p: Tensor, q: Tensor) -> Tensor:
            return p + q

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Any:
            return grad, None

    graph = trace(Half.apply(x, y * 2).sum())
    found = gradients(graph)
    assert graph.find("x") in found
    assert graph.find("y") not in found
    annotate(graph, "gradient", found)
    assert graph.nodes[graph.find("y")]["gradient"] is None
    assert graph.nodes[graph.find("x")]["gradient"] == [
        {"norm": 2.0, "mean": 1.0, "max_abs": 1.0, "zeros": 0, "nan": 0, "inf": 0, "numel": 4}
    ]


def test_non_scalar_roots_take_grad_outputs() -> None:
    x = torch.ones(3, requires_grad=True)
    graph = trace([x * 2, (x * x).sum()])
    found = gradients(graph, [torch.tensor([1.0, 2.0, 3.0]), None])
    (stats,) = found[graph.find("x")].outputs
    assert stats is not None
    assert stats.mean == 6.0
    leaf = trace(x)
    assert gradients(leaf, torch.full((3,), 2.0))[0].norm == pytest.approx(12**0.5)


@pytest.mark.parametrize("build", CASES.values(), ids=CASES)
def test_named_cases(build: Any) -> None:
    case: Case = build()
    graph = trace(case.outputs, case.params, lower=case.lower)
    state = _state(graph)
    starts: list[Tensor | None] = []
    for root in graph.live.roots:
        metadata = root.node._input_metadata[root.output_nr]
        ragged = metadata.is_nested_tensor
        starts.append(None if ragged else torch.ones(metadata.shape, dtype=metadata.dtype, device=metadata.device))
    if build.__name__ == "checkpoint_reentrant":
        with pytest.raises(GradGraphError, match=r"use_reentrant=False"):
            gradients(graph, starts)
    elif build.__name__ == "vmap_leftovers":
        assert gradients(trace(case.outputs[0], case.params), torch.ones(4))
    elif not any(start is None for start in starts):
        found = gradients(graph, starts)
        assert found
        annotate(graph, "gradient", found)
        for key, stats in found.items():
            assert len(stats.outputs) == len(graph.nodes[key]["outputs"])
            for one, output in zip(stats.outputs, graph.nodes[key]["outputs"], strict=True):
                assert one is None or output["shape"] is None or one.numel == math.prod(output["shape"])
    assert _state(graph) == state


def test_hooks_are_heeded_and_left_in_place() -> None:
    x = torch.ones(2, requires_grad=True)
    y = x * 2
    calls: list[str] = []

    def times_five(gradient: Tensor) -> Tensor:
        calls.append("y")
        return gradient * 5

    y.register_hook(times_five)
    x.register_post_accumulate_grad_hook(lambda p: calls.append("accumulated"))
    graph = trace(y.sum())
    found = gradients(graph)
    assert calls == ["y"]
    assert found[graph.find("x")].max_abs == 10.0
    y.sum().backward()
    assert calls == ["y", "y", "accumulated"]
    assert len(calls) == 3


def test_grad_rng_and_retained_grads_stay() -> None:
    class Noisy(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, p: Tensor) -> Tensor:
            return p.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return grad + torch.randn(grad.shape)

    x = torch.ones(2, requires_grad=True)
    y = x * 2
    y.retain_grad()
    kept = torch.tensor([7.0, 7.0])
    x.grad, y.grad = kept, kept.clone()
    middle = y.grad
    version = kept._version
    torch.manual_seed(3)
    state = torch.get_rng_state()
    gradients(trace(Noisy.apply(y).sum()))
    assert torch.equal(torch.get_rng_state(), state)
    assert x.grad is kept
    assert kept._version == version
    assert y.grad is middle
    assert middle.tolist() == [7.0, 7.0]


def test_activations_die_after_release() -> None:
    x = torch.ones(100, requires_grad=True)
    y = x.exp()
    activation = weakref.ref(y)
    loss = (y * y).sum()
    graph = trace(loss)
    found = gradients(graph)
    gc.collect()
    gc.disable()
    try:
        del y, loss
        graph.release()
        assert activation() is None
    finally:
        gc.enable()
    assert found


def test_is_no_pass_of_the_program() -> None:
    class Refuse:
        def before(self, pass_: Any) -> None:
            raise AssertionError("seen")

        def after(self, pass_: Any) -> None:
            raise AssertionError("seen")

    x = torch.ones(2, requires_grad=True)
    graph = trace((x * x).sum())
    with observe(Refuse()):
        assert gradients(graph)


def test_double_backward_graph() -> None:
    x = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad((x**3).sum(), x, create_graph=True)
    penalty = (g**2).sum()
    graph = trace(penalty)
    stats = gradients(graph)[graph.find("x")]
    expected = torch.tensor([36.0, 288.0])
    assert stats.norm == pytest.approx(expected.norm().item())


def test_capture_sees_the_programs_own_pass_and_leaves_no_hook() -> None:
    model = mlp()
    x = torch.randn(4, 3, dtype=torch.float64)
    loss = (model(x) ** 2).sum()
    graph = trace(loss, model)
    expected = gradients(graph)
    with capture(graph) as found:
        loss.backward(retain_graph=True)
        assert not found
    assert dict(found) == dict(expected)
    weight = model[0].weight.grad
    assert weight is not None
    with capture(graph) as nothing:
        pass
    loss.backward()
    assert dict(nothing) == {}
    assert dict(found) == dict(expected)


def test_capture_sees_leaves_of_autograd_grad_and_leaves_their_hooks() -> None:
    x, y = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    y.register_hook(lambda g: g * 3)
    loss = (x * 2 + y).sum()
    graph = trace(loss)
    with capture(graph) as found:
        torch.autograd.grad(loss, [x, y])
    assert found[graph.find("x")].max_abs == 2.0
    assert found[graph.find("y")].max_abs == 3.0
    assert x._backward_hooks is None
    assert y._backward_hooks is not None
    assert len(y._backward_hooks) == 1


def test_capture_undoes_its_hooks_on_an_error_and_bears_vmap() -> None:
    x = torch.ones(3, requires_grad=True)
    y = x * x
    graph = trace(y)
    with pytest.raises(ValueError, match="mine"), capture(graph):
        raise ValueError("mine")
    with capture(graph) as found:
        torch.autograd.grad(y, x, torch.eye(3), is_grads_batched=True, retain_graph=True)
    assert found[0].outputs == [OutputStats(None, None, None, 0, 0, 0, 3)]


def test_non_finite_gradients_are_counted_and_left_out() -> None:
    x = torch.tensor([0.0, 1.0, 4.0, 9.0], dtype=torch.float64, requires_grad=True)
    graph = trace(x.sqrt(), {"x": x})
    start = torch.tensor([1.0, float("nan"), 4.0, -6.0], dtype=torch.float64)
    (stats,) = gradients(graph, start)[graph.find("x")].outputs
    assert stats == OutputStats(norm=2**0.5, mean=0.0, max_abs=1.0, zeros=0, nan=1, inf=1, numel=4)
    nothing = gradients(graph, torch.full((4,), float("nan"), dtype=torch.float64))[graph.find("x")]
    assert (nothing.norm, nothing.max_abs, nothing.nan, nothing.inf, nothing.zeros) == (None, None, 4, 0, 0)


def test_complex_gradients() -> None:
    z = torch.tensor([3 + 4j, 1 - 2j], dtype=torch.complex128, requires_grad=True)
    graph = trace((z * z.conj()).real.sum(), {"z": z})
    (stats,) = gradients(graph)[graph.find("z")].outputs
    assert stats is not None
    assert stats.norm == pytest.approx(2 * 30**0.5)
    assert stats.max_abs == pytest.approx(10.0)
    assert stats.mean == pytest.approx(4.0)
    assert stats.mean_imag == pytest.approx(2.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_figures_do_not_overflow(dtype: torch.dtype) -> None:
    large = torch.finfo(dtype).max
    tensor = torch.full((4,), large, dtype=dtype)
    result = dict(zip(FIGURES, _some(figures(tensor)).tolist(), strict=True))
    assert result["max_abs"] == large
    assert result["mean"] == pytest.approx(large)
    assert math.isinf(2 * large) or result["norm"] == pytest.approx(2 * large)
    assert math.isinf(2 * large) or norm(tensor) == pytest.approx(2 * large)
    tiny = torch.full((4,), torch.finfo(dtype).tiny, dtype=dtype)
    assert norm(tiny) == pytest.approx(2 * torch.finfo(dtype).tiny)


def test_sparse_gradients_count_what_they_leave_out_as_zero() -> None:
    table = nn.Embedding(5, 2, sparse=True)
    loss = (table(torch.tensor([1, 1, 3])) * 3).sum()
    graph = trace(loss, table)
    (stats,) = gradients(graph)[graph.find("weight")].outputs
    assert stats is not None
    assert stats.zeros == 6
    assert stats.numel == 10
    assert stats.norm == pytest.approx((2 * 36 + 2 * 9) ** 0.5)
    assert stats.mean == pytest.approx(1.8)


def test_figures_of_odd_layouts_and_of_nothing() -> None:
    assert figures(torch.empty(3, device="meta")) is None
    assert math.isnan(norm(torch.empty(3, device="meta")))
    assert norm(torch.empty(0)) == 0
    assert _some(figures(torch.empty(0))).tolist()[0] == 0
    dense = torch.tensor([[0.0, 3.0], [4.0, 0.0]])
    for tensor in (
        dense.to_sparse(),
        dense.to_sparse_csr(),
        dense.t(),
        torch.nested.nested_tensor([dense[0], dense[1]]),
    ):
        assert norm(tensor) == 5.0
        assert _some(figures(tensor)).tolist()[FIGURES.index("zeros")] == 2


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(st.floats(width=32), st.sampled_from([0.0, -0.0, float("nan"), float("inf"), 1e38])), max_size=12
    )
)
def test_figures_against_plain_python(values: list[float]) -> None:
    result = dict(zip(FIGURES, _some(figures(torch.tensor(values, dtype=torch.float32))).tolist(), strict=True))
    finite = [value for value in values if math.isfinite(value)]
    assert result["nan"] == sum(map(math.isnan, values))
    assert result["inf"] == sum(map(math.isinf, values))
    assert result["zeros"] == finite.count(0.0)
    if finite:
        assert result["norm"] == pytest.approx(math.hypot(*finite), rel=1e-6)
        assert result["max_abs"] == pytest.approx(max(map(abs, finite)), rel=1e-6)
        assert result["mean"] == pytest.approx(
            math.fsum(finite) / len(finite), rel=1e-6, abs=1e-6 * max(map(abs, finite))
        )


def test_stats_of_several_outputs_together() -> None:
    one = OutputStats(3.0, 1.0, 2.0, 1, 0, 2, 7)
    other = OutputStats(4.0, 1.0, 3.5, 2, 1, 0, 5)
    stats = GradientStats([one, None, other])
    assert (stats.norm, stats.max_abs, stats.numel, stats.zeros, stats.nan, stats.inf) == (5.0, 3.5, 12, 3, 1, 2)


def test_errors_say_what_to_do() -> None:
    x = torch.ones(3, requires_grad=True)
    y = x.exp()
    with pytest.raises(
        InputError, match=re.escape("root 0 of the graph (ExpBackward0) is a float32 tensor of shape [3],")
    ):
        gradients(trace(y))
    with pytest.raises(InputError, match=re.escape("of shape [3], but its entry of grad_outputs has [2]")):
        gradients(trace(y), torch.ones(2))
    with pytest.raises(InputError, match="grad_outputs expected one entry per root of the graph, 1 of them, got 2"):
        gradients(trace(y), [torch.ones(3), None])
    with pytest.raises(InputError, match=re.escape("is complex64; convert it with .to(torch.float32)")):
        gradients(trace(y), torch.ones(3, dtype=torch.complex64))
    graph = trace(y.sum())
    y.sum().backward()
    with pytest.raises(InputError, match=r"an earlier backward pass freed them \(at ExpBackward0\)"):
        gradients(graph)
    graph.release()
    with pytest.raises(ReleasedGraphError):
        gradients(graph)
    p = torch.ones(3, requires_grad=True)
    q = p * 1
    loss = (q * q).sum()
    q.add_(1)
    with pytest.raises(InputError, match="gradients needs a saved tensor that was changed in place since"):
        gradients(trace(loss))
    loss = checkpoint(torch.sin, p, use_reentrant=True).sum()
    with pytest.raises(GradGraphError, match="cannot look into a reentrant checkpoint"):
        gradients(trace(loss))

    def fail(_: Tensor) -> None:
        raise KeyError("the program's own")

    r = p * 1
    r.register_hook(fail)
    with pytest.raises(KeyError, match="the program's own"):
        gradients(trace(r.sum()))


def test_reachable_from_the_package() -> None:
    assert gradgraph.gradients is gradients
    assert repr(gradients(trace(torch.ones((), requires_grad=True) * 2))) == "<Gradients of 2 nodes>"


def _agrees(stats: GradientStats, expected: Tensor | None) -> None:
    assert expected is not None
    (one,) = stats.outputs
    assert one is not None
    assert one.norm == pytest.approx(expected.norm().item(), rel=1e-12)
    assert one.mean == pytest.approx(expected.mean().item(), rel=1e-12, abs=1e-15)
    assert one.max_abs == expected.abs().max().item()
    assert one.zeros == int((expected == 0).sum())
    assert one.numel == expected.numel()


def _state(graph: Any) -> Any:
    leaves = graph.live.leaves.values()
    return [
        (leaf.grad is None, leaf.requires_grad, leaf._version) for leaf in leaves
    ], torch.get_rng_state().sum().item()


def _some(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor
