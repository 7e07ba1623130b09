"""Which operations curvature comes from, on the command line: the table, the chart, pictures and saved graphs."""

from __future__ import annotations

import json
import math
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import gradgraph
from gradgraph.errors import GradGraphError
from tests.cli.conftest import RunCli
from tests.cli.test_bad_input import refused
from tests.cli.test_commands import done

#: At w = (1, 2) the gradient of w₀² w₁ is (4, 1), its Hessian [[4, 2], [2, 0]].
POLYNOMIAL = """\
import torch
w = torch.tensor([1.0, 2.0], requires_grad=True, dtype=torch.float64)
def loss():
    return (w[0] ** 2) * w[1]
def flat():
    return (w - w.detach()).square().sum() * 0.5
def frozen():
    return 3 * w.sum()
def relu():
    return torch.nn.functional.relu(w).sum() + w.sum()
loss().backward()
"""
TRACE, ALONG = 4.0, (16 * 4 + 2 * 4 * 2) / 17


@pytest.fixture(autouse=True)
def _polynomial(folder: Path) -> None:
    Path("poly.py").write_text(POLYNOMIAL)


def split(run_cli: RunCli, line: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done(run_cli(f"hessian {line} --json")).stdout)["curvature"]
    return found


def test_the_table_names_operations_modules_and_lines(run_cli: RunCli) -> None:
    text = done(run_cli("hessian train.py")).stdout
    heading, header, *rows = text.rpartition("\n\n")[2].splitlines()
    assert re.match(r"trace of the Hessian \+[\d.]+: Gauss-Newton \+[\d.]+, residual [-+][\d.]+$", heading)
    assert header.split() == ["curvature", "share", "operation", "node", "module", "line"]
    assert any(re.search(r"TanhBackward0 .* model\.1  train\.py:10$", row) for row in rows)
    assert re.match(r"\d+ operations add nothing", rows[-1])


@pytest.mark.parametrize("line", ["train.py", "train.py:loss", "poly.py", "poly.py:loss", "package.module:loss"])
def test_the_operations_add_up_to_the_trace_of_the_diagonal(run_cli: RunCli, line: str) -> None:
    value = json.loads(done(run_cli(f"hessian {line} --json --top 1000")).stdout)
    trace = math.fsum(row["mean"] * math.prod(row["shape"]) for row in value["leaves"])
    curvature = value["curvature"]
    assert curvature["of"] == "trace"
    assert curvature["total"] == pytest.approx(trace, rel=1e-12)
    assert math.fsum(row["curvature"] for row in curvature["operations"]) == pytest.approx(trace, rel=1e-12)
    assert curvature["more"]["count"] == 0
    if line.startswith("poly"):
        assert trace == pytest.approx(TRACE)
        assert {row["op"]: row["source"].partition(" ")[0] for row in curvature["operations"]} == {
            "PowBackward0": "poly.py:4"
        }


def test_top_limits_the_rows_and_sums_the_rest(run_cli: RunCli) -> None:
    whole, one = (split(run_cli, f"train.py --top {top}") for top in (1000, 1))
    first, *rest = whole["operations"]
    assert one["operations"] == [first]
    assert whole["magnitude"] == pytest.approx(math.fsum(abs(row["curvature"]) for row in whole["operations"]))
    assert first["share"] == pytest.approx(first["curvature"] / whole["magnitude"])
    assert one["more"]["count"] == len(rest) > 0
    assert one["more"]["curvature"] == pytest.approx(math.fsum(row["curvature"] for row in rest))
    assert "… and 1 more: " in done(run_cli("hessian train.py --top 1")).stdout
    assert "curvature" not in json.loads(done(run_cli("hessian train.py --top 0 --json")).stdout)


def test_a_trace_of_zero_has_no_shares(run_cli: RunCli) -> None:
    found = split(run_cli, "poly.py:relu")
    assert (found["total"], found["operations"]) == (0.0, [])
    assert "operations add nothing" in done(run_cli("hessian poly.py:relu")).stdout


def test_a_split_that_fails_costs_no_table(run_cli: RunCli, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise GradGraphError("FooBackward hides what it computes.")

    monkeypatch.setattr(import_module("gradgraph.curvature"), "curvature", broken)
    result = done(run_cli("hessian poly.py"))
    assert result.stdout.startswith("leaf")
    assert result.stderr == (
        "warning: the operations that it comes from cannot be told: FooBackward hides what it computes.\n"
    )
    assert refused(run_cli, "hessian poly.py --plot a.png", 1) == "FooBackward hides what it computes."


@pytest.mark.parametrize("options", ["", "--by op", "--by source", "--by module"])
def test_plot_draws_bars(run_cli: RunCli, options: str) -> None:
    done(run_cli(f"hessian train.py --plot bars.svg {options}"))
    text = Path("bars.svg").read_text()
    assert "<svg" in text
    first = Path("bars.svg").read_bytes()
    done(run_cli(f"hessian train.py --plot bars.svg {options} --force --top 0"))
    assert Path("bars.svg").read_bytes() == first


def test_heat_map_draws_the_whole_hessian(run_cli: RunCli) -> None:
    done(run_cli("hessian train.py --heat-map heat.png"))
    assert Path("heat.png").read_bytes().startswith(b"\x89PNG")


def test_a_hessian_too_large_for_a_heat_map_is_refused(run_cli: RunCli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("gradgraph.annotated"), "_MOST_ENTRIES", 5)
    message = refused(run_cli, "hessian train.py --heat-map heat.png", 1)
    assert message.startswith("the Hessian of train.py has 13 entries a side, and a heat map is of at most 5; ")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("hessian train.py --plot a.jpeg", "--plot a.jpeg has the suffix .jpeg; expected .png or .svg or .pdf."),
        ("hessian train.py --heat-map a", "--heat-map a has no suffix; expected .png or .svg or .pdf."),
        ("hessian train.py --plot x/a.png", "there is no folder x to write x/a.png into; create it first (mkdir -p)."),
        ("hessian train.py --by op", "--by says what a bar of --plot stands for; expected --plot FILE with it."),
        ("hessian train.py --top -1", "Invalid value for '-n' / '--top': -1 is not in the range x>=0."),
        ("render train.py --curvature hessian", "Invalid value for '--curvature': 'hessian' is not one of 'gradient', "
         "'trace'."),
    ],
)  # fmt: skip
def test_wrong_usage_is_found_before_anything_runs(run_cli: RunCli, line: str, message: str) -> None:
    assert refused(run_cli, line, 2) == f"{message} `gradgraph {line.split()[0]} --help` shows the usage."
    assert not Path("ran").exists()


