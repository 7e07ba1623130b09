from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradgraph.recording import timeline
from gradgraph.recording.timeline import NOBODY, Timeline

#: A program as a tree: how many numbers pass before, what runs inside, how many pass behind.
Call = tuple[int, int, list["Call"]]
calls: st.SearchStrategy[Any] = st.recursive(
    st.tuples(st.integers(0, 2), st.integers(0, 3), st.just([])),
    lambda inner: st.tuples(st.integers(0, 2), st.integers(0, 3), st.lists(inner, max_size=4)),
    max_leaves=20,
)


def run(call: Call, now: int, line: Timeline, owners: dict[int, int], depth: int) -> int:
    """Own the numbers of `call` as a program would, and write down each one's owner."""
    idle, busy, inside = call
    first = now = now + idle
    owner = depth * 10 + busy  # the same owner comes again and again
    for inner in inside:
        now = run(inner, now, line, owners, depth + 1)
    now += busy
    for number in range(first, now):
        owners.setdefault(number, owner)
    if now > first:
        line.own(first, now, owner)
    return now


@given(st.lists(calls, max_size=8))
def test_the_innermost_interval_owns(program: list[Call]) -> None:
    line, owners, now = Timeline(), dict[int, int](), 5
    for call in program:
        now = run(call, now, line, owners, 0)
    assert [line.owner_of(number) for number in range(now + 3)] == [
        owners.get(number, NOBODY) for number in range(now + 3)
    ]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), max_size=30))
def test_a_mark_holds_until_the_next(marks: list[tuple[int, int]]) -> None:
    line, expected, now = Timeline(), dict[int, int](), 0
    for step, owner in marks:
        now += step
        line.starts.append(now)
        line.owners.append(owner)
        expected[now] = owner
    last = NOBODY
    for number in range(now + 2):
        last = expected.get(number, last)
        assert line.owner_of(number) == last


def test_a_line_that_runs_again_takes_no_more_memory() -> None:
    line = Timeline()
    for number in range(10_000):
        line.own(number, number + 1, 7)
    assert len(line) == 2


def test_memory_is_bounded_and_the_newest_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "_MOST", 100)
    owned, marked = Timeline(), Timeline()
    for number in range(0, 5_000, 2):
        owned.own(number, number + 2, number % 7)
        marked.starts.append(number)
        marked.owners.append(number)
        marked.trim()
    for line in (owned, marked):
        assert 40 < len(line) <= 101
        assert line.owner_of(3) == NOBODY
    assert owned.owner_of(4_990) == 4_990 % 7
    assert marked.owner_of(4_991) == 4_990
