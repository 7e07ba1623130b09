"""`gradgraph hessian`: what the table tells, what is marked, what is written."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from gradgraph.commands import arguments
from gradgraph.hessian_table import HessianTable
from tests.cli.conftest import RunCli
from tests.cli.test_bad_input import refused
from tests.cli.test_commands import done

#: f = x³ + 2y, so diag(H) = (6, -12) and 0; and the square root's is -inf at 0, NaN times 0.
LOSSES = """\
import torch
x = torch.tensor([1.0, -2.0], requires_grad=True, dtype=torch.float64)
y = torch.tensor([3.0], requires_grad=True)
def cubic():
    return (x**3).sum() + 2 * y.sum()
def nan():
    bad = torch.tensor([0.0, 4.0, 0.0], requires_grad=True)
    return (bad * 0).sqrt().sum() + bad.square().sum()
def complex():
    z = torch.tensor([1.0 + 1j], requires_grad=True)
    return (z * z).sum()
def many():
    wide = torch.ones(2000, requires_grad=True)
    return wide.square().sum()
"""


@pytest.fixture(autouse=True)
def _losses(folder: Path) -> None:
    Path("losses.py").write_text(LOSSES)


def read(path: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file."""
    safetensors = pytest.importorskip("safetensors")
    with safetensors.safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118 - it is no dict


def leaves(run_cli: RunCli, line: str) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in json.loads(done(run_cli(f"hessian {line} --json")).stdout)["leaves"]}


def test_a_row_tells_figures_and_how_they_were_computed(run_cli: RunCli) -> None:
    found = leaves(run_cli, "losses.py:cubic --method batched")
    x = found["x"]
    assert (x["min"], x["mean"], x["max"]) == (-12.0, -3.0, 6.0)
    assert (x["negative"], x["negative_share"], x["zeros"], x["nan"]) == (1, 0.5, 0, 0)
    assert (x["method"], x["exact"]) == ("batched", True)
    assert x["passes"] >= 1
    assert x["reason"]
    text = done(run_cli("hessian losses.py:cubic --method batched")).stdout
    table, notes, *_ = text.split("\n\n")
    header, *rows = table.splitlines()
    assert header.split()[:6] == ["leaf", "shape", "min", "mean", "max", "negative"]
    (row,) = [row for row in rows if row.startswith("x ")]
    assert row.split()[:8] == ["x", "[2]", "-12", "-3", "6", "50", "%", "batched"]
    assert f"[1] {x['reason']}" in notes
    assert "[1]" in row or "[2]" in row
    assert "NaN" not in header
    assert "stderr" not in header


def test_entries_that_are_nan_are_counted_and_told(run_cli: RunCli) -> None:
    result = done(run_cli("hessian losses.py:nan"))
    header, row, *_ = result.stdout.splitlines()
    assert header.split()[6:8] == ["NaN", "method"]
    assert row.split()[2:5] == ["nan", "nan", "nan"]
    assert row.split()[7] == "3"
    assert re.search(r"^warning: bad: 3 of 3 entries of the diagonal are NaN; ", result.stderr, re.MULTILINE)
    found = leaves(run_cli, "losses.py:nan")["bad"]
    assert (found["nan"], found["mean"]) == (3, "nan")


def test_a_complex_loss_is_refused(run_cli: RunCli) -> None:
    assert "expected a real scalar loss" in refused(run_cli, "hessian losses.py:complex", 1)


def test_a_small_budget_of_memory_is_kept_or_told(run_cli: RunCli) -> None:
    whole = leaves(run_cli, "losses.py:many --method batched")["wide"]
    tight = leaves(run_cli, "losses.py:many --method batched --memory 1MiB")["wide"]
    tiny = leaves(run_cli, "losses.py:cubic --method batched --memory 1B")["x"]
    assert tight["chunk"] < whole["chunk"]
    assert tight["mean"] == whole["mean"] == 2.0
    assert tiny["chunk"] == 1
    assert "more than" in tiny["reason"]


def test_save_writes_tensors_that_others_read(run_cli: RunCli) -> None:
    pytest.importorskip("safetensors")
    done(run_cli("hessian losses.py:cubic --save diag.safetensors"))
    tensors, about = read("diag.safetensors")
    assert tensors["x"].tolist() == [6.0, -12.0]
    assert tensors["x"].dtype == torch.float64
    assert tensors["y"].tolist() == [0.0]
    assert json.loads(about["exact"]) == {"x": True, "y": True}
    assert set(json.loads(about["method"])) == {"x", "y"}
    assert about["target"] == "losses.py:cubic"
    first = Path("diag.safetensors").read_bytes()
    done(run_cli("hessian losses.py:cubic --save diag.safetensors --force"))
    assert Path("diag.safetensors").read_bytes() == first


