"""Write the reference pages, docs/api/*.md, from the docstrings and from the command line's own help.

    python docs/make_api.py

The same sources give the same bytes; a test tells when the pages are out of date.
"""

import dataclasses
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from snippets import slug

ROOT = Path(__file__).resolve().parent.parent
PYTHON_PAGE = ROOT / "docs" / "api" / "python.md"
COMMANDS_PAGE = ROOT / "docs" / "api" / "command-line.md"

#: What stands on the page, by chapter: where to import it from, and its names there.
CHAPTERS: dict[str, list[tuple[str, list[str]]]] = {
    "Tracing": [("gradgraph", ["trace", "AutogradGraph", "annotate"]), ("gradgraph.graph", ["Live"])],
    "Recording": [("gradgraph", ["record", "Recording"]), ("gradgraph.recording.log", ["PassRecord"])],
    "Gradients and the ledger": [
        ("gradgraph", ["gradients", "GradientStats"]),
        ("gradgraph.gradients", ["OutputStats", "Gradients"]),
        ("gradgraph", ["watch", "Ledger"]),
        ("gradgraph.ledger", ["LedgerPass", "LedgerEntry"]),
    ],
    "Hessians": [
        ("gradgraph", ["hessian_diagonal", "HessianDiagonal"]),
        ("gradgraph.curvature", ["ParameterReport"]),
        ("gradgraph", ["hessian"]),
        ("gradgraph.curvature", ["HessianBlocks"]),
        ("gradgraph", ["hvp", "HessianOperator", "curvature", "Curvature"]),
    ],
    "Views": [("gradgraph", ["fold", "focus", "path", "View"])],
    "Drawing": [("gradgraph", ["render"]), ("gradgraph.render", ["to_dot", "to_svg"])],
    "Charts": [("gradgraph.charts", ["heat_map", "shares"])],
    "Reports as text": [("gradgraph.render.text", ["summary", "Summary", "memory", "Memory", "outline"])],
    "Graphs in files": [("gradgraph", ["read_json", "write_json", "write_graphml"])],
    "Errors": [
        (
            "gradgraph",
            ["GradGraphError", "InputError", "ReadError", "ReleasedGraphError", "RenderError", "TargetError"],
        )
    ],
}

#: Methods that only gradgraph itself calls.
INTERNAL = {"LedgerPass.fill", "LedgerPass.drop"}

_SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Example):$")
_ENTRY = re.compile(r"^([\w*, .]+): (.*)$")
_LITERAL = re.compile(r"(^```.*?^```$|^#.*?$)", re.DOTALL | re.MULTILINE)
_NAME = re.compile(r"(?<![\[`*])`([\w.]+(?:\(\))?)`(?![`\]*])")
_WIDTH = 100


def python_page() -> str:
    """The page on everything in `CHAPTERS`."""
    entries = {
        chapter: [
            (module, name, getattr(importlib.import_module(module), name)) for module, names in parts for name in names
        ]
        for chapter, parts in CHAPTERS.items()
    }
    anchors = {name: slug(_heading(name, value)) for found in entries.values() for _, name, value in found}
    lines = [
        "# Python API",
        "",
        "<!-- Written by docs/make_api.py from the docstrings. Edit those, then run it. -->",
        "",
        "What users import: from `gradgraph` itself, unless an entry says otherwise.",
        "",
        "| chapter | names |",
        "|---|---|",
    ]
    for chapter, found in entries.items():
        shown = ", ".join(f"[`{name}`](#{anchors[name]})" for _, name, _ in found)
        lines.append(f"| [{chapter}](#{slug(chapter)}) | {shown} |")
    text = "\n".join(lines) + "\n"
    lines = []
    for chapter, found in entries.items():
        lines += ["", f"## {chapter}"]
        for module, name, value in found:
            lines += ["", f"### {_heading(name, value)}", "", *_entry(module, name, value)]
    return text + _linked("\n".join(lines) + "\n", anchors)


def _heading(name: str, value: Any) -> str:
    return f"class {name}" if inspect.isclass(value) else f"{name}()"


def _entry(module: str, name: str, value: Any) -> Iterator[str]:
    if module != "gradgraph":
        yield from (f"`from {module} import {name}`", "")
    if not inspect.isclass(value):
        yield from _function(name, value)
        return
    yield from _documented(value)
    doc = inspect.getdoc(value) or ""
    if dataclasses.is_dataclass(value) and not any(title == "Attributes" for title, _ in _sections(doc)):
        fields = dataclasses.fields(value)
        yield from ("", "**Attributes**", "", *(f"- **`{field.name}`**: `{field.type}`" for field in fields))
    members = dict(_members(value))
    properties = {key: member for key, member in members.items() if isinstance(member, property)}
    if properties:
        yield from ("", "**Properties**", "")
        for key, member in properties.items():
            yield from _property(key, member)
    for key, member in members.items():
        if key not in properties and f"{name}.{key}" not in INTERNAL:
            yield from ("", f"#### {name}.{key}()", "", *_function(key, member))


def _property(name: str, member: property) -> Iterator[str]:
    kind = inspect.signature(member.fget).return_annotation if member.fget else ""
    sections = list(_sections(inspect.getdoc(member) or ""))
    text = " ".join(line for title, body in sections if title is None for line in body)
    raised = " ".join(line for title, body in sections if title == "Raises" for line in body)
    yield f"- **`{name}`** (`{kind}`): {text}" + (f" Raises {raised}" if raised else "")


def _members(kind: type) -> Iterator[tuple[str, Any]]:
    for key, member in vars(kind).items():
        member = member.__func__ if isinstance(member, (classmethod, staticmethod)) else member
        if not key.startswith("_") and (isinstance(member, property) or inspect.isfunction(member)):
            yield key, member


