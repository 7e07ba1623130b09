"""`gradgraph hessian`: the Hessian's diagonal, per leaf, and the operations that curvature comes from."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import click

from gradgraph.commands.arguments import (
    force_option,
    known_suffix,
    own_stdout,
    print_report,
    refuse_unwritable,
    refuse_without,
    report_command,
    warnings_in_one_line,
    working,
)
from gradgraph.commands.sizes import SIZE
from gradgraph.errors import GradGraphError, TargetError

if TYPE_CHECKING:
    from gradgraph.target import Opened

__all__ = ["command"]

By = Literal["module", "op", "source"]

_ESTIMATES = ("hutchinson", "xdiag")
_PROBES = 100  # that the split of an estimated trace takes, where --probes does not say

#: By option: the package that writes its file, the extra that has it, the suffixes.
_WRITERS = {
    "--save": ("safetensors", "save", "safetensors"),
    "--plot": ("matplotlib", "plot", "png", "svg", "pdf"),
    "--heat-map": ("matplotlib", "plot", "png", "svg", "pdf"),
}


@report_command(
    "hessian",
    short_help="The Hessian's diagonal, per leaf, and where it comes from.",
    examples="""\
  gradgraph hessian train.py                     of the loss of its last backward pass
  gradgraph hessian train.py:loss --json
  gradgraph hessian train.py --method accumulate
  gradgraph hessian train.py --method hutchinson --probes 200
  gradgraph hessian train.py --top 5 --plot bends.png --save diag.safetensors
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
    "-n",
    "--top",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    metavar="N",
    help="List the N operations that add the most to the trace; 0 lists none, and without --plot takes half the time.",
)
@click.option(
    "--save", metavar="FILE.safetensors", type=click.Path(), help="Write the diagonal, a tensor for each leaf."
)
@click.option(
    "--plot", metavar="FILE", type=click.Path(), help="Draw what adds to the trace as bars: .png, .svg or .pdf."
)
@click.option(
    "--by", type=click.Choice(["module", "op", "source"]), help="Of --plot: what a bar is. [default: module, if known]"
)
@click.option(
    "--heat-map",
    metavar="FILE",
    type=click.Path(),
    help="Draw the whole Hessian, of a small model: .png, .svg or .pdf.",
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
    top: int,
    save: str | None,
    plot: str | None,
    by: By | None,
    heat_map: str | None,
    force: bool,
    **estimate: Any,
) -> None:
    """Compute the diagonal of the Hessian of TARGET's loss, and which operations its trace comes from.

    A row tells a leaf's least, mean and largest entry, the share of negative ones, the method, its passes and why.
    Below stand the operations that add the most to the trace, with their modules and lines.
    """
    from gradgraph.target import opened, parse_target

    parsed = parse_target(target)
    options = _options(method, memory, estimate)
    if by is not None and plot is None:
        raise click.UsageError("--by says what a bar of --plot stands for; expected --plot FILE with it.")
    given = {"--save": save, "--plot": plot, "--heat-map": heat_map}
    files = {option: path for option, path in given.items() if path is not None}
    if parsed.kind == "saved" and (files or options != {"method": "auto"}):
        what = next(iter(files), "how the diagonal is computed")
        raise TargetError(
            f"{target} is a saved graph, which holds figures of a Hessian at most, and {what} is for a program that "
            "runs; give the script itself."
        )
    _check_files(files, force=force)
    with (
        own_stdout(),
        opened(parsed, ctx.meta.get("script", ()), keep=True, number=number) as one,
        warnings_in_one_line(),
    ):
        from gradgraph.annotated import add_hessian, details, draw_hessian, refuse_large
        from gradgraph.curvature_table import curvature_table
        from gradgraph.hessian_table import hessian_table

        if heat_map is not None:
            refuse_large(one)
        diagonal = add_hessian(one, working=working, **options)
        if diagonal is not None and (top or plot is not None):
            _split(one, options, plot, by)
        table = hessian_table(
            one.graph,
            None if diagonal is None else details(diagonal),
            curvature_table(one.graph, top) if top else None,
        )
        if save is not None and diagonal is not None:
            from gradgraph.hessian_file import write_diagonal

            write_diagonal(diagonal, save, {"target": target})
        if heat_map is not None:
            draw_hessian(one, heat_map, working=working)
    print_report(table, as_json=as_json)
    for row in table.rows:
        if row.get("nan"):
            click.echo(f"warning: {_nan(row)}", err=True)


def _split(one: Opened, options: Mapping[str, Any], plot: str | None, by: By | None) -> None:
    """Split the trace by operation, and draw that."""
    from gradgraph.annotated import add_curvature

    given: dict[str, Any] = {name: options[name] for name in ("memory", "seed") if name in options}
    if options["method"] in _ESTIMATES:
        given["probes"] = options.get("probes", _PROBES)
    try:
        found = add_curvature(one, "trace", working=working, **given)
    except GradGraphError as error:
        if plot is not None:
            raise
        click.echo(f"warning: the operations that it comes from cannot be told: {error}", err=True)
        return
    if plot is not None and found is not None:
        from gradgraph.charts import shares

        known = any(data["module"] is not None for _, data in found.graph.nodes(data=True))
        shares(found, by or ("module" if known else "op"), path=plot)


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


def _check_files(files: Mapping[str, str], *, force: bool) -> None:
    """Say before a long run that a file cannot be written, or would be twice.

    Raises:
        click.UsageError: two options name one file; and what `_check_file` raises.
        GradGraphError: a package that writes one is not installed.
    """
    seen: dict[str, str] = {}
    for option, path in files.items():
        first = seen.setdefault(os.path.realpath(path), option)
        if first != option:
            raise click.UsageError(
                f"{first} and {option} both name {path}, and the one would replace the other; give each its own file."
            )
    for option, path in files.items():
        _check_file(option, path, force=force)


def _check_file(option: str, path: str, *, force: bool) -> None:
    """Say before a long run that a file cannot be written.

    Raises:
        click.UsageError: its suffix is none for this option, or it exists, or its folder does not.
        GradGraphError: the package that writes it is not installed.
    """
    package, extra, *known = _WRITERS[option]
    remedy = f"; expected {' or '.join(f'.{one}' for one in known)}."
    known_suffix(path, known, remedy, name=f"{option} {path}")
    refuse_unwritable(path, force=force, option=option)
    refuse_without(package, option, extra)


def _nan(row: Mapping[str, Any]) -> str:
    entries = math.prod(row["shape"] or ())
    return (
        f"{row['name']}: {row['nan']:,} of {entries:,} entries of the diagonal are NaN; the loss is not twice "
        "differentiable there, or overflows."
    )
