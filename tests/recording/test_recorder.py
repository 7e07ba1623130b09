from __future__ import annotations

import asyncio
import gc
import sys
import threading
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import gradgraph
from gradgraph import AutogradGraph, InputError, record
from gradgraph.recording import modules, timeline

HERE = "tests/recording/test_recorder.py"


def attribute(graph: AutogradGraph, name: str, op: str) -> set[Any]:
    """What the nodes of one op have for an attribute."""
    return {data[name] for _, data in graph.nodes(data=True) if data["op"] == op}


def installed() -> tuple[Any, ...]:
    """All that a recording puts into torch and Python."""
    return (
        nn.Module.__call__,
        nn.Module.zero_grad,
        torch.optim.Optimizer.zero_grad,
        list(sys.modules["torch.optim.optimizer"]._global_optimizer_pre_hooks),
        list(sys.modules["torch.optim.optimizer"]._global_optimizer_post_hooks),
        torch.autograd.Function._register_hook,
        warnings.filters[:],
        torch.overrides._get_current_function_mode_stack(),
        torch.autograd.graph._engine_run_backward,
        torch.autograd._engine_run_backward,  # type: ignore[attr-defined]
        torch.autograd.Function.__dict__["apply"],
        threading.Thread.start,
        torch._C._is_multithreading_enabled(),
    )


