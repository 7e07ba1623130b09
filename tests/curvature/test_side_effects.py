"""A Hessian leaves nothing behind, keeps nothing alive, obeys its budget, and refuses in words."""

from __future__ import annotations

import gc
import io
import math
import re
import sys
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

import gradgraph
from gradgraph import HessianOperator, curvature, gradients, hessian, hessian_diagonal, hvp, trace
from gradgraph.curvature import progress as progress_module
from gradgraph.curvature import rows as rows_module
from gradgraph.curvature.budget import budget, bytes_per_row, chunk_for, mib
from gradgraph.curvature.rows import Plan, rows_of
from gradgraph.errors import GradGraphError, InputError
from tests.curvature.losses import LOSSES, leaves

Analysis = Callable[[Tensor, Any], Any]

ANALYSES: dict[str, Analysis] = {
    "accumulate": lambda loss, params: hessian_diagonal(loss, params, method="accumulate"),
    "batched": lambda loss, params: hessian_diagonal(loss, params, method="batched"),
    "hessian": lambda loss, params: hessian(loss, params, blocks="full"),
    "curvature": lambda loss, params: curvature(loss, params, [torch.ones_like(p) for p in params.values()]),
    "curvature_entries": lambda loss, params: curvature(loss, params, per_entry=True),
    "curvature_probes": lambda loss, params: curvature(loss, params, probes=2),
    "hvp": lambda loss, params: hvp(loss, params, [torch.ones_like(p) for p in params.values()]),
}
every_analysis = pytest.mark.parametrize("analysis", ANALYSES.values(), ids=ANALYSES)


@every_analysis
def test_grad_rng_hooks_and_flags_stay(analysis: Analysis) -> None:
    torch.manual_seed(0)
    w = torch.tensor([1.0, 2.0], requires_grad=True)
    v = torch.tensor([3.0], requires_grad=True)
    grad = torch.tensor([float("nan"), 7.0])
    w.grad = grad
    bits = grad.clone().view(torch.int32)
    calls: list[str] = []

    def doubled(gradient: Tensor) -> Tensor:
        calls.append("tensor hook")
        return gradient * 2

    w.register_hook(doubled)
    w.register_post_accumulate_grad_hook(lambda p: calls.append("accumulated"))
    hidden = w * v
    hidden.retain_grad()
    middle = torch.tensor([5.0, 5.0])
    hidden.grad = middle
    loss = nn.functional.dropout(hidden**3, 0.5).sum() + (w**3).sum()
    state, version = torch.get_rng_state(), grad._version
    result = analysis(loss, {"w": w, "v": v})
    assert torch.equal(torch.get_rng_state(), state)
    assert w.grad is grad
    assert grad._version == version
    assert torch.equal(grad.view(torch.int32), bits)
    assert v.grad is None
    assert hidden.grad is middle
    assert middle.tolist() == [5.0, 5.0]
    assert calls == []  # a hook on a parameter changes its gradient, and is no part of the loss
    assert w.requires_grad
    assert v.requires_grad
    assert result
    # The loss can still be differentiated, and the hooks are back.
    loss.backward()
    assert calls == ["tensor hook", "accumulated"]


def test_hooks_on_a_parameter_do_not_change_the_result() -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    x.register_hook(lambda g: g * 10)
    for method in ("accumulate", "batched"):
        assert hessian_diagonal((x**3).sum(), x, method=method)["x"].tolist() == [6.0, 12.0]


@every_analysis
def test_hooks_are_back_after_an_error(analysis: Analysis) -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    x.grad = kept = torch.ones(2)
    x.register_hook(lambda g: g * 10)
    y = x * 1

    def fail(gradient: Tensor) -> None:
        raise KeyError("the program's own")

    loss = (y**3).sum()
    y.register_hook(fail)
    with pytest.raises(KeyError, match="the program's own"):
        analysis(loss, {"x": x})
    assert x.grad is kept
    assert x._backward_hooks is not None
    assert len(x._backward_hooks) == 1


@every_analysis
def test_tensors_die_without_the_garbage_collector(analysis: Analysis) -> None:
    w = torch.ones(50, requires_grad=True)
    hidden = w.exp()
    references = [weakref.ref(w), weakref.ref(hidden)]
    loss = (hidden * hidden).sum()
    analysis(loss, {"w": w})  # whatever torch caches on the first call is cached
    gc.collect()
    gc.disable()
    try:
        result = analysis(loss, {"w": w})
        del w, hidden, loss
        assert [reference() for reference in references] == [None, None]
        assert result
    finally:
        gc.enable()


