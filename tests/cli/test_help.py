"""Help that teaches by examples that run, a quick start, and Tab completion."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

import gradgraph
from gradgraph.cli import main
from tests.cli.conftest import TRAIN, RunCli

COMMANDS = ["render", "run", "trace", "summary", "memory", "hessian", "doctor", "completion"]


def command_of(name: str) -> click.Command:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    return command


def examples(name: str) -> list[str]:
    """The example lines of a command's help, without their explanations."""
    lines = re.findall(r"^  (gradgraph .*)$", command_of(name).epilog or "", re.MULTILINE)
    return [re.split(r"\s{3,}| {2,}(?=[a-z]+ )", line)[0] for line in lines]


def test_help_lists_every_command_and_form_of_target(run_cli: RunCli) -> None:
    text = run_cli("--help").stdout
    for word in [*COMMANDS, "train.py:loss", "package.module:loss", "graph.json", "Exit status"]:
        assert word in text
    assert "..." not in text.partition("Commands:")[2].partition("Examples:")[0]
    assert run_cli("--version").stdout == f"gradgraph {gradgraph.__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command_has_examples(run_cli: RunCli, name: str) -> None:
    result = run_cli(f"{name} -h")
    assert result.exit_code == 0
    assert result.stdout == run_cli(f"{name} --help").stdout
    assert max(map(len, result.stdout.splitlines())) <= 100
    assert len(examples(name)) >= (1 if name == "completion" else 2)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "completion"])
def test_the_examples_run(run_cli: RunCli, saved: Path, name: str) -> None:
    if name == "trace":
        saved.unlink()  # it is what the first example makes
    for line in examples(name):
        for part in line.split(" && "):
            if name == "run":  # it makes the process that it runs in the program's own
                words = [sys.executable, "-m", "gradgraph", *shlex.split(part)[1:]]
                done = subprocess.run(words, capture_output=True, text=True)
                assert done.returncode == 0, (part, done.stderr)
                assert " backward passes in " in (done.stderr if "--json" not in words else " backward passes in ")
            else:
                result = run_cli(part.removeprefix("gradgraph "))
                assert result.exit_code == 0, (part, result.output)
            for made in ("train.png", "loss.svg", "train.pdf", "out.png", "full.json", "bends.png", "diag.safetensors"):
                Path(made).unlink(missing_ok=True)


def test_help_starts_without_torch() -> None:
    heavy = ["torch", "networkx", "numpy", "json", "pathlib", "gradgraph.target", "gradgraph.graph"]
    program = (
        "import sys\nfrom gradgraph.cli import main\n"
        "try:\n    main(['--help'], prog_name='gradgraph')\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {heavy} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
    assert "Usage: gradgraph" in done.stdout


def test_a_saved_graph_is_shown_without_torch(saved: Path) -> None:
    program = (
        "import sys\nsys.modules['torch'] = None\nfrom gradgraph.cli import main\n"
        "main(sys.argv[1:], prog_name='gradgraph', standalone_mode=False)"
    )
    for line in ("summary graph.json", "memory graph.json", "hessian graph.json", "render graph.json -gH -o a.svg"):
        done = subprocess.run([sys.executable, "-c", program, *line.split()], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_as_a_program(folder: Path) -> None:
    Path("train.py").write_text(TRAIN + "\nimport os\nos.system('echo from a child')\n")
    run = [sys.executable, "-m", "gradgraph"]
    done = subprocess.run([*run, "render", "train.py", "-o", "-", "-F", "dot"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("digraph")
    assert "from a child" not in done.stdout
    assert "from a child" in done.stderr
    Path("train.py").write_text("1 / 0")
    failed = subprocess.run([*run, "summary", "train.py"], capture_output=True, text=True)
    assert (failed.returncode, failed.stdout, len(failed.stderr.splitlines())) == (1, "", 1)


@pytest.mark.skipif(os.name == "nt", reason="pipes of a POSIX shell")
def test_a_reader_that_leaves_early_is_no_error(saved: Path) -> None:
    line = f"{shlex.quote(sys.executable)} -m gradgraph summary graph.json --json | head -c 1"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("{", "")


def complete(*words: str) -> list[tuple[str, str]]:
    *before, last = words
    found = ShellComplete(main, {}, "gradgraph", "_GRADGRAPH_COMPLETE").get_completions(before, last)
    return [(item.type, item.value) for item in found]


def test_completion_of_commands_options_and_targets() -> None:
    assert complete("") == [("plain", name) for name in COMMANDS]
    assert complete("re") == [("plain", "render")]
    assert ("plain", "--gradients") in complete("render", "--g")
    assert complete("render", "--theme", "d") == [("plain", "dark")]
    assert complete("render", "tra") == [("file", "tra")]
    assert complete("trace", "train.py", "-o", "g") == [("file", "g")]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_is_the_one_that_click_gives(run_cli: RunCli, shell: str) -> None:
    text = run_cli(f"completion {shell}").stdout
    assert f"_GRADGRAPH_COMPLETE={shell}_complete" in text
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)


def test_completion_through_the_shells_protocol() -> None:
    environment = {
        **os.environ,
        "_GRADGRAPH_COMPLETE": "bash_complete",
        "COMP_WORDS": "gradgraph su",
        "COMP_CWORD": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", "from gradgraph.cli import main; main(prog_name='gradgraph')"],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout == "plain,summary\n"