class Twice(nn.Module):
    """Calls one module twice, and works with its own parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
        self.scale = nn.Parameter(torch.ones(3))
        self.blocks = nn.ModuleList([nn.Linear(3, 3, bias=False)])

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.blocks[0](self.inner(self.inner(x)) * self.scale)
        return y.exp()


def test_modules_and_which_call_of_them() -> None:
    net, x = Twice(), torch.randn(2, 3)
    with record():
        loss = net(x).sum()
    graph = gradgraph.trace(loss, net)
    assert attribute(graph, "module", "TanhBackward0") == {"inner.1"}
    assert attribute(graph, "module_call", "TanhBackward0") == {1, 2}
    assert attribute(graph, "module", "AddmmBackward0") == {"inner.0"}
    assert attribute(graph, "module", "MmBackward0") == {"blocks.0"}
    assert attribute(graph, "module", "MulBackward0") == attribute(graph, "module", "ExpBackward0") == {""}
    assert attribute(graph, "module", "SumBackward0") == {None}
    assert graph.nodes[graph.find("scale")]["module"] == ""
    with record():
        loss = net(net(x)).sum()
    assert attribute(gradgraph.trace(loss), "module_call", "TanhBackward0") == {1, 2, 3, 4}


def test_modules_go_by_the_names_of_whoever_traces() -> None:
    net, other, x = Twice(), Twice(), torch.randn(2, 3)
    with record() as recording:
        loss = (net(x) + other(x)).sum()
    # By the variables here, then by params, then by the modules that were called.
    assert attribute(gradgraph.trace(loss), "module", "MmBackward0") == {"net.blocks.0", "other.blocks.0"}
    named = gradgraph.trace(loss, {"a": net, "b": other})
    assert attribute(named, "module", "MmBackward0") == {"a.blocks.0", "b.blocks.0"}

    def elsewhere(loss: Tensor) -> AutogradGraph:
        return recording.trace(loss)

    graph = elsewhere(loss)
    assert attribute(graph, "module", "MmBackward0") == {"Twice1.blocks.0", "Twice2.blocks.0"}
    assert graph.nodes[graph.find("Twice2.scale")]["module"] == "Twice2"
    with record() as recording:
        loss = net(x).sum()
    graph = elsewhere(loss)
    assert attribute(graph, "module", "MmBackward0") == {"blocks.0"}
    assert set(graph.leaves().values()) == {"inner.0.weight", "inner.0.bias", "scale", "blocks.0.weight"}


def test_the_line_is_the_users_innermost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mylib.py").write_text(
        "import torch\ndef loss_of(net, x):\n    h = net(x)\n    return (h.softmax(-1)\n            .log().sum())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import mylib  # type: ignore[import-not-found]

    with record(stack=True) as recording:
        loss = mylib.loss_of(nn.Linear(3, 3), torch.ones(1, 3))
    graph = recording.trace(loss)
    file = tmp_path / "mylib.py"
    assert attribute(graph, "source", "AddmmBackward0") == {f"{file}:3 in loss_of"}
    (line,) = attribute(graph, "source", "SoftmaxBackward0")
    assert line.startswith(f"{file}:4")
    (key,) = [key for key, data in graph.nodes(data=True) if data["op"] == "AddmmBackward0"]
    above = graph.nodes[key]["stack"]
    assert above[0].startswith(HERE)
    assert above[0].endswith("in test_the_line_is_the_users_innermost")
    assert not any("torch/" in line for line in above)
    with record():
        loss = mylib.loss_of(nn.Linear(3, 3), torch.ones(1, 3))
    assert not any("stack" in data for _, data in gradgraph.trace(loss).nodes(data=True))
    with record(source=False):
        loss = mylib.loss_of(nn.Linear(3, 3), torch.ones(1, 3))
    assert {data["source"] for _, data in gradgraph.trace(loss).nodes(data=True)} == {None}


def test_every_kind_of_operation_has_its_line() -> None:
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.detach() ** 2

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Any:
            return 2 * g * ctx.saved_tensors[0]

    x = torch.randn(3, 3, requires_grad=True)
    with record() as recording:
        y = x.T[0] + 1
        y[1:] = y[1:] * 2
        y += 1
        z = Square.apply(y)
        loss = torch.einsum("i,i->", z, nn.functional.normalize(y, dim=0))
        (g,) = torch.autograd.grad(loss, x, create_graph=True)
    graph = recording.trace([g, loss])
    unknown = {data["op"] for _, data in graph.nodes(data=True) if data["source"] is None}
    assert unknown == {"AccumulateGrad"}
    assert {data["source"].rpartition(" in ")[2] for _, data in graph.nodes(data=True) if data["source"]} == {
        "test_every_kind_of_operation_has_its_line",
        "backward",
    }


def test_passes_and_orders() -> None:
    x = torch.tensor([0.5, 2.0], requires_grad=True)
    with record() as recording:
        (first,) = torch.autograd.grad((x**3).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad((first * x).sum(), x, create_graph=True)
        torch.autograd.grad(second.sum(), x, retain_graph=True)
        (x * 2).sum().backward()
    found = [(one.number, one.create_graph, one.accumulates, one.order) for one in recording.passes]
    assert found == [(1, True, False, 1), (2, True, False, 2), (3, False, False, None), (4, False, True, None)]
    assert all(one.source is not None and one.source.startswith(HERE) for one in recording.passes)
    assert all(one.seconds > 0 for one in recording.passes)
    graph = recording.trace(second)
    assert [(one["number"], one["order"]) for one in graph.graph["passes"]] == [(1, 1), (2, 2)]
    for _, data in graph.nodes(data=True):
        assert data["order"] == (0 if data["pass"] is None else data["pass"]) or data["creator"] is None


def test_what_was_made_outside_says_so() -> None:
    net, x = nn.Sequential(nn.Linear(3, 3), nn.Tanh()), torch.randn(2, 3, requires_grad=True)
    hidden = net(x)
    with record() as recording:
        loss = (hidden.exp() * x).sum()
        (g,) = torch.autograd.grad(loss, x, create_graph=True)
    after = (g * g).sum()
    graph = recording.trace([after, loss])
    known = {op: attribute(graph, "provenance", op) for op in ("TanhBackward0", "AddmmBackward0", "ExpBackward0")}
    assert known == {"TanhBackward0": {"inferred"}, "AddmmBackward0": {"inferred"}, "ExpBackward0": {"recorded"}}
    assert graph.nodes[graph.roots[0]]["provenance"] == "inferred"
    assert graph.nodes[graph.roots[0]]["order"] == 1  # it consumes what a recorded pass made
    tanh = next(key for key, data in graph.nodes(data=True) if data["op"] == "TanhBackward0")
    assert attribute(graph, "creator", "TanhBackwardBackward0") == {tanh}
    numbers = sum(data["provenance"] == "recorded" and data["kind"] != "leaf" for _, data in graph.nodes(data=True))
    assert graph.graph["recorded"] == numbers < len(graph)


def test_the_latest_recording_is_used_and_an_older_one_on_demand() -> None:
    x = torch.randn(3, requires_grad=True)
    with record() as older:
        y = x.exp()
    with record():
        z = x.sin()
    assert attribute(gradgraph.trace(y), "source", "ExpBackward0") == {None}
    assert attribute(older.trace(y), "source", "ExpBackward0") != {None}
    assert attribute(gradgraph.trace(z), "source", "SinBackward0") != {None}


def test_nested_and_entered_again() -> None:
    before = installed()
    x = torch.randn(3, requires_grad=True)
    outer, inner = record(source=False), record()
    with outer:
        a = x.exp()
        with inner, inner:
            b = a.sin()
        c = b.cos()
        assert installed() != before
    assert installed() == before
    assert [attribute(outer.trace(c), "provenance", op) for op in ("ExpBackward0", "SinBackward0", "CosBackward0")] == [
        {"recorded"}
    ] * 3
    assert attribute(inner.trace(c), "source", "SinBackward0") != {None}
    with inner:
        d = c.tan()
    assert installed() == before
    assert attribute(inner.trace(d), "source", "TanBackward0") != {None}
    assert attribute(inner.trace(d), "source", "SinBackward0") != {None}
    assert not inner.active
    with pytest.raises(InputError, match="not running"):
        inner.__exit__()
    with pytest.raises(InputError, match="has not begun"):
        record().trace(d)


def test_as_a_decorator() -> None:
    @record()
    def recursive(x: Tensor, depth: int) -> Tensor:
        return x.exp() if depth == 0 else recursive(x, depth - 1).sin()

    before = installed()
    x = torch.randn(3, requires_grad=True)
    graph = gradgraph.trace(recursive(x, 2))
    assert {data["provenance"] for _, data in graph.nodes(data=True)} == {"recorded"}
    assert recursive.__name__ == "recursive"

    recording = record()

    @recording
    async def coroutine() -> Tensor:
        y = x.exp()
        await asyncio.sleep(0)
        return y.sin()

    graph = recording.trace(asyncio.run(coroutine()))
    assert {data["provenance"] for _, data in graph.nodes(data=True)} == {"recorded"}
    with pytest.raises(InputError, match="generator"):

        @record()
        def generator() -> Any:
            yield x.exp()

    assert installed() == before


class Failing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x.exp()
        raise KeyError("the user's own")


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_exceptions_pass_and_all_is_undone(kind: type[BaseException]) -> None:
    before = installed()
    x = torch.randn(3, requires_grad=True)

    def fail(g: Tensor) -> Tensor:
        raise kind("a hook's")

    @record()
    def program() -> Tensor:
        y = x.exp()
        y.register_hook(fail)
        torch.autograd.grad(y.sum(), x, create_graph=True)
        return y

    with pytest.raises(kind, match="a hook's"):
        program()
    assert installed() == before
    y = x.exp()
    y.register_hook(fail)
    with record() as recording:
        with pytest.raises(KeyError, match="the user's own"):
            nn.Sequential(nn.Linear(3, 3), Failing())(x)
        with pytest.raises(kind, match="a hook's"):
            torch.autograd.grad(y.sum(), x, create_graph=True)
        # The recording goes on as if nothing had been.
        net = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
        loss = net(x).sum()
        (g,) = torch.autograd.grad(loss, x, create_graph=True)
    assert installed() == before
    graph = recording.trace([g, loss], net)
    assert attribute(graph, "module", "TanhBackward0") == {"1"}
    assert None not in attribute(graph, "creator", "TanhBackwardBackward0")


def test_threads_like_those_of_data_parallel() -> None:
    """Each replica runs in a thread, whose numbers begin at 0 again."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1))
    results: dict[int, Tensor] = {}

    def replica(index: int) -> None:
        results[index] = net(torch.randn(2, 3)) * (index + 1)

    with record() as recording:
        threads = [threading.Thread(target=replica, args=(index,)) for index in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        loss = torch.stack([results[index] for index in range(3)]).square().mean()
        slopes = torch.autograd.grad(loss, list(net.parameters()), create_graph=True)
        penalty = torch.stack([(slope**2).sum() for slope in slopes]).sum()
    graph = recording.trace([penalty, loss], net)
    assert {data["provenance"] for _, data in graph.nodes(data=True)} == {"recorded"}
    assert {data["module"] for _, data in graph.nodes(data=True)} == {"0", "1", "2", None}
    assert attribute(graph, "module_call", "TanhBackward0") == {1, 2, 3}
    assert attribute(graph, "module", "TanhBackwardBackward0") == {"1"}
    creators = [data["creator"] for _, data in graph.nodes(data=True) if data["op"] == "TanhBackwardBackward0"]
    assert len(set(creators)) == 3
    assert {graph.nodes[key]["op"] for key in creators} == {"TanhBackward0"}
    line = f"{HERE}:{replica.__code__.co_firstlineno + 1} in replica"
    assert attribute(graph, "source", "TanhBackward0") == {line}


def test_a_pool_that_was_there_before() -> None:
    net, x = nn.Sequential(nn.Linear(3, 3), nn.Tanh()), torch.randn(2, 3, requires_grad=True)

    def work(index: int) -> Tensor:
        loss = net(x).sum() * index
        return torch.autograd.grad(loss, x, create_graph=True)[0]

    before = installed()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(4)))
        for _ in range(3):
            with record() as recording:
                results = list(pool.map(work, range(4)))
            graph = recording.trace(results, net)
            assert attribute(graph, "module", "TanhBackward0") == {"1"}
            assert attribute(graph, "order", "TanhBackwardBackward0") == {1}
            assert None not in attribute(graph, "creator", "TanhBackwardBackward0")
        inert = list(pool.map(lambda _: torch.overrides._get_current_function_mode_stack(), range(4)))
        assert max(map(len, inert)) <= 1  # of the last recording: a thread's own mode cannot be taken off from outside
    assert installed() == before