@every_analysis
def test_works_under_no_grad(analysis: Analysis) -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    loss = (x**3).sum()
    with torch.no_grad():
        inside = analysis(loss, {"x": x})
    assert repr(inside) == repr(analysis(loss, {"x": x}))


@every_analysis
def test_bad_input(analysis: Analysis) -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    other = torch.ones(2, requires_grad=True)
    params = {"x": x}
    cases: list[tuple[Any, Any, str]] = [
        (x * 2, params, r"expected a real scalar loss, got a float32 tensor of shape \[2\].*\.sum\(\)"),
        ((x * 1j).sum(), params, r"expected a real scalar loss, got a complex64 tensor"),
        (x.detach().sum(), params, r"expected a loss with an autograd graph, got a float32 scalar that does not"),
        (3.0, params, r"expected the loss, a scalar tensor with a graph; got float"),
        ((x**2).sum(), {"other": other}, r"the loss reaches none of the parameters \('other'\)"),
        ((x**2).sum(), {"d": x.detach()}, r"none of the parameters \('d'\) requires grad; call requires_grad_\(\)"),
        ((x**2).sum(), {}, r"params holds no tensor"),
    ]
    for loss, given, message in cases:
        with pytest.raises(InputError, match=message):
            analysis(loss, given)
    z = torch.ones(2, dtype=torch.complex64, requires_grad=True)
    with pytest.raises(InputError, match=r"'z' is complex64.*of shape \[2, 2\], and use torch.view_as_complex"):
        analysis(z.abs().sum(), {"z": z})
    loss = (x.exp() ** 2).sum()
    loss.backward()
    with pytest.raises(InputError, match=r"an earlier backward pass freed them \(at PowBackward0, ExpBackward0\)"):
        analysis(loss, params)
    assert x.grad is not None


@every_analysis
def test_graphs_that_cannot_be_differentiated_twice(analysis: Analysis) -> None:
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            result: Tensor = 3 * grad * x**2
            return result

    x = torch.ones(2, 4, requires_grad=True)
    # Torch gives a gradient without a graph here, as of a linear loss.
    with pytest.raises(GradGraphError, match=r"OnceBackward cannot be: its backward is marked @once_differentiable"):
        analysis(Once.apply(x).sum(), {"x": x})
    with pytest.raises(GradGraphError, match=r"cannot look into a reentrant checkpoint.*use_reentrant=False"):
        analysis(checkpoint(torch.sin, x, use_reentrant=True).sum(), {"x": x})
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        q = x[None, None]
        flash = nn.functional.scaled_dot_product_attention(q, q, q).pow(2).sum()
    with pytest.raises(GradGraphError, match=r"cannot be differentiated again: .*flash.*SDPBackend\.MATH"):
        analysis(flash, {"x": x})
    labels, lengths = torch.tensor([[1]]), torch.tensor([2])
    ctc = nn.functional.ctc_loss(x[:, None].log_softmax(-1), labels, lengths, torch.tensor([1]))
    with pytest.raises(GradGraphError, match=r"_ctc_loss_backward"):
        analysis(ctc, {"x": x})


def test_what_torch_gets_wrong_is_refused_with_its_line() -> None:
    layer = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(3, 2))
    x = torch.randn(4, 3)
    with gradgraph.record():
        loss = layer(x).pow(2).sum()
    words = r"hessian_diagonal .* second derivative of WeightNormInterfaceBackward0 \(made at .*\) is wrong: .* g \* v"
    with pytest.raises(GradGraphError, match=words):
        hessian_diagonal(loss, layer)
    with pytest.raises(GradGraphError, match=words.replace("hessian_diagonal", "hvp")):
        hvp(loss, layer, [torch.ones_like(one) for one in layer.parameters()])
    assert hessian_diagonal(loss, {"bias": layer.bias})["bias"].tolist() == [8.0, 8.0]  # beside the way


