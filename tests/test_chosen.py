"""Chosen passes: which are traced, which are held, and how they are counted."""

from __future__ import annotations

from types import ModuleType

import torch

from gradgraph.chosen import Chosen
from gradgraph.counting import Counter
from gradgraph.last_pass import LastPass
from gradgraph.pass_list import PassList
from gradgraph.passes import observe
from gradgraph.tracer import trace


class Noted(LastPass):
    """Counts how many there ever were."""

    made = 0

    def __init__(self) -> None:
        super().__init__(ModuleType("__main__"))
        Noted.made += 1


def steps(count: int, chosen: Chosen) -> None:
    x = torch.ones(2, requires_grad=True)
    with observe(chosen):
        for step in range(1, count + 1):
            y = x
            for _ in range(step):
                y = y * x
            y.sum().backward()


def nodes_of(chosen: Chosen, number: int) -> int | None:
    found = chosen.found(number)
    return None if found is None or found.graph is None else len(found.graph)


def test_numbers_from_the_start_and_from_the_end() -> None:
    chosen = Chosen([2, -1, -3], Noted)
    steps(5, chosen)
    assert chosen.count == 5
    # A pass of step n goes through n products, a sum and a leaf.
    assert [nodes_of(chosen, number) for number in (2, -1, -3)] == [4, 7, 5]
    chosen = Chosen([4, -4], Noted)
    steps(3, chosen)
    assert [nodes_of(chosen, number) for number in (4, -4)] == [None, None]


def test_where_the_number_is_positive_other_passes_are_not_traced() -> None:
    Noted.made = 0
    done: list[int] = []
    chosen = Chosen([2, 3], Noted, lambda number, _: done.append(number))
    steps(50, chosen)
    assert Noted.made == 2
    assert done == [2, 3]


def test_of_negative_numbers_only_the_latest_graphs_are_held() -> None:
    held: list[LastPass] = []

    def watch() -> LastPass:
        held.append(Noted())
        return held[-1]

    steps(6, Chosen([-2], watch))
    full = [index for index, one in enumerate(held) if one.graph is not None and len(one.graph)]
    assert full == [4, 5]


def test_one_pass_by_both_of_its_numbers_is_one() -> None:
    Noted.made = 0
    chosen = Chosen([1, -2], Noted)
    steps(2, chosen)
    assert chosen.found(1) is chosen.found(-2)
    assert Noted.made == 2
    chosen = Chosen([1, -1], Noted)
    steps(3, chosen)
    assert (nodes_of(chosen, 1), nodes_of(chosen, -1)) == (3, 5)


def test_a_pass_is_counted_as_it_would_be_traced() -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    passes = PassList("program")
    with observe(Counter(passes)):
        loss = (x**3).exp().sum()
        graphs = [trace(loss)]
        (slope,) = torch.autograd.grad(loss, x, create_graph=True)
        graphs.append(trace(slope.sum(), lower=[loss]))
        (curve,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
        penalty = curve.square().sum()
        graphs.append(trace(penalty, lower=[loss, slope]))
        penalty.backward()
    assert [row.orders for row in passes.rows] == [(0,), (0, 1), (0, 1, 2)]
    assert [row.nodes for row in passes.rows] == [[len(graph)] * 2 for graph in graphs]
    held = [sum(data["saved_bytes"] for _, data in graph.nodes(data=True)) for graph in graphs]
    assert [row.held_bytes[0] for row in passes.rows] == held
    assert [str(row.source).rpartition(" in ")[2] for row in passes.rows] == [
        "test_a_pass_is_counted_as_it_would_be_traced"
    ] * 3


def test_counting_leaves_nothing_behind() -> None:
    import gc
    import weakref

    passes = PassList("program")
    x = torch.ones(3, requires_grad=True)
    with observe(Counter(passes)):
        y = (x * 2).exp()
        held = weakref.ref(y)
        y.sum().backward()
        gc.disable()
        try:
            del y
            assert held() is None
        finally:
            gc.enable()
        deep = x
        for _ in range(60_000):  # freed recursively where it has been walked, but for the fuses
            deep = deep * 1.0
        deep.sum().backward()
        del deep
    assert [row.nodes[0] for row in passes.rows] == [4, 60_002]
