"""`gradgraph summary`: what a target's graph is made of."""

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
    "summary",
    short_help="What the graph is made of, by order and operation.",
    cls=Command,
    epilog="""\b
Examples:
  gradgraph summary train.py
  gradgraph summary train.py:loss --json
  gradgraph summary graph.json
  gradgraph summary train.py -- --epochs 3""",
)
@target_argument
@pass_option
@json_option
@click.pass_context
def command(ctx: click.Context, target: str, number: int | None, as_json: bool) -> None:
    """Summarise TARGET's graph: nodes by order and operation, leaves, saved bytes."""
    from gradgraph.target import opened

    with own_stdout(), opened(target, ctx.meta.get("script", ()), number=number) as one:
        graph = one.graph
    from gradgraph.render.text import summary

    report = summary(graph)
    if as_json:
        print_json(report.to_dict())
    else:
        click.echo(report.to_text(terminal_width()))
