"""What is to be known of a graph that is drawn or saved: the options, and the graph with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from gradgraph.commands.arguments import working

if TYPE_CHECKING:
    from gradgraph.annotated import Quantity
    from gradgraph.graph import AutogradGraph
    from gradgraph.target import Target

__all__ = ["annotated", "annotation_options"]

_Function = TypeVar("_Function", bound=Any)


def annotation_options(function: _Function) -> _Function:
    """`--gradients`, `--hessian`, `--curvature`."""
    for option in (
        click.option(
            "--curvature",
            type=click.Choice(["gradient", "trace"]),
            help="With what each operation adds to the curvature along the gradient, or to the trace of the Hessian.",
        ),
        click.option("-H", "--hessian", is_flag=True, help="With the Hessian's diagonal at every leaf."),
        click.option("-g", "--gradients", is_flag=True, help="With the gradient at every node."),
    ):
        function = option(function)
    return function


def annotated(
    ctx: click.Context,
    target: Target,
    number: int | None,
    *,
    gradients: bool,
    hessian: bool,
    curvature: Quantity | Literal["any"] | None,
) -> AutogradGraph:
    """The target's graph with what was asked for; long work is told of."""
    from gradgraph.annotated import annotated_graph

    return annotated_graph(
        target,
        ctx.meta.get("script", ()),
        gradients=gradients,
        hessian=hessian,
        curvature=curvature,
        number=number,
        working=working,
    )
