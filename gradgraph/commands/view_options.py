"""The options on what a picture shows, for every command that draws one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

__all__ = ["VIEW_OPTIONS", "render_options", "view_options"]

_Function = TypeVar("_Function", bound=Callable[..., Any])

#: The options of `gradgraph.render` that these are handed to, under the same names.
VIEW_OPTIONS = ("theme", "color", "fold", "depth", "expand", "focus", "hops", "order", "max_nodes", "layout")

_HOPS = 2

_OPTIONS = (
    click.option(
        "--fold",
        type=click.Choice(["auto", "none", "module", "line", "repeat", "chain"]),
        default="auto",
        show_default=True,
        help="What becomes one box: modules, source lines, repeated structure, chains, nothing, or what fits.",
    ),
    click.option("--depth", type=click.IntRange(min=0), metavar="N", help="How deep modules are told apart."),
    click.option("--expand", metavar="NAME", multiple=True, help="Open this folded box. May be given several times."),
    click.option("--focus", metavar="NODE", help="Show only what is near this: a node's number or name, or a module."),
    click.option(
        "--hops",
        type=click.IntRange(min=0),
        default=None,
        metavar="N",
        help=f"How far around --focus. [default: {_HOPS}]",
    ),
    click.option(
        "--order",
        type=click.IntRange(min=0),
        metavar="K",
        multiple=True,
        help="Show only this derivative order. May be given several times.",
    ),
    click.option(
        "--max-nodes",
        type=click.IntRange(min=1),
        default=150,
        show_default=True,
        metavar="N",
        help="Boxes that --fold auto leaves about, at most.",
    ),
    click.option(
        "--color",
        type=click.Choice(["order", "gradient", "saved_bytes", "curvature", "hessian_diagonal"]),
        default="order",
        show_default=True,
        help="What fills the boxes.",
    ),
    click.option(
        "--layout",
        type=click.Choice(["auto", "lanes", "dot"]),
        default="auto",
        show_default=True,
        help="Where boxes stand: each order in a lane of its own, or as dot places them.",
    ),
    click.option(
        "-t", "--theme", type=click.Choice(["light", "dark"]), default="light", show_default=True, help="Colours."
    ),
)


def view_options(function: _Function) -> _Function:
    """All of them."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def render_options(given: dict[str, Any]) -> dict[str, Any]:
    """The view options among the values that a command was `given`, as `gradgraph.render` takes them.

    Raises:
        click.UsageError: `--hops` without `--focus`.
    """
    options = {name: given[name] for name in VIEW_OPTIONS}
    if options["hops"] is not None and options["focus"] is None:
        raise click.UsageError(
            "--hops says how far around a node, so it needs --focus NODE: a number, a name or a module."
        )
    options["hops"] = _HOPS if options["hops"] is None else options["hops"]
    options["order"] = options["order"] or None
    focus = options["focus"]
    options["focus"] = int(focus) if focus is not None and focus.isdecimal() else focus
    return options
