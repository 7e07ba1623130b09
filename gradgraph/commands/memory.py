"""`gradgraph memory`: what a target's graph keeps in memory."""

from __future__ import annotations

import click

from gradgraph.commands.arguments import own_stdout, print_report, report_command

__all__ = ["command"]


@report_command(
    "memory",
    short_help="What the graph keeps in memory.",
    examples="""\
  gradgraph memory train.py
  gradgraph memory train.py --top 5
  gradgraph memory graph.json --json""",
)
@click.option("-n", "--top", type=click.IntRange(min=1), metavar="N", help="Show only the N largest entries.")
def command(ctx: click.Context, target: str, number: int | None, as_json: bool, top: int | None) -> None:
    """Show what TARGET's graph keeps in memory: saved tensors, each storage counted once."""
    from gradgraph.target import opened

    with own_stdout(), opened(target, ctx.meta.get("script", ()), number=number) as one:
        graph = one.graph
    from gradgraph.render.text import memory

    print_report(memory(graph) if top is None else memory(graph, top=top), as_json=as_json)
