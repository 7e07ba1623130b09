"""Run the documentation's code blocks; put what they print into the pages, and their pictures into docs/pictures/.

    python docs/make_pages.py [PAGE ...]

Outputs that agree with what the page shows stay as they are. A picture of docs/pictures/ is the file of the same name
that its page's code writes. The API pages come first: see make_api.py.
"""

import re
import shutil
import sys
import tempfile
from pathlib import Path

from make_api import main as make_api
from snippets import ROOT, Ran, alike, links, run_page

PICTURES = ROOT / "docs" / "pictures"
#: Pages that run. The gallery and its story have a script of their own, make_gallery.py.
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOT_RUN = {"gallery.md", "stale-gradients.md", "performance.md"}


def with_outputs(page: str, ran: list[Ran]) -> str:
    """The page with what was printed, where it differs from what is shown."""
    for one in ran:
        if one.shown is None or alike(one.shown, one.printed):
            continue
        printed = "".join(f"{line.rstrip()}\n" for line in one.printed.rstrip("\n").splitlines())
        lines = page.splitlines(keepends=True)
        if one.what == "python":
            start = next(i for i in range(one.line, len(lines)) if lines[i].startswith("```text")) + 1
        else:
            start = one.line
        end = next(i for i in range(start, len(lines)) if re.match(r"```|\$ ", lines[i]))
        lines[start:end] = [printed]
        page = "".join(lines)
    return page


def main(names: list[str]) -> None:
    """Make all pages, or only those named."""
    make_api()
    PICTURES.mkdir(exist_ok=True)
    for path in PAGES:
        if path.name in NOT_RUN or (names and path.stem not in names):
            continue
        # Lines move while outputs grow: from the bottom up none of those above does.
        with tempfile.TemporaryDirectory() as folder:
            ran = run_page(path, Path(folder))
            page = path.read_text(encoding="utf-8")
            changed = with_outputs(page, ran[::-1])
            if changed != page:
                path.write_text(changed, encoding="utf-8")
            for link in links(changed):
                picture = (path.parent / link).resolve()
                if picture.parent == PICTURES:
                    shutil.copyfile(Path(folder, picture.name), picture)
        for one in ran:
            if one.status and one.shown is None:
                raise SystemExit(f"{path}:{one.line}: {one.what} failed:\n{one.printed}")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main([Path(name).stem for name in sys.argv[1:]])
