"""The list of a program's passes: which become one row, in what memory, and how it reads."""

from __future__ import annotations

import json
import sys

from hypothesis import given
from hypothesis import strategies as st

from gradgraph.pass_list import PassList, Seen, not_reached


def seen(number: int, source: str | None = "a.py:1 in <module>", nodes: int = 3, **other: object) -> Seen:
    values = {"orders": (0,), "held_bytes": 8, "seconds": 0.001, "accumulates": True, "create_graph": False, **other}
    return Seen(number=number, source=source, nodes=nodes, **values)  # type: ignore[arg-type]


def test_no_pass() -> None:
    assert PassList("a.py").to_text() == "a.py ran no backward pass (backward() or autograd.grad())."


def test_a_row_for_each_line_call_and_shape() -> None:
    passes = PassList("a.py")
    for number, one in enumerate(
        [
            seen(1),
            seen(2),
            seen(3, nodes=4, held_bytes=2048),
            seen(4, accumulates=False, create_graph=True, orders=(0, 1)),
            seen(5, source=None, raised="ValueError", nodes=0, orders=(), held_bytes=0),
        ],
        start=1,
    ):
        assert one.number == number
        passes.add(one)
    assert passes.to_text() == (
        "a.py ran 5 backward passes in 5 ms\n"
        "pass  times  line    call                         orders  nodes    holds  time  each\n"
        "1–2      ×2  a.py:1  backward                          0      3      8 B  2 ms  1 ms\n"
        "3            a.py:1  backward                          0      4  2.0 KiB  1 ms\n"
        "4            a.py:1  grad create_graph               0 1      3      8 B  1 ms\n"
        "5            ?       backward, raised ValueError              0      0 B  1 ms"
    )


def test_passes_that_alternate_are_one_row_each() -> None:
    passes = PassList("a.py")
    for number in range(1, 15_001):
        passes.add(seen(number, f"a.py:{number % 3}"))
    numbers = [line.split("  ")[0] for line in passes.to_text().splitlines()[2:]]
    assert numbers == ["1, 4 … 14998", "2, 5 … 14999", "3, 6 … 15000"]
    three = PassList("a.py")
    for number in (2, 4, 6):
        three.add(seen(number))
    assert "2, 4, 6" in three.to_text()
    passes.add(seen(15_001, "a.py:0"))
    assert passes.rows[2].every == 0
    assert "3 … 15001" in passes.to_text()


def test_many_shapes_of_one_line_become_one_row_with_ranges() -> None:
    passes = PassList("a.py")
    for number in range(1, 101):
        passes.add(seen(number, nodes=number % 50, held_bytes=number, orders=(number % 2,)))
    (row,) = passes.rows
    assert (row.first, row.last, row.count, row.orders) == (1, 100, 100, (0, 1))
    assert (row.nodes, row.held_bytes) == ([0, 49], [1, 100])
    assert "0–49" in passes.to_text()


def test_memory_is_constant_whatever_the_program_runs() -> None:
    passes = PassList("a.py")
    for number in range(1, 5_001):
        passes.add(seen(number, source=f"<string {number}>:1", nodes=number))
    assert len(passes.rows) <= 510
    assert sum(row.count for row in passes.rows) == passes.count == 5_000
    assert "?" in passes.to_text()


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", None]), st.integers(0, 20), st.integers(0, 9), st.booleans()), max_size=60
    )
)
def test_rows_conserve_what_they_sum_up(given_passes: list[tuple[str | None, int, int, bool]]) -> None:
    passes = PassList("a.py")
    for number, (source, nodes, held, create) in enumerate(given_passes, start=1):
        passes.add(seen(number, source, nodes, held_bytes=held, create_graph=create, seconds=0.5))
    rows = passes.rows
    assert sum(row.count for row in rows) == len(given_passes)
    assert sum(row.seconds for row in rows) == passes.seconds == 0.5 * len(given_passes)
    for row in rows:
        of_row = [
            (number, nodes, held)
            for number, (source, nodes, held, create) in enumerate(given_passes, start=1)
            if (source, create) == (row.source, row.one.create_graph) and row.nodes[0] <= nodes <= row.nodes[1]
        ]
        assert len(of_row) == row.count
        assert (of_row[0][0], of_row[-1][0]) == (row.first, row.last)
        assert [min(held for *_, held in of_row), max(held for *_, held in of_row)] == row.held_bytes
        if row.every:
            assert [number for number, *_ in of_row] == list(range(row.first, row.last + 1, row.every))
    value = json.loads(json.dumps(passes.to_dict()))
    assert [entry["count"] for entry in value["rows"]] == [row.count for row in rows]


def test_lines_keep_to_the_width() -> None:
    passes = PassList("a.py")
    passes.add(seen(1, source="a/very/long/path/to/" * 5 + "train.py:12 in a_function"))
    assert max(map(len, passes.to_text(80).splitlines())) <= 80
    assert max(map(len, passes.to_text(10_000).splitlines())) > 100


def test_what_is_said_of_a_pass_that_is_not_there() -> None:
    assert not_reached("a.py", 3, 0) == "a.py ran no backward pass, so there is no pass 3."
    assert not_reached("a.py", 3, 1) == "a.py ran 1 backward pass, so there is no pass 3; choose 1 (or -1)."
    assert not_reached("a.py", -3, 2) == (
        "a.py ran 2 backward passes, so there is no pass -3; choose from 1 to 2, or from -2 (the first) to -1 (the "
        "last)."
    )


def test_it_needs_no_torch() -> None:
    import subprocess

    program = "import sys, gradgraph.pass_list, gradgraph.running; print({'torch', 'networkx'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
