"""The ledger tells what each pass added to .grad, and changes nothing."""

from __future__ import annotations

import gc
import re
import threading
import weakref
from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gradgraph
from gradgraph.errors import InputError
from gradgraph.ledger import watch
from gradgraph.passes import unobserved

pytestmark = pytest.mark.filterwarnings("ignore:Using backward\\(\\) with create_graph=True")


def test_retained_graph_story() -> None:
    inp = torch.eye(4, 5, requires_grad=True)
    out = (inp + 1).pow(2).t()
    with watch(inp) as ledger:
        for number in range(3):
            if number == 2:
                assert inp.grad is not None
                inp.grad.zero_()
            out.backward(torch.ones_like(out), retain_graph=True)
    row = 2 * (torch.eye(4, 5) + 1)
    for number, factor in ((1, 1), (2, 2), (3, 1)):
        assert torch.equal(_some(ledger.contribution("inp", number)), row)
        assert torch.equal(_some(ledger.total("inp", number)), factor * row)
    assert [entry.event for entry in ledger["inp"]] == [None, None, "zeroed"]
    assert [entry.polluted for entry in ledger["inp"]] == [False, True, False]


def test_orders_of_a_power() -> None:
    x = torch.tensor(-2.0, requires_grad=True)
    value: Tensor = 2 * x**3
    seen = [value.item()]
    with watch(x) as ledger:
        for _ in range(4):
            value.backward(retain_graph=True, create_graph=True)
            assert x.grad is not None
            value = x.grad.clone()
            seen.append(value.item())
            x.grad = None
    assert seen == [-16, 24, -24, 12, 0]
    assert [float(_some(entry.contribution)) for entry in ledger["x"]] == [24, -24, 12, 0]
    assert [entry.event for entry in ledger["x"]] == [None, "set to None", "set to None", "set to None"]


def test_a_double_backward_that_adds_nothing_leaves_what_was_stale() -> None:
    torch.manual_seed(0)
    hidden, head = nn.Linear(2, 5).double(), nn.Linear(5, 1).double()
    x = torch.ones(2, dtype=torch.float64, requires_grad=True)
    f = head(torch.relu(hidden(x**2)))
    with watch({"x": x, "W": hidden.weight, "b": hidden.bias}) as ledger:
        f.backward(create_graph=True)
        assert x.grad is not None
        gx = x.grad.clone()
        x.grad.zero_()
        for i in range(2):
            gx[i].backward(retain_graph=True)
        (gw,) = torch.autograd.grad(f, hidden.weight, create_graph=True)
        (gw**2).sum().backward()
    assert len(ledger.passes) == 4  # autograd.grad accumulates nothing
    last = ledger["W"][-1]
    assert torch.count_nonzero(_some(last.contribution)) == 0
    assert last.contribution_norm == 0
    torch.testing.assert_close(_some(last.total), 3 * gw.detach())  # 1 from f, and in column i 2 from row i
    for i in range(2):
        row = _some(ledger.contribution("x", 2 + i))
        torch.testing.assert_close(row, torch.diag(gx.detach())[i])
        torch.testing.assert_close(_some(ledger.contribution("W", 2 + i))[:, i], 2 * gw.detach()[:, i])
    assert last.polluted


def test_summing_unzeroed_passes_is_no_hessian_diagonal_but_contributions_are() -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    (g,) = torch.autograd.grad(x[0] ** 2 * x[1] ** 2, x, create_graph=True)
    with watch(x) as ledger:
        for i in range(2):
            g[i].backward(retain_graph=True)
    assert [float(_some(ledger.contribution("x", i + 1))[i]) for i in range(2)] == [8.0, 2.0]
    assert float(_some(ledger.total("x", 2))[1]) == 10.0


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.sampled_from(["pass", "none", "zero", "data_zero", "halve", "data_halve", "replace", "grad"]), max_size=8
    )
)
def test_any_sequence_of_passes_and_changes(steps: list[str]) -> None:
    """Against a model of .grad; and .grad is what it is without a ledger."""
    x = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    twin = x.detach().clone().requires_grad_()
    total: Tensor | None = None
    event: str | None = None
    expected: list[tuple[Tensor, str | None]] = []
    changes: dict[str, Callable[[Tensor], Any]] = {
        "none": lambda p: setattr(p, "grad", None),
        "zero": lambda p: p.grad.zero_(),  # type: ignore[union-attr]
        "data_zero": lambda p: p.grad.data.zero_(),  # type: ignore[union-attr]
        "halve": lambda p: p.grad.mul_(0.5),  # type: ignore[union-attr]
        "data_halve": lambda p: p.grad.data.mul_(0.5),  # type: ignore[union-attr]
        "replace": lambda p: setattr(p, "grad", torch.full_like(p, 3)),
    }
    names = {"none": "set to None", "replace": "replaced"}
    with watch(x) as ledger:
        for step in steps:
            if step == "grad":
                torch.autograd.grad((x**2).sum(), x)
            elif step == "pass":
                (x**2).sum().backward()
                with unobserved():
                    (twin**2).sum().backward()
                total = 2 * twin.detach() + (0 if total is None else total)
                expected.append((total, event))
                event = None
            elif total is not None:
                before = total
                for p in (x, twin):
                    changes[step](p)
                total = None if twin.grad is None else twin.grad.clone()
                if total is None:
                    event = "set to None"
                    break  # what follows a removal is covered by the programs above
                zero = torch.count_nonzero(total) == 0
                changed = step in ("zero", "halve", "replace") or not torch.equal(before, total)
                if event != "replaced" and changed:
                    event = names.get(step, "zeroed" if zero else "changed in place")
    assert [entry.event for entry in ledger["x"]] == [event for _, event in expected]
    for entry, (total, _) in zip(ledger["x"], expected, strict=True):
        assert torch.equal(_some(entry.contribution), 2 * x.detach())
        assert torch.equal(_some(entry.total), total)
    assert (x.grad is None) == (twin.grad is None)
    assert x.grad is None or torch.equal(x.grad, _some(twin.grad))