def test_save_without_the_package_says_so_before_anything_runs(
    run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    message = refused(run_cli, "hessian train.py --save diag.safetensors", 1)
    assert message == (
        "--save needs the package safetensors, which is not installed; pip install 'gradgraph[save]', or pip install "
        "safetensors."
    )
    assert not Path("ran").exists()


@pytest.mark.parametrize("option", ["--save a.safetensors", "--method accumulate", "--memory 1MiB"])
def test_what_only_a_program_can_give_is_refused_of_a_saved_graph(run_cli: RunCli, saved: Path, option: str) -> None:
    message = refused(run_cli, f"hessian graph.json {option}", 1)
    assert message.startswith("graph.json is a saved graph, which holds figures of a Hessian at most, and ")
    assert not Path("a.safetensors").exists()


def test_a_saved_graph_tells_what_it_holds(run_cli: RunCli, saved: Path) -> None:
    header, *rows = done(run_cli("hessian graph.json")).stdout.splitlines()
    assert header.split() == ["leaf", "shape", "min", "mean", "max", "negative", "method"]
    assert len(rows) == 4


@pytest.mark.parametrize("method", ["hutchinson", "xdiag"])
def test_an_estimate_has_its_error_and_repeats(run_cli: RunCli, method: str) -> None:
    line = f"hessian train.py --method {method} --probes 6"
    text = done(run_cli(line)).stdout
    header, *rows = text.partition("\n\n")[0].splitlines()
    assert header.split()[6:9] == ["stderr", "method", "passes"]
    assert all(method in row for row in rows)
    assert re.search(r"^trace of the Hessian \+[\d.]+ ± [\d.]+ \(estimated\)", text, re.MULTILINE)
    assert done(run_cli(line)).stdout == text
    assert done(run_cli(f"{line} --seed 0")).stdout == text
    assert done(run_cli(f"{line} --seed 1")).stdout != text
    pytest.importorskip("safetensors")
    done(run_cli(f"{line} --top 0 --save est.safetensors"))
    tensors, about = read("est.safetensors")
    exact = json.loads(about["exact"])
    assert set(tensors) == {*exact, *(f"stderr:{name}" for name in exact)}
    assert tensors["stderr:model.0.bias"].shape == tensors["model.0.bias"].shape
    row = leaves(run_cli, f"train.py --method {method} --probes 6")["model.0.bias"]
    assert row["stderr"] == pytest.approx(float(tensors["stderr:model.0.bias"].square().mean().sqrt()))


def test_an_estimate_stops_at_its_tolerance(run_cli: RunCli) -> None:
    loose, tight = (leaves(run_cli, f"train.py --method hutchinson --tolerance {one} --top 0") for one in (1.0, 0.05))
    assert loose["model.0.weight"]["passes"] < tight["model.0.weight"]["passes"]
    assert "probes expected a whole number" in refused(run_cli, "hessian train.py --method xdiag --probes 1", 1)


def test_methods_agree(run_cli: RunCli) -> None:
    found = [leaves(run_cli, f"train.py --method {one} --top 0") for one in ("auto", "graph", "batched", "accumulate")]
    for other in found[1:]:
        for name, row in found[0].items():
            for figure in ("min", "mean", "max"):
                assert other[name][figure] == pytest.approx(row[figure], rel=1e-9)
    assert found[1]["model.0.weight"]["method"] == "graph"
    assert found[0]["model.0.weight"]["seconds"] > 0


def test_reasons_stand_below_the_table_in_the_width_of_the_terminal() -> None:
    rows = (
        {"name": "a", "shape": [2], "reached": True, "reason": "one " * 30, "method": "graph"},
        {"name": "b", "shape": [2], "reached": True, "reason": "two", "method": "batched"},
        {"name": "c", "shape": [2], "reached": True, "reason": "one " * 30, "method": "graph"},
        {"name": "d", "shape": [2], "reached": False},
    )
    text = HessianTable(rows).to_text(60)
    assert max(map(len, text.splitlines())) <= 60
    assert [line.split()[-1] for line in text.splitlines()[1:5]] == ["[1]", "[2]", "[1]", "[3]"]
    assert "\n    one one" in text
    assert text.endswith("[2] two\n[3] the loss does not reach it")


@pytest.mark.parametrize("line", ["hessian losses.py:many", "trace losses.py:many -H -o a.json",
                                  "render losses.py:many -H -o a.svg"])  # fmt: skip
def test_long_work_is_announced_once_where_there_is_no_bar(
    run_cli: RunCli, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.setattr(arguments, "_PATIENCE", 1e6)
    assert "computing" not in done(run_cli(line)).stderr
    monkeypatch.setattr(arguments, "_PATIENCE", 0.0)
    told = done(run_cli(f"{line}{'' if line.startswith('hessian') else ' --force'}")).stderr.splitlines()
    assert told[0] == "computing the diagonal of the Hessian, 2,000 entries in all: this may take a while"
    assert len(told) == (2 if line.startswith("hessian") else 1), "one line for each piece of work"


def test_long_work_is_not_announced_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(arguments, "_PATIENCE", 0.0)
    monkeypatch.setattr("click.echo", lambda text, **_: said.append(text))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with arguments.working("something"):
        math.factorial(20_000)
    assert said == []


@pytest.mark.parametrize(
    ("line", "first", "second"),
    [
        ("--plot a.png --heat-map a.png", "--plot", "--heat-map"),
        ("--plot a.png --heat-map ./a.png --force", "--plot", "--heat-map"),
        ("--save a.safetensors --plot a.safetensors", "--save", "--plot"),
    ],
)
def test_one_file_for_two_options_is_refused_before_anything_runs(
    run_cli: RunCli, line: str, first: str, second: str
) -> None:
    message = refused(run_cli, f"hessian train.py {line}", 2)
    assert message.startswith(f"{first} and {second} both name ")
    assert not Path("ran").exists()


def test_a_hessian_too_large_to_draw_is_refused_before_its_diagonal(
    run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    computed: list[object] = []
    monkeypatch.setattr("gradgraph.annotated._MOST_ENTRIES", 12)
    monkeypatch.setattr("gradgraph.annotated.add_hessian", lambda *_, **__: computed.append(1))
    message = refused(run_cli, "hessian train.py --heat-map a.png", 1)
    assert message.startswith("the Hessian of train.py has 13 entries a side, and a heat map is of at most 12; ")
    assert computed == []


def test_the_plot_needs_no_list(run_cli: RunCli) -> None:
    pytest.importorskip("matplotlib")
    text = done(run_cli("hessian train.py --top 0 --plot a.png")).stdout
    assert "trace of the Hessian" not in text
    assert Path("a.png").stat().st_size > 1000
