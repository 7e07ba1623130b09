"""Every bad input: one line that says what to do, an exit status, no file left behind, nothing run in vain."""

from __future__ import annotations

import errno
import json
import os
import re
from importlib import import_module
from pathlib import Path

import pytest

from tests.cli.conftest import RunCli

HELP = " `gradgraph {0} --help` shows the usage."


def refused(run_cli: RunCli, line: str, status: int) -> str:
    before = set(os.listdir("."))
    result = run_cli(line)
    assert result.exit_code == status, result.output
    assert result.stdout == ""
    *_, error = result.stderr.splitlines()
    assert "Traceback" not in result.stderr
    assert set(os.listdir(".")) - before <= {"ran", "__pycache__"}
    assert error.startswith("error: ")
    return error.removeprefix("error: ")


@pytest.mark.parametrize("command", ["render", "trace", "summary", "memory", "hessian"])
def test_a_script_that_raises(run_cli: RunCli, command: str) -> None:
    Path("bad.py").write_text("import torch\nraise ValueError('no good')")
    line = f"{command} bad.py" + (" -o g.json" if command == "trace" else "")
    assert refused(run_cli, line, 1) == (
        "bad.py:2: the program raised ValueError: no good (expected it to run to its end; `gradgraph --debug ...` "
        "shows the traceback)."
    )
    shown = run_cli(f"--debug {line}").stderr
    assert "Traceback (most recent call last)" in shown
    assert "ValueError: no good" in shown


def test_a_script_that_raises_after_its_pass_leaves_no_picture(run_cli: RunCli) -> None:
    Path("bad.py").write_text("import torch\ntorch.ones(1, requires_grad=True).sum().backward()\n1 / 0")
    assert refused(run_cli, "render bad.py", 1).startswith("bad.py:3: the program raised ZeroDivisionError")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("render nowhere.py", "there is no file nowhere.py; expected script.py, script.py:name, package.module:name or "
         "a saved graph.json."),
        ("summary train.py:los", "train.py has no global 'los' after it ran. Did you mean train.py:loss?"),
        ("summary train.py:epochs", "train.py:epochs holds no tensor: expected a tensor, a GradientEdge or a nesting "
         "of them, got an int."),
        ("memory train.py:data", "train.py:data is a float64 tensor of shape [8, 2] that does not require grad, so "
         "there is no graph to trace. Was it computed under torch.no_grad(), detached, converted by .item() or "
         ".numpy(), or from leaves without requires_grad=True? A gradient has a graph only where create_graph=True "
         "made one."),
        ("render train.py -- --epochs 0", "train.py ran to its end without a backward pass (backward() or "
         "autograd.grad()), so there is no graph to show. Either let it run one, or name one of its tensors that have "
         "a graph (loss): train.py:loss"),
        ("render train.py -- --epochs many", "train.py:8: the program raised ValueError: invalid literal for int() "
         "with base 10: 'many' (expected it to run to its end; `gradgraph --debug ...` shows the traceback)."),
        ("hessian train.py:model.0.weight", "train.py has no attribute"),
    ],
)  # fmt: skip
def test_a_target_that_gives_no_graph(run_cli: RunCli, line: str, message: str) -> None:
    if line.endswith("model.0.weight"):  # `0` is no identifier, so this is no form of TARGET
        assert refused(run_cli, line, 1).startswith("there is no file train.py:model.0.weight")
    else:
        assert refused(run_cli, line, 1) == message


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("render train.py -o a.bmp", "a.bmp has the suffix .bmp, which names no picture format; expected one of png, "
         "svg, pdf, dot, or --format."),
        ("render train.py -o a", "a has no suffix, which names no picture format; expected one of png, svg, pdf, dot, "
         "or --format."),
        ("render train.py -o -", "-o - needs --format, one of png, svg, pdf, dot; for example -o - --format svg."),
        ("render train.py -o no/a.png", "there is no folder no to write no/a.png into; create it first (mkdir -p)."),
        ("render train.py -o package -F svg", "package is a folder; expected a file to write, for example package/g."),
        ("render train.py -o there.png", "there.png exists already; overwrite it with --force, or choose another -o."),
        ("render train.py -F bmp", "Invalid value for '-F' / '--format': 'bmp' is not one of 'png', 'svg', 'pdf', "
         "'dot'."),
        ("trace train.py -o a.png", "a.png has the suffix .png, which names no graph format; expected .json or "
         ".graphml (pictures are drawn by gradgraph render)."),
        ("trace train.py -o no/a.json", "there is no folder no to write no/a.json into; create it first (mkdir -p)."),
        ("trace train.py", "Missing option '-o' / '--output'."),
        ("memory train.py --top 0", "Invalid value for '-n' / '--top': 0 is not in the range x>=1."),
        ("hessian train.py --method magic", "Invalid value for '-m' / '--method': 'magic' is not one of 'auto', "
         "'graph', 'batched', 'accumulate', 'hutchinson', 'xdiag'."),
        ("hessian train.py --probes 3", "--probes is for estimates, and --method auto is none; expected --method "
         "hutchinson or xdiag."),
        ("hessian train.py --method batched --seed 3", "--seed is for estimates, and --method batched is none; "
         "expected --method hutchinson or xdiag."),
        ("hessian train.py --memory 3x", "Invalid value for '--memory': '3x' is no size; expected a positive number "
         "of bytes, such as 512MiB or 2GB."),
        ("hessian train.py --memory 0", "Invalid value for '--memory': '0' is no size; expected a positive number of "
         "bytes, such as 512MiB or 2GB."),
        ("hessian train.py --save a.pt", "--save a.pt has the suffix .pt; expected .safetensors."),
        ("hessian train.py --save there.safetensors", "there.safetensors exists already; overwrite it with --force, "
         "or choose another --save."),
        ("render", "Missing argument 'TARGET'."),
        ("render train.py other.py", "Got unexpected extra argument (other.py)"),
    ],
)  # fmt: skip
def test_wrong_usage_is_found_before_anything_runs(run_cli: RunCli, line: str, message: str) -> None:
    Path("there.png").write_text("mine")
    Path("there.safetensors").write_text("mine")
    assert refused(run_cli, line, 2) == message + HELP.format(line.split()[0])
    assert not Path("ran").exists()


