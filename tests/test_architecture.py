"""The rules of the house: imports point one way, what must not import torch does not, modules stay small."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import gradgraph

PACKAGE = Path(gradgraph.__file__).parent

#: Lowest first. A module imports, at its top level, from lower tiers and from its own package only.
TIERS = [
    ["errors", "importing", "uncaught"],
    [
        "entries",
        "files",
        "graph",
        "kinds",
        "measure",
        "outputs",
        "params",
        "passes",
        "program",
        "saved",
        "shares",
        "walk",
    ],
    ["labels", "leaves", "orders", "teardown"],
    ["recording", "retained"],
    ["aside", "recorder", "tracer", "watching"],
    ["ledger"],
    ["curvature", "gradients", "layout", "readwrite", "view"],
    ["render"],
    ["charts", "curvature_table", "doctor", "hessian_file", "last_pass", "notebook", "pass_list"],
    ["chosen", "counting", "hessian_table", "target"],
    ["annotated", "launch", "running"],
    ["commands"],
    ["cli"],
    ["__main__"],
]
TIER_OF = {name: tier for tier, names in enumerate(TIERS) for name in names}

#: A saved graph opens, shows and draws on a machine without torch, and `gradgraph --help` in a moment.
WITHOUT_TORCH = [
    "cli",
    "errors",
    "graph",
    "layout",
    "notebook",
    "readwrite",
    "render.dot",
    "render.image",
    "render.text",
    "view",
]

FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent != PACKAGE)


def imported(path: Path) -> set[str]:
    """Names of the modules of this package that `path` imports at its top level, type checking apart."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gradgraph."):
            found.add(str(node.module).removeprefix("gradgraph."))
        elif isinstance(node, ast.Import):
            found.update(name.name.removeprefix("gradgraph.") for name in node.names if "gradgraph." in name.name)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    for name in imported(path):
        other = name.split(".")[0]
        if other != own:
            assert TIER_OF[other] < TIER_OF[own], f"{path.name} of tier {own} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_stay_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


def test_viewing_needs_no_torch() -> None:
    names = ", ".join(f"gradgraph.{name}" for name in WITHOUT_TORCH)
    program = f"import sys, {names}; print(sorted({{'torch', 'numpy', 'tqdm'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_needs_click_alone() -> None:
    program = (
        "import sys; from click.testing import CliRunner; from gradgraph.cli import main\n"
        "assert CliRunner().invoke(main, ['--help']).exit_code == 0\n"
        "print(sorted({'torch', 'networkx', 'tqdm', 'wasmtime'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_one_module_walks() -> None:
    walkers = {path.name for path in FILES if ".next_functions" in path.read_text().replace("`u.next_functions`", "")}
    assert walkers == {"walk.py"}


def test_the_public_names_are_all_there() -> None:
    for name in gradgraph.__all__:
        assert getattr(gradgraph, name) is not None
        assert name in dir(gradgraph)
    # Importing the submodules of the same names must not hide the functions.
    program = (
        "import gradgraph.render, gradgraph.gradients, gradgraph.curvature, gradgraph as g\n"
        "assert callable(g.render) and callable(g.gradients) and callable(g.hessian) and callable(g.curvature)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    with pytest.raises(AttributeError, match="module 'gradgraph' has no attribute 'nope'"):
        _ = gradgraph.nope
