"""`when_imported`: told once, when the module has run, and not seen by the program."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from gradgraph.importing import when_imported


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))


def test_it_is_told_when_the_module_has_run(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("awaited.py").write_text("value = 1")
    told: list[int] = []
    before = list(sys.meta_path)
    when_imported("awaited", lambda: told.append(sys.modules["awaited"].value))
    importlib.import_module("json.tool")
    assert told == []
    module = importlib.import_module("awaited")
    assert told == [1]
    assert sys.meta_path == before
    assert "exec_module" not in vars(module.__loader__)
    assert module.__spec__ is not None
    assert module.__spec__.loader is module.__loader__
    when_imported("awaited", lambda: told.append(2))
    assert told == [1, 2]
    monkeypatch.delitem(sys.modules, "awaited")
    importlib.import_module("awaited")
    assert told == [1, 2]


def test_an_import_that_fails_may_be_tried_again() -> None:
    Path("fails.py").write_text("1 / 0")
    told: list[bool] = []
    when_imported("fails", lambda: told.append(True))
    with pytest.raises(ZeroDivisionError):
        importlib.import_module("fails")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("there_is_none")
    assert told == []
    Path("fails.py").write_text("value = 1  # longer")
    importlib.invalidate_caches()
    importlib.import_module("fails")
    assert told == [True]


def test_a_module_that_is_not_there_is_not_found() -> None:
    when_imported("not_there", lambda: None)
    with pytest.raises(ModuleNotFoundError, match="not_there"):
        importlib.import_module("not_there")