@pytest.mark.parametrize("line", ["nonsense", "--nonsense", "render --nonsense train.py"])
def test_unknown_commands_and_options(run_cli: RunCli, line: str) -> None:
    assert refused(run_cli, line, 2).startswith("No such ")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder(run_cli: RunCli) -> None:
    Path("locked").mkdir(mode=0o500)
    assert refused(run_cli, "render train.py -o locked/a.png", 2) == (
        "the folder locked is not writable, so locked/a.png cannot be written; choose another -o."
        + HELP.format("render")
    )


def test_an_unwritable_folder_as_the_system_tells(run_cli: RunCli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert refused(run_cli, "trace train.py -o a.json", 2) == (
        "the folder . is not writable, so a.json cannot be written; choose another -o." + HELP.format("trace")
    )
    assert not Path("ran").exists()


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="no /proc here")
@pytest.mark.parametrize(
    "line",
    [
        "hessian train.py --plot /proc/a.png",
        "hessian train.py --heat-map /proc/a.png",
        "trace train.py -o /proc/a.json",
    ],
)
def test_a_folder_that_takes_no_files_though_it_looks_writable(run_cli: RunCli, line: str) -> None:
    pytest.importorskip("matplotlib")
    assert refused(run_cli, line, 2).startswith("the folder /proc is not writable, so /proc/a.")
    assert not Path("ran").exists()


def test_looking_for_a_place_to_write_leaves_nothing_there(run_cli: RunCli) -> None:
    Path("out").mkdir()
    assert refused(run_cli, "render absent.py:loss -o out/a.svg", 1)
    Path("bad.py").write_text("raise SystemExit(3)")
    run_cli("render bad.py -o out/a.svg")
    assert os.listdir("out") == []


@pytest.mark.parametrize("command", ["render", "summary", "memory", "hessian"])
@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        ("", r"graph\.json is not valid JSON \(.*\): it is truncated or damaged"),
        ("[1, 2]", r"graph\.json: not a gradgraph graph: expected a JSON object"),
        ('{"a": NaN}', r"graph\.json is not valid JSON \(NaN is not JSON\)"),
        ('{"format": "gradgraph", "schema": 99}', r"graph\.json: the graph was written with schema 99, .*upgrade"),
        ("[" * 100_000, r"graph\.json is not valid JSON"),
    ],
)
def test_a_foreign_saved_graph(run_cli: RunCli, command: str, content: str, pattern: str) -> None:
    Path("graph.json").write_text(content)
    assert re.match(pattern, refused(run_cli, f"{command} graph.json", 1))


def test_a_truncated_saved_graph(run_cli: RunCli, saved: Path) -> None:
    saved.write_text(saved.read_text()[:-100])
    assert "truncated or damaged" in refused(run_cli, "render graph.json", 1)


