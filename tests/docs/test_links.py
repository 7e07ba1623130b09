"""Every link of the documentation leads somewhere, and every picture is there, small, and shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.snippets import ROOT, anchors, links

PAGES = [
    *(path for path in sorted(ROOT.glob("*.md"))),
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "examples" / "README.md",
]


def _text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in links(_text(page)):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.is_file() or not target.is_relative_to(ROOT) or (anchor and anchor not in anchors(_text(target))):
            broken.append(link)
    assert broken == []


def test_every_page_can_be_found() -> None:
    linked = {(page.parent / link.partition("#")[0]).resolve() for page in PAGES for link in links(_text(page))}
    assert [page for page in PAGES if page.parent != ROOT and page not in linked and page.name != "index.md"] == []
    index = {(ROOT / "docs" / link.partition("#")[0]).resolve() for link in links(_text(ROOT / "docs" / "index.md"))}
    assert [page for page in (ROOT / "docs").rglob("*.md") if page not in index and page.name != "index.md"] == []


def test_pictures_are_shown_and_small() -> None:
    shown = {(page.parent / link).resolve() for page in PAGES for link in links(_text(page))}
    pictures = sorted(path for folder in ("pictures", "comparison") for path in (ROOT / "docs" / folder).iterdir())
    assert len(pictures) > 15
    for picture in pictures:
        assert picture in shown, f"{picture.name} is on no page"
        assert picture.stat().st_size < 300_000, picture.name
    names = [path.name for path in (ROOT / "docs").rglob("*.*") if path.suffix in (".png", ".svg")]
    assert len(names) == len(set(names))
    assert sum(path.stat().st_size for path in (ROOT / "docs").rglob("*") if path.is_file()) < 5_000_000
