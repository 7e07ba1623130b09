"""`gradgraph trace`: save a target's graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from gradgraph.commands.arguments import (
    Command,
    curvature_option,
    force_option,
    own_stdout,
    pass_option,
    refuse_unwritable,
    suffix_of,
    target_argument,
    working,
)

if TYPE_CHECKING:
    from gradgraph.annotated import Quantity

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
@click.option("-g", "--gradients", is_flag=True, help="Save the gradient statistics of every node.")
@click.option("-H", "--hessian", is_flag=True, help="Save the statistics of the Hessian's diagonal at every leaf.")
@curvature_option
@force_option
@click.pass_context
def command(
    ctx: click.Context,
    target: str,
    number: int | None,
    output: str,
    gradients: bool,
    hessian: bool,
    curvature: Quantity | None,
    force: bool,
) -> None:
    """Save TARGET's autograd graph, as JSON to open again or as GraphML for other programs."""
    from gradgraph.readwrite import write_graphml, write_json
    from gradgraph.target import parse_target

    suffix = suffix_of(output)
    if suffix not in _FORMATS:
        found = f"the suffix .{suffix}" if suffix else "no suffix"
        raise click.UsageError(
            f"{output} has {found}, which names no graph format; expected .json or .graphml (pictures are drawn by "
            "gradgraph render)."
        )
    parsed = parse_target(target)
    refuse_unwritable(output, force=force)
    with own_stdout():
        from gradgraph.annotated import annotated_graph

        graph = annotated_graph(
            parsed,
            ctx.meta.get("script", ()),
            gradients=gradients,
            hessian=hessian,
            curvature=curvature,
            number=number,
            working=working,
        )
        (write_json if suffix == "json" else write_graphml)(graph, output)
    click.echo(f"{output}: {len(graph)} nodes, {graph.number_of_edges()} edges")