def test_contribution_is_what_arrives_after_hooks_not_a_difference() -> None:
    x = torch.tensor([1.0], dtype=torch.float32, requires_grad=True)
    x.grad = torch.tensor([1e10])
    x.register_hook(lambda g: g * 3)
    with watch(x) as ledger:
        (x * 1e-3).sum().backward()
    entry = ledger["x"][0]
    assert _some(entry.contribution).item() == pytest.approx(3e-3)  # a difference of .grad would be 0
    assert entry.event == "held before"
    assert entry.carried_norm == pytest.approx(1e10)


def test_a_leaf_that_no_gradient_reaches_has_no_contribution_and_zero_is_one() -> None:
    x, y = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    with watch([("x", x), ("y", y)]) as ledger:
        (x * 0).sum().backward()
    assert ledger["x"][0].contribution_norm == 0
    assert ledger["y"][0].contribution_norm is None
    assert ledger.contribution("y", 1) is None
    assert ledger.total("y", 1) is None


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointed_passes_count_once(use_reentrant: bool) -> None:
    layer = nn.Linear(3, 3)
    x = torch.ones(2, 3, requires_grad=True)

    def loss() -> Tensor:
        once = checkpoint(layer, x, use_reentrant=use_reentrant)
        return _some(checkpoint(layer, once, use_reentrant=use_reentrant)).sum()

    with watch(layer) as ledger:
        loss().backward()
    assert len(ledger.passes) == 1
    assert layer.weight.grad is not None
    assert torch.equal(_some(ledger.contribution("weight", 1)), layer.weight.grad)


def test_a_nested_backward_inside_autograd_grad_is_a_pass() -> None:
    w = torch.tensor(2.0, requires_grad=True)

    class Inner(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            with torch.enable_grad():
                (w * 3).backward()
            return grad

    x = torch.ones((), requires_grad=True)
    with watch(w) as ledger:
        torch.autograd.grad(Inner.apply(x), x)
    assert [float(_some(entry.contribution)) for entry in ledger["w"]] == [3.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.complex64, torch.float64])
def test_dtypes(dtype: torch.dtype) -> None:
    x = torch.ones(4, dtype=dtype, requires_grad=True)
    with watch(x) as ledger:
        (x * 300).sum().abs().backward()
    contribution = _some(ledger.contribution("x", 1))
    assert contribution.dtype == dtype
    assert ledger["x"][0].contribution_norm == pytest.approx(600.0)  # 300² overflows in half precision


def test_sparse_gradients_stay_sparse() -> None:
    table = nn.Embedding(5, 2, sparse=True)
    with watch(table) as ledger:
        for _ in range(2):
            table(torch.tensor([1, 1, 3])).sum().backward()
    contribution = _some(ledger.contribution("weight", 2))
    assert contribution.is_sparse
    assert contribution.to_dense()[1].tolist() == [2.0, 2.0]
    assert ledger["weight"][1].contribution_norm == pytest.approx((4 + 4 + 1 + 1) ** 0.5)
    assert ledger["weight"][1].event is None
    assert torch.equal(_some(ledger.total("weight", 2)).to_dense(), 2 * contribution.to_dense())