def test_hostile_names_in_a_saved_graph_are_only_text(run_cli: RunCli, saved: Path) -> None:
    hostile = '</script><script>alert(1)</script>\n\x07"<b>\\N'
    text = saved.read_text().replace('"model.0.weight"', json.dumps(hostile))
    saved.write_text(text)
    svg = run_cli("render graph.json -o - -F svg")
    assert svg.exit_code == 0, svg.output
    assert "<script" not in svg.stdout
    assert run_cli("summary graph.json").exit_code == 0
    assert run_cli("trace graph.json -o a.graphml").exit_code == 0


def test_a_saved_graph_without_what_is_asked(run_cli: RunCli) -> None:
    assert run_cli("trace train.py -o plain.json").exit_code == 0
    tail = (
        "was saved without {0}, and only the program can compute that: save the graph again with gradgraph trace "
        "script.py -o plain.json {1}, or give the script itself."
    )
    assert refused(run_cli, "render plain.json -g", 1) == "plain.json " + tail.format("gradients", "--gradients")
    assert refused(run_cli, "render plain.json -H", 1) == "plain.json " + tail.format("a Hessian diagonal", "--hessian")
    assert refused(run_cli, "hessian plain.json", 1) == "plain.json " + tail.format("a Hessian diagonal", "--hessian")


def test_a_hessian_of_no_scalar(run_cli: RunCli) -> None:
    Path("vector.py").write_text("import torch\nw = torch.ones(3, requires_grad=True)\ny = w * w\nys = [y, w.sum()]")
    assert "scalar" in refused(run_cli, "hessian vector.py:y", 1)
    assert refused(run_cli, "hessian vector.py:ys", 1) == (
        "a Hessian is of one scalar tensor, but vector.py:ys gives a list; name the loss: vector.py:loss"
    )
    assert "scalar" in refused(run_cli, "render vector.py:y -g", 1)


def test_a_hessian_of_a_traced_graph(run_cli: RunCli) -> None:
    Path("traced.py").write_text(
        "import torch, gradgraph\nw = torch.ones(3, requires_grad=True)\ng = gradgraph.trace(w.exp().sum())"
    )
    assert refused(run_cli, "hessian traced.py:g", 1) == (
        "traced.py:g is a traced graph and does not hold its loss; name the loss itself: traced.py:loss"
    )


def test_a_full_disk(run_cli: RunCli, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "a.dot")

    monkeypatch.setattr(import_module("gradgraph.render"), "write_whole", full)
    assert refused(run_cli, "render train.py -o a.dot", 1) == (
        "[Errno 28] No space left on device: 'a.dot': the system refused; check the disk, the permissions and the "
        "paths."
    )


def test_a_freed_graph_says_what_to_do(run_cli: RunCli) -> None:
    Path("freed.py").write_text(
        "import torch\nw = torch.ones(3, requires_grad=True)\nloss = w.exp().sum()\nloss.backward()"
    )
    message = refused(run_cli, "hessian freed.py:loss", 1)
    assert "retain_graph=True" in message
    assert message.endswith(
        " Or give the script alone, freed.py: that takes its last backward pass before the pass frees anything."
    )
    assert "retain_graph=True" in refused(run_cli, "render freed.py:loss -g", 1)
    assert run_cli("hessian freed.py").exit_code == 0


def test_a_kept_pass_whose_inputs_were_changed_says_what_to_do(run_cli: RunCli) -> None:
    Path("changed.py").write_text(
        "import torch\nw = torch.ones(3, requires_grad=True)\nx = torch.ones(3)\n(w * w * x).sum().backward()\n"
        "x.mul_(2)"
    )
    message = refused(run_cli, "hessian changed.py", 1)
    assert "changed in place" in message


def test_a_graph_too_large_to_draw(run_cli: RunCli) -> None:
    Path("deep.py").write_text(
        "import torch\nx = torch.ones(1, requires_grad=True)\nfor i in range(3000):\n    x = x * 2\nx.backward()"
    )
    message = refused(run_cli, "render deep.py --fold none --layout dot", 1)
    assert re.match(r"the graph is too large to lay out: [\d,]+ boxes", message)
    assert run_cli("render deep.py -o deep.png").exit_code == 0


def test_an_interrupt(run_cli: RunCli) -> None:
    Path("stop.py").write_text("raise KeyboardInterrupt")
    assert refused(run_cli, "render stop.py", 130) == "interrupted."


def test_a_fault_of_gradgraph_is_reported_as_one(run_cli: RunCli, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("gone")

    monkeypatch.setattr(import_module("gradgraph.render.text"), "summary", broken)
    assert refused(run_cli, "summary train.py", 1) == (
        "gradgraph itself failed with KeyError: 'gone'. This is a bug: please report it with what `gradgraph --debug "
        "...` shows."
    )
