"""`gradgraph trace`: save a target's graph."""

from __future__ import annotations

from typing import Any

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
)

__all__ = ["command"]

_FORMATS = ("json", "graphml")


@click.command(
    "trace",
    short_help="Save the graph, to open again or in other programs.",
    cls=Command,
    epilog="""\b
Examples:
  gradgraph trace train.py -o graph.json              its last backward pass
  gradgraph trace train.py:loss -o loss.graphml       for Gephi, yEd, igraph, networkx
  gradgraph trace train.py -gH -o full.json -- --epochs 3

\b
A saved graph.json is itself a TARGET, and opens without torch:
  gradgraph summary graph.json""",
)
@target_argument
@pass_option
@click.option("-o", "--output", metavar="G.json|G.graphml", type=click.Path(), required=True, help="File to write.")
@annotation_options
@force_option
@click.pass_context
def command(ctx: click.Context, /, target: str, number: int | None, output: str, force: bool, **wanted: Any) -> None:
    """Save TARGET's autograd graph, as JSON to open again or as GraphML for other programs."""
    from gradgraph.readwrite import write_graphml, write_json
    from gradgraph.target import parse_target

    remedy = ", which names no graph format; expected .json or .graphml (pictures are drawn by gradgraph render)."
    suffix = known_suffix(output, _FORMATS, remedy)
    parsed = parse_target(target)
    refuse_unwritable(output, force=force)
    with own_stdout():
        graph = annotated(ctx, parsed, number, **wanted)
        (write_json if suffix == "json" else write_graphml)(graph, output)
    click.echo(f"{output}: {len(graph)} nodes, {graph.number_of_edges()} edges")