def test_recordings_that_overlap_in_threads() -> None:
    before = installed()
    x = torch.randn(3, requires_grad=True)
    begun, over = threading.Event(), threading.Event()
    result: list[AutogradGraph] = []

    def other() -> None:
        with record() as recording:
            begun.set()
            over.wait(10)
            result.append(recording.trace(x.sin().exp()))

    thread = threading.Thread(target=other)
    with record() as recording:
        thread.start()
        begun.wait(10)
        graph = recording.trace(x.cos())
    over.set()
    thread.join()
    assert attribute(graph, "source", "CosBackward0") != {None}
    assert attribute(result[0], "source", "SinBackward0") != {None}
    assert installed() == before


def test_modes_of_the_users_stay_in_place() -> None:
    seen: list[str] = []

    class Own(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func.__name__)
            return func(*args, **(kwargs or {}))

    x = torch.randn(3, requires_grad=True)
    recording, own = record(), Own()
    recording.__enter__()
    own.__enter__()
    recording.__exit__()  # out of order
    seen.clear()
    x.exp()
    assert seen == ["exp"]
    assert torch.overrides._get_current_function_mode_stack() == [own]
    with record() as recording:
        y = x.exp()
        seen.clear()
        recording.trace(y)
        assert seen == []  # looking runs no code of the user's
    own.__exit__(None, None, None)
    assert not torch.overrides._get_current_function_mode_stack()