def test_a_missing_matplotlib_is_found_before_anything_runs(run_cli: RunCli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert refused(run_cli, "hessian train.py --plot a.png", 1) == (
        "--plot needs the package matplotlib, which is not installed; pip install 'gradgraph[plot]', or pip install "
        "matplotlib."
    )
    assert not Path("ran").exists()


@pytest.mark.parametrize(("quantity", "total"), [("trace", TRACE), ("gradient", ALONG)])
@pytest.mark.parametrize("target", ["poly.py", "poly.py:loss"])
def test_trace_saves_what_each_operation_adds(run_cli: RunCli, target: str, quantity: str, total: float) -> None:
    done(run_cli(f"trace {target} --curvature {quantity} -o g.json"))
    graph = gradgraph.read_json("g.json")
    about = graph.graph["curvature"]
    assert about["of"] == quantity
    assert about["total"] == pytest.approx(total, rel=1e-12)
    values = [data["curvature"] for _, data in graph.nodes(data=True) if data["kind"] != "leaf"]
    assert math.fsum(values) == pytest.approx(total, rel=1e-12)
    assert graph.nodes[graph.find("w")]["curvature"] is None
    done(run_cli(f"trace {target} --curvature {quantity} -o g.graphml"))


def test_a_saved_graph_shows_what_it_holds(run_cli: RunCli) -> None:
    done(run_cli("trace poly.py --curvature gradient -H -o g.json"))
    found = split(run_cli, "g.json")
    assert found["of"] == "gradient"
    assert "curvature along the gradient" in done(run_cli("hessian g.json")).stdout
    for options in ("", "--curvature gradient", "--color curvature"):
        dot = done(run_cli(f"render g.json -o - -F dot {options}")).stdout
        assert "curvature along the gradient +4.71" in dot
    assert refused(run_cli, "render g.json --curvature trace", 1) == (
        "g.json was saved without the curvature of its operations (trace), and only the program can compute that: "
        "save the graph again with gradgraph trace script.py -o g.json --curvature trace, or give the script itself."
    )
    done(run_cli("trace poly.py -o plain.json"))
    assert "--curvature gradient, or give" in refused(run_cli, "render plain.json --color curvature", 1)


@pytest.mark.parametrize("target", ["poly.py", "poly.py:loss"])
def test_render_shows_each_nodes_share_by_figure_and_colour(run_cli: RunCli, target: str) -> None:
    plain = done(run_cli(f"render {target} -o - -F dot --layout lanes")).stdout
    figures = done(run_cli(f"render {target} -o - -F dot --layout lanes --curvature trace")).stdout
    colours = done(run_cli(f"render {target} -o - -F dot --layout lanes --color curvature")).stdout
    assert "curvature" not in plain
    assert "trace of the Hessian +4" in figures
    assert "curvature +4 (+100 %)" in figures
    assert "curvature along the gradient +4.71" in colours
    shown = {float(share) for share in re.findall(r"curvature [-+][\d.]+ \(([-+]\d+) %\)", colours)}
    assert sum(shown) == pytest.approx(100, abs=1)
    assert len(shown) == 2


def test_a_folded_box_shows_the_sum(run_cli: RunCli) -> None:
    dot = done(run_cli("render poly.py -o - -F dot --fold line --curvature gradient")).stdout
    assert "curvature +4.71 (+100 %)" in dot


def test_no_gradient_no_direction(run_cli: RunCli) -> None:
    assert refused(run_cli, "render poly.py:flat --color curvature", 1) == (
        "there is no curvature along the gradient, which has length 0; expected a positive one. The trace needs no "
        "direction: --curvature trace"
    )
    assert "curvature" in done(run_cli("render poly.py:flat --curvature trace -o - -F dot")).stdout
    # A linear loss has a gradient, and no curvature along it.
    assert (
        "curvature along the gradient 0" in done(run_cli("render poly.py:frozen --color curvature -o - -F dot")).stdout
    )


@pytest.mark.parametrize(
    "line", ["render vector.py:y --color curvature", "trace vector.py:y --curvature trace -o g.json"]
)
def test_no_scalar_no_curvature(run_cli: RunCli, line: str) -> None:
    Path("vector.py").write_text("import torch\nw = torch.ones(3, requires_grad=True)\ny = w * w")
    assert "expected a real scalar loss" in refused(run_cli, line, 1)


def test_a_freed_graph_says_what_to_do(run_cli: RunCli) -> None:
    Path("freed.py").write_text(
        "import torch\nw = torch.ones(3, requires_grad=True)\nloss = w.exp().sum()\nloss.backward()"
    )
    for line in ("render freed.py:loss --color curvature", "trace freed.py:loss --curvature trace -o g.json"):
        assert "retain_graph=True" in refused(run_cli, line, 1)