def _function(name: str, function: Callable[..., Any]) -> Iterator[str]:
    yield from ("```py", *_signature(name, function), "```", "")
    yield from _documented(function)


def _signature(name: str, function: Callable[..., Any]) -> list[str]:
    signature = inspect.signature(function)
    parts = []
    for parameter in signature.parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and "*" not in parts:
            parts.append("*")
        if parameter.name != "self":
            parts.append(_parameter(parameter))
    line = f"{name}({', '.join(parts)}) -> {signature.return_annotation}"
    if len(line) <= _WIDTH:
        return [line]
    return [f"{name}(", *(f"    {part}," for part in parts), f") -> {signature.return_annotation}"]


def _parameter(parameter: inspect.Parameter) -> str:
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    text = f"{stars}{parameter.name}: {parameter.annotation}"
    return text if parameter.default is parameter.empty else f"{text} = {parameter.default!r}"


def _documented(value: Any) -> Iterator[str]:
    """A docstring as Markdown."""
    first = True
    for title, body in _sections(inspect.getdoc(value) or ""):
        if not first:
            yield ""
        first = False
        if title == "Example":
            yield from ("```pycon", *body, "```")
        elif title == "Returns":
            yield f"**Returns** {' '.join(line.strip() for line in body)}"
        elif title is None:
            yield from body
        else:
            yield from _listed(title, body)


def _sections(doc: str) -> Iterator[tuple[str | None, list[str]]]:
    """The parts of a Google docstring: untitled prose, and titled sections without their indentation."""
    title: str | None = None
    body: list[str] = []
    for line in doc.splitlines():
        found = _SECTION.match(line)
        if found or (title is not None and line and not line.startswith(" ")):
            if any(body):
                yield title, _trimmed(body)
            title, body = (found[1], []) if found else (None, [line])
        else:
            body.append(line[4:] if title is not None else line)
    if any(body):
        yield title, _trimmed(body)


def _trimmed(lines: list[str]) -> list[str]:
    return "\n".join(lines).strip("\n").splitlines()


def _listed(title: str, body: list[str]) -> list[str]:
    lines = [f"**{title}**", ""]
    for line in body:
        found = _ENTRY.match(line) if not line.startswith(" ") else None
        if found:
            names = ", ".join(f"**`{name.strip()}`**" for name in found[1].split(","))
            lines.append(f"- {names}: {found[2]}")
        else:
            lines.append(f"  {line.strip()}")
    return lines


def _linked(text: str, anchors: dict[str, str]) -> str:
    """The text with each `name` of an entry as a link to it, outside of code and headings."""

    def link(found: re.Match[str]) -> str:
        anchor = anchors.get(found[1].removeprefix("gradgraph.").removesuffix("()"))
        return found[0] if anchor is None else f"[{found[0]}](#{anchor})"

    parts = _LITERAL.split(text)
    parts[::2] = [_NAME.sub(link, part) for part in parts[::2]]
    return "".join(parts)


def commands_page() -> str:
    """The page on every command of `gradgraph`."""
    from gradgraph.cli import main

    context = click.Context(main)
    names = main.list_commands(context)
    lines = [
        "# Commands",
        "",
        "<!-- Written by docs/make_api.py from the commands' own help. Edit that, then run it. -->",
        "",
        "What each command takes; `gradgraph COMMAND --help` shows the same. How targets are found and run, and what",
        "the exit statuses mean, is told in [the command line](../concepts/command-line.md).",
        "",
        *(f"- [`gradgraph {name}`](#gradgraph-{name}): {main.get_command(context, name).short_help}" for name in names),
        "",
        "## gradgraph",
        "",
        *_command("gradgraph", main),
    ]
    for name in names:
        lines += ["", f"## gradgraph {name}", "", *_command(f"gradgraph {name}", main.get_command(context, name))]
    return "\n".join(lines) + "\n"


def _command(path: str, command: Any) -> Iterator[str]:
    arguments = [one for one in command.params if isinstance(one, click.Argument)]
    options = [one for one in command.params if isinstance(one, click.Option)]
    shown = [one.metavar or str(one.name).upper() for one in arguments]
    rest = " COMMAND [ARGS]..." if isinstance(command, click.Group) else ""
    rest += " [-- ARGS...]" if type(command).__name__ == "Command" and shown == ["TARGET"] else ""
    yield from ("```text", f"{path} [OPTIONS]{''.join(f' {one}' for one in shown)}{rest}", "```", "")
    yield inspect.cleandoc(command.help or "")
    if options:
        yield from ("", "| option | meaning |", "|---|---|")
        yield from (f"| {_flags(option)} | {_described(option)} |" for option in options)
    epilog = (command.epilog or "").replace("\b\n", "")
    if epilog:
        yield from ("", "```text", *epilog.strip("\n").splitlines(), "```")


def _flags(option: click.Option) -> str:
    flags = ", ".join(f"`{flag}`" for flag in option.opts)
    if option.is_flag:
        return flags
    choice = isinstance(option.type, click.Choice)
    value = option.metavar or (str(option.name).strip("_") if choice else option.type.name)
    return f"{flags} `{value.upper() if choice else value.replace('|', ' or ')}`"


def _described(option: click.Option) -> str:
    text = [(option.help or "").replace("|", "\\|")]
    if isinstance(option.type, click.Choice):
        text.append(f"One of {', '.join(f'`{choice}`' for choice in option.type.choices)}.")
    if option.show_default:
        text.append(f"Default: `{option.default}`.")
    return " ".join(text)


def main() -> None:
    """Write the pages."""
    PYTHON_PAGE.parent.mkdir(exist_ok=True)
    PYTHON_PAGE.write_text(python_page(), encoding="utf-8")
    COMMANDS_PAGE.write_text(commands_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
