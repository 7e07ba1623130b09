"""Which pass of a script is taken, and what of its graph is drawn: the options, and what each refuses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import gradgraph
from tests.cli.conftest import RunCli
from tests.cli.test_commands import done

PENALTY = """\
import torch
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
x = torch.ones(2, 2, requires_grad=True)
net(x).mean().backward()
(slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
slope.square().mean().backward()
"""


@pytest.fixture(autouse=True)
def _penalty(folder: Path) -> None:
    Path("penalty.py").write_text(PENALTY)


def lines(run_cli: RunCli, options: str) -> set[str]:
    """The lines of the script that the graph's roots and nodes come from."""
    done(run_cli(f"trace penalty.py {options} -f -o g.json"))
    graph = gradgraph.read_json("g.json")
    return {str(data["source"]).split(" in ")[0] for _, data in graph.nodes(data=True) if data["source"]}


def test_pass_chooses_among_a_scripts_passes(run_cli: RunCli) -> None:
    assert lines(run_cli, "--pass 1") == lines(run_cli, "--pass -3") == {"penalty.py:5"}
    assert lines(run_cli, "--pass 2") == lines(run_cli, "--pass -2") == {"penalty.py:6"}
    last = lines(run_cli, "")
    assert lines(run_cli, "--pass 3") == lines(run_cli, "--pass -1") == last == {"penalty.py:6", "penalty.py:7"}
    assert gradgraph.read_json("g.json").graph["orders"] == [0, 1]


@pytest.mark.parametrize("command", ["summary", "memory", "hessian"])
def test_pass_is_an_option_of_every_command_on_a_script(run_cli: RunCli, command: str) -> None:
    def told(options: str) -> str:
        return re.sub(r'"seconds": [-+\de.]+', "", done(run_cli(f"{command} penalty.py {options} --json")).stdout)

    assert told("--pass 1") != told("--pass -1")
    assert told("--pass -1") == told("")


def test_gradients_and_a_hessian_are_those_of_the_chosen_pass(run_cli: RunCli) -> None:
    done(run_cli("trace penalty.py --pass 1 -gH -o first.json"))
    first = gradgraph.read_json("first.json")
    bias = first.nodes[first.find("net.2.bias")]
    assert bias["gradient"][0]["norm"] == pytest.approx(1.0)
    assert bias["hessian_diagonal"]["max"] == 0.0
    done(run_cli("trace penalty.py --pass -1 -gH -o last.json"))
    last = gradgraph.read_json("last.json")
    assert last.nodes[last.find("net.2.weight")]["hessian_diagonal"]["max"] > 0
    assert "net.2.bias" not in last.leaves().values()


@pytest.mark.parametrize(
    ("line", "status", "message"),
    [
        ("summary penalty.py --pass 4", 1, "penalty.py ran 3 backward passes, so there is no pass 4; choose from 1 to "
         "3, or from -3 (the first) to -1 (the last)."),
        ("summary penalty.py --pass -4", 1, "penalty.py ran 3 backward passes, so there is no pass -4; choose from 1 "
         "to 3, or from -3 (the first) to -1 (the last)."),
        ("render penalty.py:slope --pass 1", 1, "--pass chooses a backward pass of a script that runs, and "
         "penalty.py:slope names no such; give penalty.py alone, or leave out --pass."),
        ("memory graph.json --pass 1", 1, "--pass chooses a backward pass of a script that runs, and graph.json names "
         "no such; give a script, such as train.py, or leave out --pass."),
        ("trace penalty.py -o g.json --pass 0", 2, "there is no pass 0; expected 1 for the first backward pass, or -1 "
         "for the last. `gradgraph trace --help` shows the usage."),
        ("hessian penalty.py --pass first", 2, "Invalid value for '-p' / '--pass': 'first' is not a valid integer. "
         "`gradgraph hessian --help` shows the usage."),
        ("render penalty.py --hops 2", 2, "--hops says how far around a node, so it needs --focus NODE: a number, "
         "a name or a module. `gradgraph render --help` shows the usage."),
    ],
)  # fmt: skip
def test_what_cannot_be_taken(run_cli: RunCli, saved: Path, line: str, status: int, message: str) -> None:
    result = run_cli(line)
    assert (result.exit_code, result.stdout, result.stderr) == (status, "", f"error: {message}\n")


def test_every_view_option_reaches_render_under_its_own_name(
    run_cli: RunCli, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    got: list[dict[str, Any]] = []
    monkeypatch.setattr(gradgraph.AutogradGraph, "render", lambda _, path, **options: got.append(options))
    done(run_cli("render graph.json -o a.svg"))
    defaults = {"fold": "auto", "depth": None, "expand": (), "focus": None, "hops": 2, "order": None, "max_nodes": 150}
    assert {**got[0], **defaults, "layout": "auto", "color": "order", "theme": "light"} == got[0]
    done(
        run_cli(
            "render graph.json -o a.svg --fold module --depth 2 --expand h.0 --expand h.1 --focus 12 --hops 3 --order "
            "0 --order 2 --max-nodes 9 --color saved_bytes --layout lanes --theme dark"
        )
    )
    given = {"fold": "module", "depth": 2, "expand": ("h.0", "h.1"), "focus": 12, "hops": 3, "order": (0, 2)}
    given["max_nodes"] = 9
    assert {**got[1], **given, "layout": "lanes", "color": "saved_bytes", "theme": "dark"} == got[1]
    done(run_cli("render graph.json -o a.svg --focus model.0.weight"))
    assert got[2]["focus"] == "model.0.weight"


def boxes(dot: str) -> int:
    return len(re.findall(r"^\s+\"?\w+\"? \[", dot, re.MULTILINE))


def test_the_options_change_the_picture(run_cli: RunCli) -> None:
    whole = done(run_cli("render penalty.py -o - -F dot --fold none")).stdout
    by_module = done(run_cli("render penalty.py -o - -F dot --fold module")).stdout
    near = done(run_cli("render penalty.py -o - -F dot --fold none --focus net.0.weight --hops 1")).stdout
    lowest = done(run_cli("render penalty.py -o - -F dot --fold none --order 0")).stdout
    assert "net.0" in by_module
    assert boxes(by_module) < boxes(whole)
    assert boxes(near) < boxes(whole)
    assert boxes(lowest) < boxes(whole)
    in_lanes = done(run_cli("render penalty.py -o - -F dot --layout lanes")).stdout
    assert in_lanes != done(run_cli("render penalty.py -o - -F dot --layout dot")).stdout


@pytest.mark.parametrize("color", ["order", "gradient", "saved_bytes", "hessian_diagonal", "curvature"])
def test_a_measure_that_is_coloured_is_computed(run_cli: RunCli, color: str) -> None:
    picture = done(run_cli(f"render penalty.py -o - -F dot --color {color}")).stdout
    assert ("‖grad‖" in picture) == (color == "gradient")
    assert ("curvature along the gradient" in picture) == (color == "curvature")


@pytest.mark.parametrize(
    ("options", "word"),
    [("--focus nowhere", "nowhere"), ("--focus 999", "999"), ("--order 7", "7"), ("--expand nowhere", "nowhere")],
)  # fmt: skip
def test_a_view_that_is_not_there_is_one_line_with_a_remedy(run_cli: RunCli, options: str, word: str) -> None:
    result = run_cli(f"render penalty.py -o view.svg {options}")
    assert (result.exit_code, result.stdout) == (1, ""), result.output
    (error,) = result.stderr.splitlines()
    assert error.startswith("error: ")
    assert word in error
    assert "bug" not in error
    assert not Path("view.svg").exists()
