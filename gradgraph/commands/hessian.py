"""`gradgraph hessian`: the Hessian's diagonal, per leaf, and the operations that curvature comes from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import click

from gradgraph.commands.arguments import (
    force_option,
    own_stdout,
    print_report,
    refuse_unwritable,
    refuse_without,
    report_command,
    suffix_of,
    warnings_in_one_line,
    working,
)
from gradgraph.commands.sizes import SIZE
from gradgraph.errors import TargetError

__all__ = ["command"]

_ESTIMATES = ("hutchinson", "xdiag")
_OF_ESTIMATES = ("probes", "tolerance", "seed")


@report_command(
    "hessian",
    short_help="The Hessian's diagonal, per leaf, and where it comes from.",
    examples="""\
  gradgraph hessian train.py                     of the loss of its last backward pass
  gradgraph hessian train.py:loss --json
  gradgraph hessian train.py --method accumulate
  gradgraph hessian train.py --save diag.safetensors
  gradgraph hessian train.py -- --epochs 3""",
)
@click.option(
    "-m",
    "--method",
    type=click.Choice(["auto", "graph", "batched", "accumulate", *_ESTIMATES]),
    default="auto",
    show_default=True,
    help="graph: read off the graph's structure. batched: many rows a pass. accumulate: one backward pass per entry. "
    "hutchinson, xdiag: estimates. auto: the cheapest exact one, leaf by leaf.",
)
@click.option(
    "--probes", type=click.IntRange(min=1), metavar="N", help="Of an estimate: how many random vectors, at most."
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0, min_open=True),
    metavar="R",
    help="Of an estimate: stop at this relative standard error.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), metavar="N", help="Of an estimate: its random vectors. [default: 0]"
)
@click.option(
    "--memory", type=SIZE, metavar="SIZE", help="What one pass may take, such as 512MiB. [default: what is fast]"
)
@click.option(
    "--save", metavar="FILE.safetensors", type=click.Path(), help="Write the diagonal, a tensor for each leaf."
)
@force_option
def command(
    ctx: click.Context,
    /,
    target: str,
    number: int | None,
    as_json: bool,
    method: str,
    memory: int | None,
    save: str | None,
    force: bool,
    **estimate: Any,
) -> None:
    """Compute the diagonal of the Hessian of TARGET's loss with respect to each of its leaves.

    A row tells a leaf's least, mean and largest entry, the share of negative ones, the method, its passes and why.
    """
    from gradgraph.target import opened, parse_target

    parsed = parse_target(target)
    options = _options(method, memory, estimate)
    if save is not None:
        _check_save(save, force=force)
    if parsed.kind == "saved" and (save is not None or options != {"method": "auto"}):
        what = "--save" if save is not None else "how the diagonal is computed"
        raise TargetError(
            f"{target} is a saved graph, which holds figures of a Hessian at most, and {what} is for a program that "
            "runs; give the script itself."
        )
    with (
        own_stdout(),
        opened(parsed, ctx.meta.get("script", ()), keep=True, number=number) as one,
        warnings_in_one_line(),
    ):
        from gradgraph.annotated import add_hessian, details
        from gradgraph.hessian_table import hessian_table

        diagonal = add_hessian(one, working=working, **options)
        table = hessian_table(one.graph, None if diagonal is None else details(diagonal))
        if save is not None and diagonal is not None:
            from gradgraph.hessian_file import write_diagonal

            write_diagonal(diagonal, save, {"target": target})
    print_report(table, as_json=as_json)
    for row in table.rows:
        if row.get("nan"):
            click.echo(f"warning: {_nan(row)}", err=True)


def _options(method: str, memory: int | None, estimate: Mapping[str, Any]) -> dict[str, Any]:
    """What `hessian_diagonal` is given.

    Raises:
        click.UsageError: an option of estimates, and the method is none.
    """
    options: dict[str, Any] = {"method": method}
    if memory is not None:
        options["memory"] = memory
    given = {name: value for name, value in estimate.items() if value is not None}
    if method in _ESTIMATES:
        return {**options, "seed": 0, **given}
    for name in given:
        raise click.UsageError(
            f"--{name} is for estimates, and --method {method} is none; expected --method hutchinson or xdiag."
        )
    return options


def _check_save(path: str, *, force: bool) -> None:
    suffix = suffix_of(path)
    if suffix != "safetensors":
        found = f"the suffix .{suffix}" if suffix else "no suffix"
        raise click.UsageError(f"--save {path} has {found}; expected .safetensors, such as diag.safetensors.")
    refuse_unwritable(path, force=force, option="--save")
    refuse_without("safetensors", "--save", "save")


def _nan(row: Mapping[str, Any]) -> str:
    entries = math.prod(row["shape"] or ())
    return (
        f"{row['name']}: {row['nan']:,} of {entries:,} entries of the diagonal are NaN; the loss is not twice "
        "differentiable there, or overflows."
    )
