"""Recording several threads at once: they share nodes, hooks and timelines, and number their nodes alike."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradgraph
from gradgraph import AutogradGraph, record


@pytest.fixture
def hectic() -> Iterator[None]:
    """Threads take turns much more often than they would."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def in_threads(work: Callable[[int], Any], count: int = 4) -> list[Any]:
    """What `work` gives in each of `count` new threads that begin together."""
    results: list[Any] = [None] * count
    together = threading.Barrier(count)

    def run(index: int) -> None:
        together.wait(20)
        try:
            results[index] = work(index)
        except BaseException as error:  # shown below
            results[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def creators(graph: AutogradGraph, op: str, of: str) -> int:
    """How many `op`s there are, each of which an own `of` made."""
    made = [data["creator"] for _, data in graph.nodes(data=True) if data["op"] == op and data["order"]]
    assert None not in made
    assert {graph.nodes[key]["op"] for key in made} == {of}
    assert len(set(made)) == len(made)
    return len(made)


def test_differentiating_at_the_same_time(hectic: None) -> None:
    def work(index: int) -> Tensor:
        for _ in range(5):
            x = torch.randn(3, requires_grad=True)
            y = x
            for _ in range(40):
                y = y.tanh()
            (g,) = torch.autograd.grad(y.sum(), x, create_graph=True)
            gradgraph.trace(g)
        return g

    with record() as recording:
        results = in_threads(work)
    for g in results:
        assert creators(recording.trace(g), "TanhBackwardBackward0", "TanhBackward0") == 40
    assert "_register_hook" not in torch.autograd.Function.__dict__


def test_differentiating_one_graph(hectic: None) -> None:
    x = torch.randn(3, requires_grad=True)
    with record() as recording:
        y = x
        for _ in range(300):
            y = y.tanh()
        loss = y.sum()
        results = in_threads(lambda _: torch.autograd.grad(loss, x, create_graph=True)[0])
    for g in results:
        assert creators(recording.trace(g), "TanhBackwardBackward0", "TanhBackward0") == 300


def test_tracing_what_another_thread_still_records(hectic: None) -> None:
    net, x, over = nn.Sequential(nn.Linear(3, 3), nn.Tanh()), torch.randn(2, 3), threading.Event()

    def work() -> None:
        while not over.is_set():
            net(net(x)).sum()

    with record() as recording:
        thread = threading.Thread(target=work)
        thread.start()
        loss = net(x).sum()
        try:
            for _ in range(30):
                graph = recording.trace(loss)
                assert {data["module"] for _, data in graph.nodes(data=True)} == {"net.0", "net.1", None}
        finally:
            over.set()
            thread.join()


def test_calls_of_one_module_at_the_same_time(hectic: None) -> None:
    net, x = nn.Tanh(), torch.randn(3, requires_grad=True)

    def work(_: int) -> list[Tensor]:
        return [net(x) for _ in range(200)]

    with record() as recording:
        results = in_threads(work)
    data = [data for _, data in recording.trace(results).nodes(data=True) if data["op"] == "TanhBackward0"]
    assert {one["module"] for one in data} == {"net"}
    assert sorted(one["module_call"] for one in data) == list(range(1, 801))


def test_a_thread_of_an_earlier_recording_is_nobody_here() -> None:
    """Numbers and threads come again: nodes made elsewhere must not pass for this recording's."""
    x = torch.randn(3, requires_grad=True)
    with record():
        (old,) = in_threads(lambda _: x.exp().sin().cos(), 1)
    with record() as recording:
        in_threads(lambda _: x.tanh().tan().sinh(), 2)
        loss = old.sum()
        (g,) = torch.autograd.grad(loss, x, create_graph=True)
    graph = recording.trace([g, loss])
    about = {data["op"]: data for _, data in graph.nodes(data=True) if not data["order"]}
    for op in ("ExpBackward0", "SinBackward0", "CosBackward0"):
        assert (about[op]["provenance"], about[op]["source"]) == ("inferred", None)
    assert about["SumBackward0"]["provenance"] == "recorded"
    assert creators(graph, "CosBackward0", "SinBackward0") == 1


def test_plain_operations_in_a_pool_that_was_there_before() -> None:
    x = torch.randn(3, requires_grad=True)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: x.exp()).result()
        with record() as recording:
            here = [x.cos().sqrt() for _ in range(10)]  # of the same numbers
            there = pool.submit(lambda: x.exp().sin()).result()
        graph = recording.trace([there, *here])
        later = pool.submit(lambda: x.exp().sin()).result()
    line = {data["source"] for _, data in graph.nodes(data=True) if data["op"] == "SinBackward0"}
    assert {one.rpartition(" in ")[2] for one in line} == {"<lambda>"}
    assert {data["provenance"] for _, data in recording.trace(later).nodes(data=True)} == {"inferred"}