def test_optimizer_in_backward_empties_grad_in_the_pass() -> None:
    p = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([p], lr=0.1)

    def step(_: Tensor) -> None:
        optimizer.step()
        optimizer.zero_grad()

    p.register_post_accumulate_grad_hook(step)
    with watch(optimizer) as ledger:
        (p * 2).sum().backward()
    (entry,) = ledger["p"]
    assert entry.event == "emptied in the pass"
    assert entry.total is None
    assert _some(entry.contribution).tolist() == [2.0, 2.0]
    assert p.tolist() == pytest.approx([0.8, 0.8])


def test_a_pass_that_raises_is_noted_with_what_it_contributed() -> None:
    x, y = torch.ones((), requires_grad=True), torch.ones((), requires_grad=True)
    z = y * 2

    def fail(_: Tensor) -> None:
        raise ValueError("hook failed")

    z.register_hook(fail)
    w = x * 3 + z.exp() * 0
    with watch({"x": x, "y": y}) as ledger, pytest.raises(ValueError, match="hook failed"):
        w.backward()
    assert ledger.passes[0].error == "ValueError: hook failed"
    assert ledger["y"][0].contribution is None
    with ledger:
        (x * 1).backward()
    assert len(ledger.passes) == 2  # entered again it goes on


def test_a_leaf_that_changes_dtype_is_followed() -> None:
    layer = nn.Linear(2, 1)
    with watch(layer) as ledger:
        layer(torch.ones(1, 2)).sum().backward()
        layer.zero_grad()
        layer.double()
        layer(torch.ones(1, 2, dtype=torch.float64)).sum().backward()
    assert [_some(entry.contribution).dtype for entry in ledger["weight"]] == [torch.float32, torch.float64]


def test_a_leaf_that_starts_to_require_grad_is_followed() -> None:
    frozen, other = torch.ones(1), torch.ones(1, requires_grad=True)
    with watch({"frozen": frozen, "other": other}) as ledger:
        (frozen * other).sum().backward()
        frozen.requires_grad_()
        (frozen * other).sum().backward()
    assert [entry.contribution_norm for entry in ledger["frozen"]] == [None, 1.0]


def test_threads_are_kept_apart() -> None:
    leaves = {f"p{i}": torch.ones(64, requires_grad=True) for i in range(4)}

    def work(p: Tensor, factor: float) -> None:
        for _ in range(20):
            (p * factor).sum().backward()

    with watch(leaves) as ledger:
        threads = [threading.Thread(target=work, args=(p, float(i + 1))) for i, p in enumerate(leaves.values())]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(ledger.passes) == 80
    for i, name in enumerate(leaves):
        reached = [entry for entry in ledger[name] if entry.contribution is not None]
        assert len(reached) == 20
        assert all(_some(entry.contribution).unique().tolist() == [i + 1.0] for entry in reached)


def test_keep_drops_tensors_and_keeps_norms() -> None:
    x = torch.ones(2, requires_grad=True)
    with watch(x, keep=2) as ledger:
        for _ in range(5):
            (x * 2).sum().backward()
    assert [entry.contribution is None for entry in ledger["x"]] == [True, True, True, False, False]
    assert all(entry.contribution_norm == pytest.approx(8**0.5) for entry in ledger["x"])
    with pytest.raises(InputError, match=re.escape("the tensors of pass 1 were dropped, since keep=2")):
        ledger.contribution("x", 1)
    with watch(x, keep=0) as ledger:
        (x * 2).sum().backward()
    assert ledger["x"][0].total is None
    assert ledger["x"][0].total_norm is not None


def test_nothing_is_kept_alive_and_nothing_is_left_behind() -> None:
    w = torch.ones(3, requires_grad=True)
    hidden = (w * 2).exp()
    activation = weakref.ref(hidden)
    gc.collect()
    gc.disable()
    try:
        with watch({"w": w}) as ledger:
            hidden.sum().backward(create_graph=True)
            w.grad = None
            del hidden
            assert activation() is None
        leaf = weakref.ref(w)
        contribution = weakref.ref(_some(ledger.contribution("w", 1)))
        del w
        assert leaf() is None
        del ledger
        assert contribution() is None
    finally:
        gc.enable()


def test_grad_is_the_engines_own_tensor_as_without_a_ledger() -> None:
    def stolen(watched: bool) -> bool:
        x = torch.ones(3, requires_grad=True)
        y = x * 2
        pointers: list[int] = []
        assert y.grad_fn is not None
        y.grad_fn.register_hook(lambda grads, _: pointers.append(grads[0].data_ptr()))
        if watched:
            with watch(x):
                y.sum().backward()
        else:
            y.sum().backward()
        return bool(_some(x.grad).data_ptr() == pointers[0])

    assert stolen(watched=True) == stolen(watched=False)


