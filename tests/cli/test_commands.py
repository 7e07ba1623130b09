"""Every command on every kind of target."""

from __future__ import annotations

import json
import re
from importlib import import_module
from pathlib import Path

import networkx as nx
import pytest
from click.testing import Result

import gradgraph
from gradgraph.render import FORMATS
from tests.cli.conftest import RunCli

TARGETS = ["train.py", "train.py:loss", "train.py:make", "package.module:loss", "graph.json"]
STARTS = {"png": b"\x89PNG", "svg": b"<svg", "pdf": b"%PDF", "dot": b"digraph"}


def done(result: Result) -> Result:
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(autouse=True)
def _saved(saved: Path) -> None:
    """All tests here have `graph.json`."""


@pytest.mark.parametrize("target", TARGETS)
def test_render_draws_into_a_file_named_after_the_target(run_cli: RunCli, target: str) -> None:
    result = done(run_cli(f"render {target}"))
    stems = ["train", "train-loss", "train-make", "package.module-loss", "graph"]
    expected = f"{stems[TARGETS.index(target)]}.png"
    assert result.stdout == f"{expected}\n"
    assert Path(expected).read_bytes().startswith(STARTS["png"])


@pytest.mark.needs_embedded
@pytest.mark.parametrize("suffix", FORMATS)
def test_render_formats_and_options(run_cli: RunCli, suffix: str) -> None:
    done(run_cli(f"render graph.json -o a.{suffix.upper()} --gradients --hessian --saved --theme dark"))
    assert STARTS[suffix] in Path(f"a.{suffix.upper()}").read_bytes()[:300]
    streamed = done(run_cli(f"render graph.json -o - -F {suffix} -g -H -s -t dark"))
    assert streamed.stdout_bytes == Path(f"a.{suffix.upper()}").read_bytes()
    done(run_cli(f"render graph.json -F {suffix} -e embedded"))
    assert Path(f"graph.{suffix}").exists()


def test_render_shows_what_was_asked_for(run_cli: RunCli) -> None:
    plain = done(run_cli("render train.py -o - -F dot")).stdout
    full = done(run_cli("render train.py -gHs -o - -F dot")).stdout
    for text in ("model.0.weight", "AddmmBackward0", "epoch"):
        assert (text in plain) == (text != "epoch")
    assert "‖grad‖" in full
    assert "‖grad‖" not in plain
    assert len(full) > len(plain)


def test_the_scripts_output_goes_to_stderr_and_its_arguments_to_it(run_cli: RunCli) -> None:
    result = done(run_cli("summary train.py --json -- --epochs 4"))
    assert json.loads(result.stdout)["nodes"] > 5
    assert result.stderr.splitlines() == [f"epoch {epoch}" for epoch in range(4)]


@pytest.mark.parametrize("target", TARGETS)
def test_trace_saves_what_opens_again(run_cli: RunCli, target: str) -> None:
    result = done(run_cli(f"trace {target} -o again.json"))
    graph = gradgraph.read_json("again.json")
    assert result.stdout == f"again.json: {len(graph)} nodes, {graph.number_of_edges()} edges\n"
    done(run_cli(f"trace {target} -o again.graphml"))
    assert len(nx.read_graphml("again.graphml")) == len(graph)
    assert done(run_cli("summary again.json --json")).stdout == done(run_cli(f"summary {target} --json")).stdout


def test_trace_saves_annotations(run_cli: RunCli) -> None:
    done(run_cli("trace train.py:loss -g -H -o full.json"))
    graph = gradgraph.read_json("full.json")
    weight = graph.nodes[graph.find("model.0.weight")]
    assert weight["gradient"][0]["norm"] > 0
    assert weight["hessian_diagonal"]["exact"] is True


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("command", ["summary", "memory"])
def test_summary_and_memory(run_cli: RunCli, command: str, target: str) -> None:
    text = done(run_cli(f"{command} {target}")).stdout
    assert text.strip()
    value = json.loads(done(run_cli(f"{command} {target} --json")).stdout)
    assert isinstance(value, dict)
    if command == "summary":
        assert f"{value['nodes']} nodes" in text
        names = {leaf["name"] for leaf in value["leaves"]}
        assert names == ({"weight"} if target.endswith("make") else names)


