"""`gradgraph memory`: what a target's graph keeps in memory."""

from __future__ import annotations

import click

from gradgraph.commands.arguments import (
    Command,
    json_option,
    own_stdout,
    pass_option,
    print_json,
    target_argument,
    terminal_width,
)

__all__ = ["command"]


@click.command(
    "memory",
    short_help="What the graph keeps in memory.",
    cls=Command,
    epilog="""\b
Examples:
  gradgraph memory train.py
  gradgraph memory train.py --top 5
  gradgraph memory graph.json --json""",
)
@target_argument
@pass_option
@json_option
@click.option("-n", "--top", type=click.IntRange(min=1), metavar="N", help="Show only the N largest entries.")
@click.pass_context
def command(ctx: click.Context, target: str, number: int | None, as_json: bool, top: int | None) -> None:
    """Show what TARGET's graph keeps in memory: saved tensors, each storage counted once."""
    from gradgraph.target import opened

    with own_stdout(), opened(target, ctx.meta.get("script", ()), number=number) as one:
        graph = one.graph
    from gradgraph.render.text import memory

    report = memory(graph) if top is None else memory(graph, top=top)
    if as_json:
        print_json(report.to_dict())
    else:
        click.echo(report.to_text(terminal_width()))