def test_optimizers_run_unwatched() -> None:
    """Their many looks at `.grad` would each cost some microseconds; closures and differentiable steps are watched."""
    net, x = nn.Linear(3, 1), torch.randn(4, 3)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    stacks: list[int] = []
    optimizer.register_step_pre_hook(lambda *_: stacks.append(torch._C._len_torch_function_stack()))

    def closure() -> Tensor:
        optimizer.zero_grad()
        stacks.append(torch._C._len_torch_function_stack())
        loss: Tensor = net(x).square().mean()
        loss.backward()
        return loss

    with record() as recording:
        closure()
        optimizer.step()
        loss = optimizer.step(closure)
        assert torch._C._len_torch_function_stack() == 1
        with pytest.raises(ZeroDivisionError):
            failing(optimizer).step()
        net(x)
        assert torch._C._len_torch_function_stack() == 1
    assert stacks == [1, 0, 1, 1]
    assert attribute(recording.trace(loss), "module", "AddmmBackward0") == {"net"}


def failing(like: torch.optim.Optimizer) -> torch.optim.Optimizer:
    class Failing(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            raise ZeroDivisionError

    return Failing(like.param_groups[0]["params"], lr=0.1)


def test_the_program_does_not_notice() -> None:
    def program() -> tuple[list[Tensor], list[str]]:
        events: list[str] = []
        torch.manual_seed(3)
        net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 1))
        x = torch.randn(5, 4, requires_grad=True)
        x.register_hook(lambda g: events.append(f"x {g.norm():.6f}"))
        net[2].register_forward_hook(lambda *_: events.append("tanh"))
        for _ in range(2):
            loss = net(x).square().mean()
            (slope,) = torch.autograd.grad(loss, x, create_graph=True)
            (loss + slope.norm()).backward()
        grads = [one.grad for one in (x, *net.parameters()) if one.grad is not None]
        return [*grads, torch.rand(3)], events

    plain, plain_events = program()
    for source in (True, False):
        with record(source=source):
            seen, events = program()
        assert events == plain_events
        assert all(torch.equal(a, b) for a, b in zip(plain, seen, strict=True))


