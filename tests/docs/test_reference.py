"""The reference pages are those that the docstrings give, and the docstrings' examples are true."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

import gradgraph
from docs.snippets import ROOT


def _examples() -> Iterator[doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    for module in pkgutil.walk_packages(gradgraph.__path__, "gradgraph."):
        if not module.name.endswith("__main__"):
            yield from finder.find(importlib.import_module(module.name), module.name)


EXAMPLES = [example for example in _examples() if example.examples]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_docstring_example(
    example: doctest.DocTest, tmp_path: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(str(tmp_path))
    with torch.random.fork_rng(devices=[]):
        failed, tried = doctest.DocTestRunner(verbose=False).run(example, clear_globs=False)
    assert tried
    assert failed == 0, capsys.readouterr().out


def test_public_functions_have_examples() -> None:
    with_example = {example.name.rpartition(".")[2] for example in EXAMPLES}
    functions = [name for name in gradgraph.__all__ if name.islower() and not name.startswith("_")]
    assert [name for name in functions if name not in with_example] == []


def test_reference_pages_are_up_to_date() -> None:
    pages = [ROOT / "docs" / "api" / name for name in ("python.md", "command-line.md")]
    program = "import make_api, sys; sys.stdout.reconfigure(encoding='utf-8'); print({}(), end='')"
    for page, function in zip(pages, ("make_api.python_page", "make_api.commands_page"), strict=True):
        done = subprocess.run(
            [sys.executable, "-c", program.format(function)],
            cwd=ROOT / "docs",
            capture_output=True,
            encoding="utf-8",
            check=True,
        )
        assert page.read_text(encoding="utf-8") == done.stdout, f"{page.name} is old: run python docs/make_api.py"


def test_reference_has_all_that_is_public() -> None:
    page = (ROOT / "docs" / "api" / "python.md").read_text(encoding="utf-8")
    headings = {line.split()[-1].removesuffix("()") for line in page.splitlines() if line.startswith("### ")}
    assert set(gradgraph.__all__) - headings == {"__version__"}
