"""`gradgraph hessian`: the Hessian's diagonal, per leaf."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from gradgraph.commands.arguments import (
    Command,
    json_option,
    own_stdout,
    pass_option,
    print_json,
    target_argument,
    terminal_width,
    warnings_in_one_line,
)

if TYPE_CHECKING:
    from gradgraph.annotated import Method

__all__ = ["command"]


@click.command(
    "hessian",
    short_help="The Hessian's diagonal, per leaf.",
    cls=Command,
    epilog="""\b
Examples:
  gradgraph hessian train.py                     of the loss of its last backward pass
  gradgraph hessian train.py:loss --json
  gradgraph hessian train.py --method accumulate
  gradgraph hessian train.py -- --epochs 3""",
)
@target_argument
@pass_option
@click.option(
    "-m",
    "--method",
    type=click.Choice(["auto", "accumulate", "batched"]),
    default="auto",
    show_default=True,
    help="accumulate: one backward pass per entry. batched: many entries a pass. auto: the cheapest that applies.",
)
@json_option
@click.pass_context
def command(ctx: click.Context, target: str, number: int | None, method: Method, as_json: bool) -> None:
    """Compute the diagonal of the Hessian of TARGET's loss with respect to each of its leaves."""
    from gradgraph.target import opened

    with (
        own_stdout(),
        opened(target, ctx.meta.get("script", ()), keep=True, number=number) as one,
        warnings_in_one_line(),
    ):
        from gradgraph.annotated import add_hessian
        from gradgraph.hessian_table import hessian_table

        add_hessian(one, method)
        table = hessian_table(one.graph)
    if as_json:
        print_json(table.to_dict())
    else:
        click.echo(table.to_text(terminal_width()))