def test_nothing_is_kept_alive() -> None:
    with record() as recording:
        net, x = nn.Linear(3, 3), torch.randn(2, 3, requires_grad=True)
        hidden = net(x).exp()
        (g,) = torch.autograd.grad(hidden.sum(), x, create_graph=True)
        hidden.sum().backward(create_graph=False)
        references = [weakref.ref(one) for one in (net, net.weight, x, hidden, g)]
        del net, x, hidden, g
        gc.collect()
        assert [reference() for reference in references] == [None] * 5
    assert recording.passes[0].create_graph


def test_a_long_program_takes_no_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "_MOST", 400)
    net = nn.Linear(3, 3)
    with record() as recording:
        for _ in range(300):
            loss = net(torch.randn(2, 3)).exp().sum()
            slopes = torch.autograd.grad(loss, list(net.parameters()), create_graph=True)
            torch.stack([slope.sum() for slope in slopes]).sum().backward()
        graph = recording.trace([loss, slopes], net)
    log = recording._log
    assert log is not None
    for thread in log.threads.values():
        for line in (thread.lines, thread.modules, thread.creators, thread.passes):
            assert len(line) <= 401
    assert len(log.sites) < 20
    # The newest is still known.
    assert attribute(graph, "module", "AddmmBackward0") == {""}
    assert {data["creator"] is not None for _, data in graph.nodes(data=True) if data["order"]} == {True}


def test_modules_made_on_the_fly_are_forgotten_when_they_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modules, "_MOST", 20)
    net, x = nn.Sequential(nn.Linear(3, 3), nn.Tanh()), torch.randn(2, 3)
    kept = []
    with record() as recording:
        early = nn.Tanh()(net(x)).sum()
        for _ in range(200):
            kept.append(nn.Softplus())  # so that no two have one address
            loss = kept[-1](net(x)).sum()
            if len(kept) == 10:
                kept.clear()
    log = recording._log
    assert log is not None
    assert len(log.modules) <= 50
    assert attribute(recording.trace(loss, net), "module", "TanhBackward0") == {"1"}
    assert attribute(recording.trace(early, net), "module", "TanhBackward0") == {"1", None}  # the other one is gone


def test_tracing_within_the_recording() -> None:
    net, x = nn.Sequential(nn.Linear(3, 3), nn.Tanh()), torch.randn(2, 3, requires_grad=True)
    with record() as recording:
        loss = net(x).sum()
        graph = gradgraph.trace(loss, net)
        statistics = gradgraph.gradients(graph)
        diagonal = gradgraph.hessian_diagonal(loss, net)
    assert attribute(graph, "module", "TanhBackward0") == {"1"}
    assert statistics
    assert diagonal
    assert recording.passes == []  # our own analyses are no passes of the program's


def test_repr() -> None:
    recording = record()
    assert repr(recording) == "<Recording: not begun>"
    with recording:
        assert repr(recording) == "<Recording: recording, 0 backward passes>"
        torch.ones(1, requires_grad=True).sum().backward()
    assert repr(recording) == "<Recording: finished, 1 backward pass>"
