"""Every code block and command of the documentation runs, and prints what the page shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from docs.snippets import ROOT, alike, blocks, links, run_page
from gradgraph.graph import NODE_ATTRIBUTES

# The gallery and its story are made by a script of their own, and tested with the examples; what other tools make of a
# graph needs those tools.
_OTHERS = {"gallery.md", "stale-gradients.md", "performance.md", "comparison.md"}
PAGES = [ROOT / "README.md", *(page for page in sorted((ROOT / "docs").rglob("*.md")) if page.name not in _OTHERS)]
RUNNING = [
    page
    for page in PAGES
    if any(block.language in ("python", "console") for block in blocks(page.read_text(encoding="utf-8")))
]
PICTURES = ROOT / "docs" / "pictures"


@pytest.mark.parametrize("page", RUNNING, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_runs_and_prints_what_it_shows(page: Path, tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        ran = run_page(page, tmp_path)
    assert ran
    for one in ran:
        where = f"{page.name}:{one.line}: {one.what}"
        if one.shown is None:
            assert one.status == 0, f"{where}\n{one.printed}"
            assert one.what != "python" or one.printed == "", f"{where} prints something that the page does not show"
        else:
            assert alike(one.shown, one.printed), f"{where}\nshows:\n{one.shown}\nprints:\n{one.printed}"
            assert (one.status != 0) == one.shown.startswith("error:"), where
    for link in links(page.read_text(encoding="utf-8")):
        picture = (page.parent / link).resolve()
        if picture.parent == PICTURES:
            made = (tmp_path / picture.name).read_bytes()
            assert made[:4] == b"\x89PNG", f"{page.name} shows {picture.name}, and its code does not write it"


def test_there_are_pages_that_run() -> None:
    assert {page.stem for page in RUNNING} >= {"README", "tutorial", "graph", "gradients", "hessians", "command-line"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_block_hides_from_the_runner(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"^ +```", text, re.MULTILINE)
    known = {"python", "text", "console", "sh", "py", "pycon"}
    assert {block.language for block in blocks(text)} <= known
    for block in blocks(text):
        if block.language == "console":
            assert all(line.startswith("$ gradgraph ") for line in block.text.splitlines() if line.startswith("$"))


def test_a_text_block_is_compared() -> None:
    assert alike("a  1 0.5000\nb", "a 1 0.501\nb\n")
    assert alike("first\n...\nlast 1", "first\nand 2\nmore\nlast 1")
    for shown, printed in [("a 1", "a 2"), ("0.5", "0.6"), ("a", "a b"), ("a\nb", "a b"), ("", "a"), ("1.0 x", "1.0")]:
        assert not alike(shown, printed)


def test_readme_opens_with_two_commands_of_one_line() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    first, second = (block for block in blocks(text)[:2])
    for block in (first, second):
        assert block.language == "sh"
        assert block.text.count("\n") == 1
        assert block.text.startswith("python3 -m venv .venv && .venv/bin/pip install -c constraints.txt ")
    assert " .venv/bin/gradgraph render examples/" in first.text
    assert first.text.endswith(" -o graph.png\n")
    assert second.text.endswith(' -e ".[test]" && .venv/bin/python -m pytest\n')
    assert second.line < text.count("\n", 0, text.index("\n## ")) + 1


def test_contributing_has_the_commands_of_ci() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    checks = blocks(text)[1].text.splitlines()
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert len(checks) >= 4
    assert [line for line in checks if line not in ci] == []
    for line in re.findall(r"^\.venv/bin/.*$", ci, re.MULTILINE):
        assert line in checks


def test_contributing_places_every_module() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text[text.index("## Where things are") : text.index("Imports point one way")]
    package = ROOT / "gradgraph"
    names = [path.stem for path in package.glob("*.py") if not path.stem.startswith("_")]
    names += [f"{path.parent.name}/" for path in package.glob("*/__init__.py")]
    assert [name for name in names if f"`{name}`" not in table] == []


def test_the_data_model_is_whole() -> None:
    import gradgraph

    text = (ROOT / "docs" / "concepts" / "graph.md").read_text(encoding="utf-8")
    described = {
        name for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)
    }
    x = torch.ones(2, requires_grad=True)
    y = x * x
    y.mul_(x)
    z = y.exp()
    z.add_(1)
    graph = gradgraph.trace(z.sum())
    modified = [entry for _, data in graph.nodes(data=True) for entry in data["saved"] if entry["state"] == "modified"]
    used = {*NODE_ATTRIBUTES, *graph.graph, *modified[0]}
    for *_, data in graph.edges(data=True):
        used |= data.keys()
    assert used - described == set()
    assert described - used == set()