def test_what_cannot_be_differentiated_twice_is_named_with_its_line() -> None:
    query = torch.randn(1, 2, 4, 8, requires_grad=True)
    with gradgraph.record(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
        loss = torch.nn.functional.scaled_dot_product_attention(query, query, query).sum()
    words = (
        r"FlashAttention\w*Backward0 \(made at .*test_side_effects.py:\d+ in test_\w+\) cannot be differentiated again"
    )
    with pytest.raises(GradGraphError, match=words):
        hessian_diagonal(loss, query)


@pytest.mark.parametrize("analysis", [hessian_diagonal, hessian, curvature])
def test_parameters_inside_a_reentrant_checkpoint_are_not_taken_for_unreachable(analysis: Callable[..., Any]) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    x = torch.randn(5, 3, requires_grad=True)
    hidden = torch.utils.checkpoint.checkpoint(net[:2], x, use_reentrant=True)
    assert isinstance(hidden, Tensor)
    loss = net[2](hidden).pow(2).sum()
    for params in (net, net[0]):
        with pytest.raises(GradGraphError, match=r"cannot look into a reentrant checkpoint .* use_reentrant=False"):
            analysis(loss, params)
    assert analysis(loss, net[2])  # beside it


def test_functions_with_a_name_of_their_own() -> None:
    class Named(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.name = "mine"
            ctx.save_for_backward(x)
            return x.square()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            result: Tensor = 2 * x * grad
            return result

    x = torch.tensor([1.0, 2.0], requires_grad=True)
    result = hessian_diagonal(Named.apply(x).sum(), x)
    assert result["x"].tolist() == [2.0, 2.0]
    assert "it enters through NamedBackward" in result.report["x"].reason


def test_once_differentiable_beside_the_way_does_not_matter() -> None:
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return grad

    x, y = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    loss = (x**3 * Once.apply(y)).sum()
    assert hessian_diagonal(loss, {"x": x})["x"].tolist() == [6.0, 6.0]


def test_bad_options() -> None:
    x = torch.ones(2, requires_grad=True)
    loss = (x**2).sum()
    with pytest.raises(InputError, match=r"method expected one of 'auto', 'graph', .*, got 'magic'"):
        hessian_diagonal(loss, x, method="magic")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="chunk_size expected a positive number of rows, or None; got 0"):
        hessian_diagonal(loss, x, chunk_size=0)
    with pytest.raises(InputError, match="memory expected a positive number of bytes"):
        hessian_diagonal(loss, x, memory=0)
    with pytest.raises(InputError, match='tolerance= is for the estimators, and method="auto" is exact'):
        hessian_diagonal(loss, x, tolerance=0.1)
    with pytest.raises(InputError, match=r"expected floating-point parameters, but 'steps' is int64.* \.double\(\)"):
        hessian_diagonal(loss, {"x": x, "steps": torch.ones(2, dtype=torch.int64)})
    layer = torch.nn.Linear(3, 2)
    tight = hessian_diagonal(layer(torch.randn(4, 3)).softmax(1).pow(3).sum(), layer, memory=10)
    assert re.search(r"; one needs .* B, more than the 10 B to spend$", tight.report["weight"].reason)
    with pytest.raises(InputError, match="memory expected a positive number of bytes"):
        hessian(loss, x, memory=-1)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("memory", "16MiB", r"positive number of bytes, such as 16 \* 2\*\*20, or None for the default; got '16MiB'"),
        ("memory", True, "got True"),
        ("memory", math.nan, "got nan"),
        ("chunk_size", "x", "positive number of rows, or None; got 'x'"),
        ("chunk_size", 2.5, "got 2.5"),
    ],
)
def test_sizes_of_the_wrong_type_say_what_is_expected(name: str, value: Any, words: str) -> None:
    x = torch.ones(2, requires_grad=True)
    loss = (x**2).sum()
    analyses: list[Callable[..., Any]] = [
        lambda **options: hessian(loss, x, **options),
        lambda **options: hvp(loss, x, torch.ones(2), **options),
        lambda **options: HessianOperator(loss, x)(torch.ones(2), **options),
        *(partial(hessian_diagonal, loss, x, method=method) for method in ("auto", "batched", "hutchinson")),
    ]
    if name == "memory":
        analyses += [partial(curvature, loss, x), partial(curvature, loss, x, torch.ones(2))]
    for analysis in analyses:
        with pytest.raises(InputError, match=f"{name} expected a .*{words}"):
            analysis(**{name: value})


@pytest.mark.parametrize("analysis", ["batched", "hessian", "curvature", "hvp"])
def test_a_step_between_forward_and_analysis_is_named(analysis: str) -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    loss = net(torch.randn(4, 3)).pow(2).mean()
    loss.backward(retain_graph=True)
    optimizer.step()
    words = (
        r"changed in place since the forward: a parameter by optimizer.step\(\).* Analyse before that, or run the forw"
    )
    with pytest.raises(InputError, match=words):
        ANALYSES[analysis](loss, dict(net.named_parameters()))


