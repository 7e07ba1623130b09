"""`gradgraph doctor`: what this installation can do."""

from __future__ import annotations

import click

from gradgraph.commands.arguments import json_option, print_json

__all__ = ["command"]


@click.command(
    "doctor",
    short_help="What this installation can do.",
    epilog="""\b
Examples:
  gradgraph doctor
  gradgraph doctor --json
  gradgraph doctor && gradgraph render train.py

\b
Exit status: 0 if anything can draw a picture, else 1.""",
)
@json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Say what this installation can do: torch, drawing engines, formats, fonts, GPU.

    Every engine draws a small picture; nothing is said to work that was not tried.
    """
    from gradgraph.doctor import examine

    report = examine()
    if as_json:
        print_json(report.to_dict())
    else:
        click.echo(report.to_text())
    if not report.can_draw:
        ctx.exit(1)
