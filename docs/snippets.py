"""The code blocks of a page of documentation: find them, run them, compare what they print with what the page shows.

What runs, in order, in one folder that begins with nothing but a link to `examples/`:

- a `python` block, in the one namespace of its page; a `text` block directly after it is what it prints;
- a `python` block whose first line is a comment with a file's name, `# train.py`, is not run but written to that file;
- in a `console` block each `gradgraph` command after `$ `; the lines up to the next `$` are what it prints, without
  what the program that it runs prints (of `gradgraph run` with that, and with what goes to stderr);
- in a `sh` block each `gradgraph` command, without a look at what it prints.

A page may show `...` for what it leaves out.
"""

import contextlib
import io
import math
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner

__all__ = ["ROOT", "Block", "Ran", "alike", "anchors", "blocks", "links", "run_page", "slug"]

ROOT = Path(__file__).resolve().parent.parent

_FENCE = re.compile(r"^```(.*)$")
_FILE = re.compile(r"^# ([\w/]+\.\w+)$")
_NUMBER = r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?"
_TOKENS = re.compile(rf"(\.\.\.|{_NUMBER}|\s+)")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^()\s]+)\)|<img[^>]* src=\"([^\"]+)\"")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; `line` is the number of its first line of text, from 1."""

    language: str
    text: str
    line: int


@dataclass(frozen=True)
class Ran:
    """Something that ran: what it printed, what the page shows for it (None: nothing), and its exit status."""

    what: str
    line: int
    printed: str
    shown: str | None
    status: int = 0


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page of Markdown."""
    found = []
    language = None
    start = 0
    lines = page.splitlines()
    for number, line in enumerate(lines):
        fence = _FENCE.match(line)
        if fence and language is None:
            language, start = fence[1], number + 1
        elif fence and language is not None:
            found.append(Block(language, "".join(f"{one}\n" for one in lines[start:number]), start + 1))
            language = None
    return found


def run_page(path: Path, folder: Path) -> list[Ran]:
    """Run a page's blocks in `folder`; raises whatever its Python raises."""
    page = path.read_text(encoding="utf-8")
    (folder / "examples").symlink_to(ROOT / "examples")
    namespace: dict[str, Any] = {"__name__": "__main__"}
    ran = []
    found = blocks(page)
    with _working_in(folder):
        for block, following in zip(found, [*found, Block("", "", 0)][1:], strict=True):
            if block.language == "python":
                name = _FILE.match(block.text.partition("\n")[0])
                if name:
                    Path(name[1]).write_text(block.text, encoding="utf-8")
                    continue
                # Directly after: the closing fence, an empty line, the opening fence.
                adjacent = following.language == "text" and following.line - block.line == block.text.count("\n") + 3
                printed = _run_python(block, path, namespace)
                ran.append(Ran("python", block.line, printed, following.text if adjacent else None))
            elif block.language == "console":
                ran += _run_console(block)
            elif block.language == "sh":
                ran += _run_sh(block)
    return ran


def alike(shown: str, printed: str) -> bool:
    """Whether the texts are the same, but for what `...` leaves out, widths of gaps, and rounding of fractions."""
    pattern = []
    numbers = []
    for token in _TOKENS.split(shown.strip()):
        if token == "...":
            pattern.append(".*?")
        elif re.fullmatch(_NUMBER, token):
            pattern.append(f"({_NUMBER})")
            numbers.append(token)
        elif token.isspace():
            pattern.append(r"\n\s*" if "\n" in token else r"[ \t]+")
        else:
            pattern.append(re.escape(token))
    found = re.fullmatch("".join(pattern), printed.strip(), re.DOTALL)
    return found is not None and all(map(_close, numbers, found.groups()))


def _close(shown: str, printed: str) -> bool:
    if shown == printed:
        return True
    fractions = any(char in ".e" for char in shown + printed)
    return fractions and math.isclose(float(shown), float(printed), rel_tol=0.01, abs_tol=1e-6)


def _run_python(block: Block, path: Path, namespace: dict[str, Any]) -> str:
    printed = io.StringIO()
    # Line numbers are the page's, and its name is without folders, so that no machine's path is shown.
    code = compile("\n" * (block.line - 1) + block.text, path.name, "exec")
    with contextlib.redirect_stdout(printed):
        exec(code, namespace)
    return printed.getvalue()


def _run_console(block: Block) -> Iterator[Ran]:
    line = block.line
    for part in re.split(r"^(?=\$ )", block.text, flags=re.MULTILINE):
        if part:
            command, _, shown = part.removeprefix("$ ").partition("\n")
            yield _run_command(command, line, shown)
            line += part.count("\n")


def _run_sh(block: Block) -> Iterator[Ran]:
    for number, line in enumerate(block.text.splitlines()):
        for command in line.split(" && "):
            if command.split() and Path(command.split()[0]).name == "gradgraph":
                yield _run_command(command, block.line + number, None)


def _run_command(command: str, line: int, shown: str | None) -> Ran:
    from gradgraph.cli import main

    words = shlex.split(command, comments=True)[1:]
    if words[0] == "run":  # it makes the process that it runs in the program's own
        alone = subprocess.run([sys.executable, "-m", "gradgraph", *words], capture_output=True, text=True, check=False)
        return Ran(command, line, f"{alone.stdout}{alone.stderr}", shown, alone.returncode)
    done = CliRunner().invoke(main, words, prog_name="gradgraph")
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    # What the user's program prints goes to stderr too, and is left out.
    return Ran(command, line, "\n".join([done.stdout.rstrip("\n"), *errors]).lstrip("\n"), shown, done.exit_code)


@contextlib.contextmanager
def _working_in(folder: Path) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def links(page: str) -> list[str]:
    """Where the links and pictures of a page lead to, outside code."""
    return [found[1] or found[2] for found in _LINK.finditer(_prose(page))]


def anchors(page: str) -> set[str]:
    """The anchors that a code host gives to the headings of a page."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.*)$", _prose(page), re.MULTILINE):
        anchor = base = slug(heading)
        count = 0
        while anchor in found:
            count += 1
            anchor = f"{base}-{count}"
        found.add(anchor)
    return found


def slug(heading: str) -> str:
    """The anchor of a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")


def _prose(page: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page, flags=re.DOTALL | re.MULTILINE)