def test_analyses_of_ours_are_no_passes_of_the_program() -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    loss = (x**3).sum()
    with watch(x) as ledger:
        gradgraph.gradients(gradgraph.trace(loss))
        methods: list[Literal["accumulate", "batched"]] = ["accumulate", "batched"]
        for method in methods:
            gradgraph.hessian_diagonal(loss, x, method=method)
        loss.backward()
    assert len(ledger.passes) == 1
    assert ledger["x"][0].event is None


def test_an_analysis_inside_a_pass_is_no_part_of_it() -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    inner = (x**3).sum()
    y = x * 1

    def analyse(_: Tensor) -> None:
        gradgraph.hessian_diagonal(inner, {"x": x}, method="accumulate")

    y.register_hook(analyse)
    with watch(x) as ledger:
        y.sum().backward()
    assert len(ledger.passes) == 1
    assert _some(ledger.contribution("x", 1)).tolist() == [1.0, 1.0]


def test_names_table_and_repr() -> None:
    model = nn.Linear(2, 1)
    anonymous = [torch.ones(1, requires_grad=True)]
    with watch([model, {"extra": anonymous[0]}["extra"]]) as ledger:
        for _ in range(30):
            model(torch.ones(1, 2)).sum().backward()
    assert ledger.names[0] == "0.weight"
    table = ledger.table()
    assert table.splitlines()[0].split() == ["pass", "leaf", "contribution", "carried", "over", "total", "event"]
    assert len(table.splitlines()) == 91
    assert "... 70 earlier rows" in repr(ledger)
    assert len(repr(ledger)) < 3000
    assert repr(ledger.passes[0]) == "<LedgerPass 1: 3 leaves>"
    assert "contribution 1.41421" in repr(ledger["0.weight"][0])


def test_unnamed_leaves_take_the_callers_names_else_numbers() -> None:
    def fresh() -> Tensor:
        return torch.ones(1, requires_grad=True)

    x = fresh()
    with watch(iter([x, fresh()])) as ledger:
        pass
    assert ledger.names == ["x", "param0"]


def test_annotates_a_live_graph_by_tensor_and_another_by_name() -> None:
    x = torch.tensor(3.0, requires_grad=True)
    with watch({"its name": x}) as ledger:
        (x * x).backward()
        (x * x).backward()
    expected = [
        {"pass": 1, "contribution": 6.0, "total": 6.0},
        {"pass": 2, "contribution": 6.0, "total": 12.0},
    ]
    graph = gradgraph.trace(x * x)
    gradgraph.annotate(graph, "accumulated", ledger)
    assert graph.nodes[graph.find("x")]["accumulated"] == expected
    graph = gradgraph.trace(x * x, {"its name": x})
    graph.release()
    gradgraph.annotate(graph, "accumulated", ledger)
    assert graph.nodes[graph.find("its name")]["accumulated"] == expected
    other = gradgraph.trace(torch.ones(1, requires_grad=True) * 2)
    with pytest.raises(InputError, match=r"none of the parameters of this ledger \(its name\) is a leaf of the graph"):
        gradgraph.annotate(other, "accumulated", ledger)


def test_bad_input() -> None:
    x = torch.ones(2, requires_grad=True)
    with pytest.raises(InputError, match="params holds no tensor"):
        watch([])
    with pytest.raises(InputError, match="watch expected leaves, but 'y' is the result of a MulBackward0"):
        watch({"y": x * 2})
    with pytest.raises(InputError, match="none of the 1 tensors to watch requires grad"):
        watch({"z": torch.ones(2)})
    with pytest.raises(InputError, match="keep expected the number of passes"):
        watch(x, keep=-1)
    with watch(x) as ledger, pytest.raises(InputError, match="recording already"):
        ledger.__enter__()
    with pytest.raises(InputError, match="the ledger has no pass 1: it saw 0"):
        ledger.total("x", 1)
    with pytest.raises(InputError, match="the ledger watches no leaf called 'q'; its names begin with 'x'"):
        ledger["q"]


def test_zeroing_and_clipping_by_the_library() -> None:
    layer = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    with watch(layer) as ledger:
        for to_none in (True, False, None):
            nn.functional.mse_loss(layer(torch.ones(2, 3)), torch.zeros(2, 1)).backward()
            if to_none is None:
                nn.utils.clip_grad_norm_(layer.parameters(), 1e-3)
            else:
                optimizer.zero_grad(set_to_none=to_none)
        layer(torch.ones(2, 3)).sum().backward()
    assert [entry.event for entry in ledger["weight"]] == [None, "set to None", "zeroed", "changed in place"]


def _some(tensor: Any) -> Tensor:
    assert isinstance(tensor, Tensor)
    return tensor
