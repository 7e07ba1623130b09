"""Make the gallery's pictures and printed values anew from the examples.

    python docs/make_gallery.py [NAME ...]

For each script of examples/ (or each one named): runs the commands that docs/gallery.md shows, into docs/gallery/;
draws its plot, where it has one; and puts what it prints into docs/gallery.md.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
PICTURES = ROOT / "docs" / "gallery"
PAGE = ROOT / "docs" / "gallery.md"


def commands_of(name: str, page: str) -> list[list[str]]:
    """The words of each command of the page that draws examples/NAME.py."""
    return [shlex.split(line) for line in re.findall(rf"^gradgraph render examples/{name}\.py.*$", page, re.MULTILINE)]


def run(*words: str) -> str:
    """Run Python with these arguments in the repository's root; what it prints."""
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"python {shlex.join(words)} failed:\n{done.stderr}")
    return done.stdout


def with_output(page: str, name: str, output: str) -> str:
    """The page, with `output` in the block after the line that says what examples/NAME.py prints."""
    block = re.compile(rf"(`python examples/{name}\.py` prints[^\n]*:\n\n```text\n).*?(```)", re.DOTALL)
    page, count = block.subn(lambda found: found[1] + output + found[2], page)
    if count != 1:
        raise SystemExit(f"{PAGE} has {count} blocks for what examples/{name}.py prints, expected 1")
    return page


def main(names: list[str]) -> None:
    """Make all of it, or only what belongs to the scripts called `names`."""
    for script in sorted(EXAMPLES.glob("*.py")):
        if names and script.stem not in names:
            continue
        for _, *command, flag, picture in commands_of(script.stem, PAGE.read_text(encoding="utf-8")):
            run("-m", "gradgraph", *command, flag, f"docs/gallery/{picture}", "--force")
        plot = ["--plot", str(PICTURES / f"{script.stem}_plot.png")] if "--plot FILE" in script.read_text() else []
        output = run(str(script), *plot)
        PAGE.write_text(with_output(PAGE.read_text(encoding="utf-8"), script.stem, output), encoding="utf-8")
        print(script.stem)


if __name__ == "__main__":
    main(sys.argv[1:])