def test_sizes_may_be_numbers_of_any_library() -> None:
    x = torch.ones(2, requires_grad=True)
    loss = (x**2).sum()
    for options in ({"memory": 1e9}, {"memory": np.int64(10**9), "chunk_size": np.int64(1)}):
        assert hessian(loss, x, **options)["x"].tolist() == [[2.0, 0.0], [0.0, 2.0]]


def test_bytes_are_for_reading() -> None:
    assert [mib(size) for size in (1, 1023, 1024, 2**18 - 1, 2**18, 2**30)] == [
        "1 B",
        "1023 B",
        "1 KiB",
        "256 KiB",
        "0.25 MiB",
        "1.02e+03 MiB",
    ]


def test_the_budget_sets_the_chunk() -> None:
    torch.manual_seed(0)
    w = torch.randn(30, 30, requires_grad=True)
    x = torch.randn(20, 30)
    loss = torch.tanh(x @ w).pow(2).sum()
    (gradient,) = torch.autograd.grad(loss, w, create_graph=True)
    row = bytes_per_row(gradient)
    assert row > 2 * 900 * 4 + 20 * 30 * 4
    assert chunk_for(gradient, None, 10 * row)[0] == 10
    assert chunk_for(gradient, None, 10**12)[0] == 900
    assert chunk_for(gradient, 7, row)[0] == 7
    one, reason = chunk_for(gradient, None, row - 1)
    assert one == 1
    assert re.match(r"one row needs .* KiB, more than the .* KiB to spend", reason)
    result = hessian_diagonal(loss, w, method="batched", memory=10 * row)
    assert result.report["w"].chunk == 10
    assert 0 < budget(None, torch.device("cpu"), row) <= 16 * 2**20
    assert budget(None, torch.device("cpu"), 3 * 2**20) in (48 * 2**20, budget(None, torch.device("cpu"), 10**15))


def test_peak_memory_stays_within_the_budget() -> None:
    """Measured by the allocator, on a graph whose rows are all there is."""
    torch.manual_seed(0)
    w = torch.randn(20, 20, requires_grad=True)
    x = torch.randn(150, 20)
    loss = torch.tanh(torch.tanh(x @ w) @ w).pow(2).sum()
    memory = 2 * 2**20
    peak = _peak_bytes(lambda: hessian_diagonal(loss, w, method="batched", memory=memory))
    first_order = _peak_bytes(lambda: hvp(loss, w, torch.ones(20, 20)))
    assert peak - first_order < memory
    assert _peak_bytes(lambda: hessian_diagonal(loss, w, method="batched", chunk_size=400)) > 4 * peak


def test_peak_memory_of_the_graphs_structure_stays_within_the_budget() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(20, 50), torch.nn.Tanh(), torch.nn.Linear(50, 50), torch.nn.Softmax(1), torch.nn.Linear(50, 9)
    )
    loss = torch.nn.functional.cross_entropy(net(torch.randn(200, 20)), torch.arange(200) % 9)
    direction = {name: torch.ones_like(one) for name, one in net.named_parameters()}
    memory = 4 * 2**20
    first_order = _peak_bytes(lambda: hvp(loss, net, direction))
    assert _peak_bytes(lambda: hessian_diagonal(loss, net, memory=memory)) - first_order < memory
    assert _peak_bytes(lambda: hessian_diagonal(loss, net, chunk_size=400)) - first_order > memory


def _peak_bytes(run: Callable[[], Any]) -> int:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def test_running_out_of_memory_halves_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    batch = rows_module._WAYS[0]

    def scarce(gradient: Tensor, inputs: Any, basis: Tensor) -> Any:
        sizes.append(len(basis))
        if len(basis) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate more than there is.")
        return batch(gradient, inputs, basis)

    monkeypatch.setattr(rows_module, "_WAYS", (scarce,))
    x = torch.arange(1.0, 9.0, requires_grad=True)
    result = hessian_diagonal((x**3).sum(), x, method="batched", chunk_size=8)
    assert result["x"].tolist() == [6.0 * i for i in range(1, 9)]
    assert sizes == [8, 4, 2, 2, 2, 2]
    assert result.report["x"].chunk == 2
    assert result.report["x"].reason == "memory ran out at 4 rows a pass"


def test_a_row_that_does_not_fit_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*args: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    monkeypatch.setattr(rows_module, "_WAYS", (none_left,))
    monkeypatch.setattr(rows_module, "_alone", none_left)
    x = torch.ones(4, requires_grad=True)
    with pytest.raises(GradGraphError, match="does not fit into memory"):
        hessian_diagonal((x**3).sum(), x, method="batched")


