"""The commands that the examples show, and the pages that tell of them."""

from __future__ import annotations

import re
import shlex
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from gradgraph.cli import main

ROOT = Path(__file__).resolve().parents[2]
NAMES = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))
GALLERY = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
STORY = (ROOT / "docs" / "stale-gradients.md").read_text(encoding="utf-8")

Run = Callable[[str], Any]
# Times; and losses of a descent so close to its limit of stability that rounding tells after some hundred steps.
_UNSTEADY = re.compile(r"(took|plain descent, create_graph=\w+: \[\d+).*")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")


def _command(name: str) -> list[str]:
    lines = [line.strip() for line in (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8").splitlines()]
    (command,) = (line for line in lines if line.startswith("gradgraph render "))
    return shlex.split(command)[1:]


def _png_size(path: Path) -> tuple[int, int]:
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", content[16:24])
    return width, height


def test_there_are_nineteen() -> None:
    assert len(NAMES) == 19


@pytest.mark.parametrize("name", NAMES)
def test_docstring_command_renders(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    *command, flag, picture = _command(name)
    assert flag == "-o"
    assert picture in (f"{name}.png", f"{name}.svg")
    result = CliRunner().invoke(main, [*command, flag, str(tmp_path / picture)])
    assert result.exit_code == 0, result.output
    if picture.endswith(".svg"):
        drawing = ElementTree.parse(tmp_path / picture).getroot()
        assert drawing.tag == "{http://www.w3.org/2000/svg}svg"
        assert "order 1" in "".join(drawing.itertext())
        assert float(drawing.attrib["viewBox"].split()[2]) > 300
    else:
        width, height = _png_size(tmp_path / picture)
        assert width > 150
        assert height > 150


@pytest.mark.parametrize("name", ["curve_fit", "hessian_blocks"])
def test_plots(name: str, ran: Run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    values = ran(name).values
    path = tmp_path / "plot.png"
    if name == "curve_fit":
        values["plot"](values["net"], str(path))
    else:
        values["plot"]("2.weight", values["blocks"]["2.weight"], str(path))
    assert _png_size(path)[0] >= 700


@pytest.mark.parametrize("name", NAMES)
def test_gallery_names_the_example(name: str) -> None:
    readme = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    assert f"[{name}.py]({name}.py)" in readme
    assert f"(../examples/{name}.py)" in GALLERY
    assert "gradgraph " + shlex.join(_command(name)) in GALLERY
    assert f"(gallery/{_command(name)[-1]})" in GALLERY


@pytest.mark.parametrize("name", NAMES)
def test_gallery_prints_what_the_example_prints(name: str, ran: Run) -> None:
    found = re.search(rf"`python examples/{name}\.py` prints[^\n]*:\n\n```text\n(.*?)```", GALLERY, re.DOTALL)
    assert found is not None
    printed, shown = (_UNSTEADY.sub(r"\1 ...", text) for text in (ran(name).printed, found[1]))
    assert _NUMBER.sub("#", shown) == _NUMBER.sub("#", printed)
    # Rounding in the last digit shown may differ between machines.
    expected = [float(number) for number in _NUMBER.findall(printed)]
    assert [float(number) for number in _NUMBER.findall(shown)] == pytest.approx(expected, rel=0.02, abs=2e-4)


def test_story_quotes_what_the_example_prints(ran: Run) -> None:
    lines = ran("relu_on_squares").printed.splitlines()
    quoted = [line for block in re.findall(r"```text\n(.*?)```", STORY, re.DOTALL) for line in block.splitlines()]
    assert len(quoted) > 5
    assert [line for line in quoted if line not in lines] == []


@pytest.mark.parametrize("page", ["gallery.md", "stale-gradients.md"])
def test_pictures_and_links_exist_and_are_small(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert links
    for link in links:
        path = ROOT / "docs" / link
        assert path.is_file(), link
        if path.suffix in (".png", ".svg"):
            assert path.stat().st_size < 300_000, link


def test_no_picture_is_left_over() -> None:
    pictures = sorted((ROOT / "docs" / "gallery").iterdir())
    assert sum(path.stat().st_size for path in pictures) < 3_000_000
    assert [path.name for path in pictures if f"gallery/{path.name})" not in GALLERY + STORY] == []
