"""`gradgraph summary`: what a target's graph is made of."""

from __future__ import annotations

import click

from gradgraph.commands.arguments import own_stdout, print_report, report_command

__all__ = ["command"]


@report_command(
    "summary",
    short_help="What the graph is made of, by order and operation.",
    examples="""\
  gradgraph summary train.py
  gradgraph summary train.py:loss --json
  gradgraph summary graph.json
  gradgraph summary train.py -- --epochs 3""",
)
def command(ctx: click.Context, target: str, number: int | None, as_json: bool) -> None:
    """Summarise TARGET's graph: nodes by order and operation, leaves, saved bytes."""
    from gradgraph.target import opened

    with own_stdout(), opened(target, ctx.meta.get("script", ()), number=number) as one:
        graph = one.graph
    from gradgraph.render.text import summary

    print_report(summary(graph), as_json=as_json)
