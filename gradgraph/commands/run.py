"""`gradgraph run`: run a program as Python does, and list its backward passes."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO

import click

from gradgraph.commands.arguments import (
    force_option,
    known_suffix,
    not_zero,
    refuse_unwritable,
    suffix_of,
    to_json,
    warnings_in_one_line,
)
from gradgraph.commands.view_options import render_options, view_options
from gradgraph.errors import GradGraphError

if TYPE_CHECKING:
    from gradgraph.graph import AutogradGraph
    from gradgraph.running import Watch

__all__ = ["command"]

_PICTURES = ("png", "svg", "pdf", "dot")
_GRAPHS = ("json", "graphml")
_PLACE = "{pass}"


@click.command(
    "run",
    short_help="Run a program and list its backward passes.",
    context_settings={"allow_interspersed_args": False},
    epilog="""\b
Examples:
  gradgraph run train.py                          run it, then list its backward passes
  gradgraph run train.py --epochs 3               what follows the script is for the script
  gradgraph run --pass 1 --pass -1 train.py       draw the first and the last pass
  gradgraph run --pass 2 -o second.json train.py  save the second pass's graph
  gradgraph run -m package.module --lr 0.1        as python -m package.module --lr 0.1
  gradgraph run --json --listing passes.json train.py

\b
Exit status: the program's own; 130 interrupted; 1 instead of 0 if a pass could not be written.""",
)
@click.option("-m", "--module", is_flag=True, help="SCRIPT is a module's dotted name, as for python -m.")
@click.option(
    "-p",
    "--pass",
    "numbers",
    type=int,
    metavar="N",
    multiple=True,
    callback=not_zero,
    help="Write the graph of backward pass N: 1 is the first, -1 the last. May be given several times.",
)
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    type=click.Path(),
    help="File for that graph: .png, .svg, .pdf, .dot, .json or .graphml; {pass} in it stands for N. "
    "[default: ./SCRIPT-pass{pass}.png]",
)
@click.option("-g", "--gradients", is_flag=True, help="Write the gradient at every node, too.")
@view_options
@click.option("--json", "as_json", is_flag=True, help="List the passes as JSON, on stdout.")
@click.option(
    "-l",
    "--listing",
    metavar="FILE",
    type=click.Path(),
    help="File for the list of passes, instead of stderr or stdout.",
)
@force_option
@click.argument("script", type=click.Path())
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[ARGS]...")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    script: str,
    arguments: tuple[str, ...],
    module: bool,
    numbers: tuple[int, ...],
    output: str | None,
    gradients: bool,
    as_json: bool,
    listing: str | None,
    force: bool,
    **view: Any,
) -> None:
    """Run SCRIPT as `python SCRIPT ARGS...` would, then list its backward passes on stderr.

    Each row is a line of the program that ran passes: how many, their numbers, the derivative orders, nodes and bytes
    of the graphs that they went through, and the time that they took.
    """
    from gradgraph.launch import end, find_program, launch
    from gradgraph.running import Watch

    options = {**render_options(view), "gradients": gradients or None}
    if view["color"] in ("curvature", "hessian_diagonal"):
        raise click.UsageError(
            f"--color {view['color']} is not known while a program runs; take the pass with gradgraph render {script} "
            f"--pass N --color {view['color']}."
        )
    program = find_program(script, arguments, module=module)
    numbers = numbers or ((-1,) if output is not None else ())
    files = _files(f"{program.stem}-pass{_PLACE}.png" if output is None else output, numbers)
    for path in {*files.values(), *([listing] if listing is not None else [])}:
        refuse_unwritable(path, force=force)
    # The program may change directory, and put other streams in the place of these.
    absolute = {path: os.path.abspath(path) for path in {*files.values(), listing or ""}}
    own_streams = (sys.stdout, sys.stderr)
    width = _width()
    written: dict[int, str] = {}

    def write(number: int, graph: AutogradGraph) -> None:
        _write(graph, absolute[files[number]], options)
        written[number] = files[number]

    watch = Watch(script, numbers, write, gradients=gradients or view["color"] == "gradient")
    code = launch(program, whole=bool(ctx.find_root().params.get("debug")))
    if watch.in_fork:
        sys.exit(code)
    end()
    watch.end()
    report = _as_json(watch, written) if as_json else _as_text(watch, written, width)
    if listing is None:
        _print(report, own_streams[0 if as_json else 1])
    else:
        _save(report, absolute[listing], watch.problems)
    for problem in watch.problems:
        _print(f"error: {problem}", own_streams[1])
    sys.exit(code or (1 if watch.problems else 0))


def _files(pattern: str, numbers: tuple[int, ...]) -> dict[int, str]:
    """The file of each pass.

    Raises:
        click.UsageError: a suffix that is no format, or one file for several passes.
    """
    known = (*_PICTURES, *_GRAPHS)
    known_suffix(pattern, known, f", which names no format; expected one of {', '.join(known)}.")
    if len(set(numbers)) > 1 and _PLACE not in pattern:
        name, dot, end = pattern.rpartition(".")
        raise click.UsageError(
            f"{pattern} is one file for {len(set(numbers))} passes; put {_PLACE} in its name: {name}-{_PLACE}{dot}{end}"
        )
    return {number: pattern.replace(_PLACE, str(number)) for number in numbers}


def _write(graph: AutogradGraph, path: str, options: dict[str, Any]) -> None:
    suffix = suffix_of(path)
    if suffix in _GRAPHS:
        from gradgraph.readwrite import write_graphml, write_json

        (write_json if suffix == "json" else write_graphml)(graph, path)
    else:
        with warnings_in_one_line():
            graph.render(path, **options)


def _as_text(watch: Watch, written: dict[int, str], width: int) -> str:
    return "\n".join([watch.passes.to_text(width), *(f"pass {number}: {path}" for number, path in written.items())])


def _as_json(watch: Watch, written: dict[int, str]) -> str:
    files = [{"pass": number, "path": path} for number, path in written.items()]
    return to_json({**watch.passes.to_dict(), "written": files})


def _print(text: str, stream: TextIO) -> None:
    with suppress(OSError, ValueError):  # closed by the program, or by its reader: there is nobody to tell
        print(text, file=stream, flush=True)


def _save(text: str, path: str, problems: list[str]) -> None:
    from gradgraph.files import write_whole

    try:
        write_whole(path, f"{text}\n".encode())
    except (GradGraphError, OSError) as error:
        problems.append(str(error))


def _width() -> int:
    """Columns of the terminal, or as many as it takes where stderr goes elsewhere."""
    import shutil

    return max(40, shutil.get_terminal_size().columns) if sys.stderr.isatty() else 10_000
