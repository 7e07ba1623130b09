"""`gradgraph render`: draw a target's graph into a file."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from gradgraph.commands.annotations import annotated, annotation_options
from gradgraph.commands.arguments import (
    Command,
    force_option,
    known_suffix,
    own_stdout,
    pass_option,
    refuse_unwritable,
    target_argument,
    warnings_in_one_line,
)
from gradgraph.commands.view_options import render_options, view_options

if TYPE_CHECKING:
    from gradgraph.annotated import Quantity

__all__ = ["command"]

_FORMATS = ("png", "svg", "pdf", "dot")


@click.command(
    "render",
    short_help="Draw the graph as PNG, SVG, PDF or DOT.",
    cls=Command,
    epilog="""\b
Examples:
  gradgraph render train.py                           its last backward pass, as train.png
  gradgraph render train.py:loss -o loss.svg          the graph behind the variable `loss`
  gradgraph render train.py --pass 1 --fold module    its first pass, one box for each module
  gradgraph render train.py --gradients --hessian -o train.pdf
  gradgraph render train.py --color curvature -o bends.png
  gradgraph render train.py -o out.png -- --epochs 3  with arguments for the script
  gradgraph render graph.json -o - --format dot       DOT on stdout, from a saved graph""",
)
@target_argument
@pass_option
@click.option(
    "-o", "--output", metavar="OUT", type=click.Path(), help="File to write; `-` for stdout. [default: ./TARGET.png]"
)
@annotation_options
@click.option("-s", "--saved", is_flag=True, help="Show the tensors that nodes saved, with their bytes.")
@view_options
@click.option("-F", "--format", "format_", type=click.Choice(_FORMATS), help="Instead of what OUT's suffix says.")
@click.option(
    "-e",
    "--engine",
    type=click.Choice(["auto", "dot", "embedded"]),
    default="auto",
    show_default=True,
    help="What lays the graph out: an installed dot, or the Graphviz that comes with gradgraph.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=20.0,
    show_default=True,
    metavar="SECONDS",
    help="What an engine may take.",
)
@click.option(
    "--max-boxes",
    type=click.IntRange(min=1),
    default=2500,
    show_default=True,
    metavar="N",
    help="Refuse to lay out more.",
)
@force_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    target: str,
    number: int | None,
    output: str | None,
    gradients: bool,
    hessian: bool,
    curvature: Quantity | None,
    saved: bool,
    format_: str | None,
    engine: str,
    timeout: float,
    max_boxes: int,
    force: bool,
    **view: Any,
) -> None:
    """Draw TARGET's autograd graph into a PNG, SVG, PDF or DOT file."""
    from gradgraph.target import parse_target

    parsed = parse_target(target)
    output = f"{parsed.stem}.{format_ or 'png'}" if output is None else output
    chosen = _format(output, format_)
    if output != "-":
        refuse_unwritable(output, force=force)
    options: dict[str, Any] = {
        **render_options(view),
        "format": chosen,
        "gradients": gradients or None,  # None shows what a saved graph carries
        "hessian": hessian or None,
        "saved": saved,
        "engine": engine,
        "timeout": timeout,
        "max_boxes": max_boxes,
    }
    picture = b""
    with own_stdout():
        graph = annotated(
            ctx,
            parsed,
            number,
            gradients=gradients or view["color"] == "gradient",
            hessian=hessian or view["color"] == "hessian_diagonal",
            curvature=curvature or ("any" if view["color"] == "curvature" else None),
        )
        graph.release()
        with warnings_in_one_line():
            if output == "-":
                picture = _drawn(graph, options)
            else:
                graph.render(output, **options)
    if output == "-":
        sys.stdout.buffer.write(picture)
        sys.stdout.buffer.flush()
    else:
        click.echo(output)


def _format(output: str, given: str | None) -> str:
    """The format to draw, known before anything runs."""
    if given is not None:
        return given
    formats = ", ".join(_FORMATS)
    if output == "-":
        raise click.UsageError(f"-o - needs --format, one of {formats}; for example -o - --format svg.")
    return known_suffix(output, _FORMATS, f", which names no picture format; expected one of {formats}, or --format.")


def _drawn(graph: Any, options: dict[str, Any]) -> bytes:
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"graph.{options['format']}")
        graph.render(path, **options)
        return path.read_bytes()