def test_a_wrong_batching_rule_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = rows_module._WAYS[0]

    def wrong(gradient: Tensor, inputs: Any, basis: Tensor) -> Any:
        return tuple(row if row is None else row * 1.01 for row in batch(gradient, inputs, basis))

    monkeypatch.setattr(rows_module, "_WAYS", (wrong, wrong))
    x = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    result = hessian_diagonal((x**3).sum(), x, method="batched")
    assert result["x"].tolist() == [6.0, 12.0, 18.0]
    assert result.report["x"].reason == "one row a pass: vmap gave another row than a pass of its own"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_of_rounding_noise_are_no_wrong_batching_rule(dtype: torch.dtype) -> None:
    """The loss does not depend on a bias before a batch norm: what its rows hold is rounding."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4)).to(dtype)
    loss = nn.functional.cross_entropy(net(torch.randn(8, 2, 6, 6, dtype=dtype)), torch.randint(0, 4, (8,)))
    estimated = hessian_diagonal(loss, net, method="hutchinson", probes=50).report
    batched = hessian_diagonal(loss, net, method="batched").report
    sizes = {name: tensor.numel() for name, tensor in net.named_parameters()}
    assert {name: one.chunk for name, one in batched.items()} == sizes
    for one in (*estimated.values(), *batched.values()):
        assert one.chunk > 1
        assert "a row, 16 MiB to spend" in one.reason


def test_group_norm_needs_no_loop() -> None:
    """torch's is_grads_batched raises on it; functorch's vmap does not."""
    torch.manual_seed(0)
    loss, params = LOSSES["conv_group_norm"]()
    tensors = leaves(params)
    value = loss(tensors)
    report = hessian_diagonal(value, tensors, method="batched").report
    assert all(report[name].chunk == tensor.numel() for name, tensor in tensors.items())


def test_custom_functions_are_batched_where_torch_can() -> None:
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            result: Tensor = 2 * grad * x
            return result

    x = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    result = hessian_diagonal(Square.apply(x).pow(2).sum(), x)
    assert result["x"].tolist() == [12.0, 48.0, 108.0]
    assert result.report["x"].chunk == 3


def test_rows_come_in_order_and_whole() -> None:
    x = torch.arange(1.0, 6.0, requires_grad=True)
    (gradient,) = torch.autograd.grad((x**3).sum(), x, create_graph=True)
    got = [
        (start, rows[0].tolist())
        for start, rows in rows_of(gradient, [x], Plan(2, ""), lambda: None)
        if rows[0] is not None
    ]
    assert [start for start, _ in got] == [0, 2, 4]
    assert [row for _, rows in got for row in rows] == torch.diag(6 * x.detach()).tolist()


def test_progress_is_shown_when_asked_for_and_not_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "_DELAY", 0)
    x = torch.ones(3, requires_grad=True)
    loss = (x**3).sum()
    for wanted, shown in ((True, True), (False, False), (None, False)):
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        hessian_diagonal(loss, x, progress=wanted)
        assert ("hessian diagonal" in stream.getvalue()) == shown


@pytest.mark.parametrize("mode", ["inference_mode", "no_grad", "autocast"])
def test_modes_around_the_call_change_no_number(mode: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    loss = net(torch.randn(4, 2)).square().mean()
    around: Any = {
        "inference_mode": torch.inference_mode,
        "no_grad": torch.no_grad,
        "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    }[mode]
    expected = numbers(loss, net)
    with around():
        assert numbers(loss, net) == expected
    assert any(any(values) for values in expected)


def numbers(loss: torch.Tensor, net: nn.Module) -> list[list[float]]:
    """All that the analyses say of `loss`."""
    ones = {name: torch.ones_like(p) for name, p in net.named_parameters()}
    results = [hessian_diagonal(loss, net, method=method) for method in ("batched", "accumulate")]
    found = [tensor for result in (*results, hvp(loss, net, ones), hessian(loss, net)) for tensor in result.values()]
    norms = [one.norm or 0.0 for one in gradients(trace(loss, net)).values()]
    return [*(tensor.flatten().tolist() for tensor in found), norms]


def test_meta_parameters_are_refused() -> None:
    net = nn.Linear(2, 2, device="meta")
    with pytest.raises(InputError, match="hvp expected parameters with values, but 'weight' is on the meta device"):
        hvp(net(torch.ones(1, 2, device="meta")).sum(), net, list(net.parameters()))