def test_memory_top(run_cli: RunCli) -> None:
    value = json.loads(done(run_cli("memory graph.json --json --top 1")).stdout)
    assert len(value["entries"]) == 1


@pytest.mark.parametrize("target", TARGETS)
def test_hessian(run_cli: RunCli, target: str) -> None:
    rows = json.loads(done(run_cli(f"hessian {target} --json")).stdout)["leaves"]
    text = done(run_cli(f"hessian {target}")).stdout
    for row in rows:
        assert row["name"] in text
        assert row["reached"] is True
        assert row["min"] <= row["mean"] <= row["max"]
    if target == "train.py:make":  # of a product, a*b: zero in a and in b
        assert rows == [{**rows[0], "name": "weight", "shape": [2], "mean": 0.0, "zeros": 2, "negative": 0}]
    else:
        assert len(rows) == 4


def test_hessian_methods_agree_and_the_last_pass_has_its_own_values(run_cli: RunCli) -> None:
    Path("first.py").write_text(
        Path("train.py").read_text().replace("for epoch", "first = model(data).square().mean()\nfor epoch")
    )
    values = {
        line: [row["mean"] for row in json.loads(done(run_cli(f"hessian {line}")).stdout)["leaves"]]
        for line in (
            "train.py --json --method accumulate -- --epochs 1",
            "train.py --json --method batched -- --epochs 1",
            "first.py:first --json -- --epochs 0",
        )
    }
    expected, *others = values.values()
    for other in others:
        assert sorted(other) == pytest.approx(sorted(expected), rel=1e-12)


@pytest.mark.needs_embedded
def test_doctor(run_cli: RunCli) -> None:
    text = done(run_cli("doctor")).stdout
    assert text.endswith("Pictures can be drawn.\n")
    report = json.loads(done(run_cli("doctor --json")).stdout)
    checks = {check["name"]: check for check in report["checks"]}
    assert report["can_draw"] is True
    assert {"gradgraph", "python", "torch", "cuda", "dot", "embedded", "resvg", "png", "pdf", "fonts"} <= set(checks)
    assert checks["embedded"]["ok"] is True
    assert checks["gradgraph"]["detail"] == gradgraph.__version__


def test_doctor_says_when_nothing_can_draw(run_cli: RunCli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(import_module("gradgraph.render.engines"), "_package_folder", lambda name: None)
    result = run_cli("doctor --json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["can_draw"] is False
    failed = {check["name"] for check in report["checks"] if check["ok"] is False}
    assert failed == {"embedded", "resvg", "png", "pdf"}
    assert "Nothing here can draw a picture" in run_cli("doctor").stdout


def test_doctor_tells_of_optional_packages(run_cli: RunCli, monkeypatch: pytest.MonkeyPatch) -> None:
    doctor = import_module("gradgraph.doctor")

    def version(package: str) -> str:
        if package == "safetensors":
            raise doctor.PackageNotFoundError(package)
        return "3.9"

    monkeypatch.setattr(doctor, "version", version)
    text = run_cli("doctor").stdout
    assert re.search(r"^ok  matplotlib +3\.9, for charts, as of gradgraph hessian --plot and --heat-map$", text, re.M)
    missing = r"^--  safetensors +not installed; for gradgraph hessian --save: pip install 'gradgraph\[save\]'$"
    assert re.search(missing, text, re.M)


def test_an_existing_file_is_kept_unless_forced(run_cli: RunCli) -> None:
    Path("mine.svg").write_text("mine")
    result = run_cli("render train.py -o mine.svg")
    assert (result.exit_code, Path("mine.svg").read_text(), Path("ran").exists()) == (2, "mine", False)
    done(run_cli("render train.py -o mine.svg --force"))
    assert Path("mine.svg").read_text() != "mine"
