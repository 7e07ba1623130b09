"""A `Picture` in the DOT language: pure text, the same for the same picture, and one that old and new Graphviz read.

Boxes have a fixed size, computed from the shipped font, so that every engine lays out the same boxes whatever fonts
it knows. Every text is quoted here, whatever it contains.
"""

from __future__ import annotations

from collections.abc import Iterator

from gradgraph.layout import Frame, Placed, Route, cut
from gradgraph.render.dot_legend import legend
from gradgraph.render.dot_looks import arrow_attributes, box_look, inches, listed, quoted
from gradgraph.render.font import FONT_FAMILY, FONT_FAMILY_BOLD
from gradgraph.render.lines import printable, shorten
from gradgraph.render.measures import Measure
from gradgraph.render.picture import DETAIL_PT, HEAD_PT, Arrow, Box, Cluster, Picture
from gradgraph.render.theme import Theme

__all__ = ["dot_of", "quoted"]


def dot_of(picture: Picture, theme: Theme, placed: Placed | None = None) -> str:
    """The picture as a DOT graph, laid out by whoever reads it; or, if placed, for `neato -n2`."""
    lines = ["digraph autograd {"]
    if placed is None:
        lines += [
            f'  graph [rankdir=TB, bgcolor="{theme.background}", nodesep=0.17, ranksep=0.32, pad=0.15, '
            # The legend is a component of its own: packed above, it does not disturb the layout.
            'pack=14, packmode="array_u1"]'
        ]
    else:
        lines += [
            "  // Every place is given: draw it with `neato -n2`.",
            f'  graph [layout=nop2, bgcolor="{theme.background}", pad=0.15, outputorder=edgesfirst, splines=true]',
        ]
    lines += [
        f"  node [fontname={quoted(FONT_FAMILY)}, fontsize={HEAD_PT:g}, fixedsize=true, margin=0, shape=box, "
        f'style="rounded,filled", fontcolor="{theme.text}"]',
        f'  edge [fontname={quoted(FONT_FAMILY)}, fontsize=8, color="{theme.gradient}", fontcolor="{theme.quiet}", '
        "arrowsize=0.6, labeldistance=1.8, labelangle=-24]",
        *(legend(picture, theme) if placed is None else _lanes(picture, placed, theme)),
    ]
    if not picture.boxes:
        lines.append(
            f'  empty [shape=plaintext, style="", label="an empty graph", width=1.5, fontcolor="{theme.quiet}"]'
        )
    for box in picture.boxes:
        place = {} if placed is None else {"pos": _point(placed.centres[box.key])}
        lines.append(f"  {quoted(box.key)}{listed(_box(box, picture.measure, theme) | place)}")
    leaves = {box.key for box in picture.boxes if box.category == "leaf"}
    for index, arrow in enumerate(picture.arrows):
        where = _weight(arrow, leaves) if placed is None else _route(placed.routes[index])
        lines.append(f"  {quoted(arrow.tail)} -> {quoted(arrow.head)}{listed(where | arrow_attributes(arrow, theme))}")
    if placed is None:
        lines += _clusters(picture, theme)
        if not picture.connected:
            # Several components would be packed one by one, below each other.
            keys = " ".join(quoted(box.key) for box in picture.boxes)
            lines.append(f'  subgraph cluster_graph {{ graph [label="", style=invis]; {keys} }}')
    lines.append("}")
    return "\n".join(lines) + "\n"


def _point(point: tuple[float, float]) -> str:
    return f'"{point[0]:.1f},{point[1]:.1f}"'


def _route(route: Route) -> dict[str, str]:
    if len(route) < 4:
        return {}
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in cut(route, 5.0))
    return {"pos": f'"e,{route[-1][0]:.1f},{route[-1][1]:.1f} {line}"'}


def _lanes(picture: Picture, placed: Placed, theme: Theme) -> Iterator[str]:
    """Title, the lanes' names, and the clusters' frames, each at its place."""
    said = [*([] if picture.title is None else [picture.title]), *picture.captions]
    for index, words in enumerate(said):
        y = placed.height + 18 * (len(said) - index)
        label = quoted(printable(words))
        yield f'  said{index} [shape=plaintext, style="", label={label}, pos="{placed.width / 2:.1f},{y:.1f}"]'
    for lane in placed.lanes if len(placed.lanes) > 1 else ():
        look = f'shape=plaintext, style="", fontname={quoted(FONT_FAMILY_BOLD)}, label="order {lane.order}"'
        yield f"  lane{lane.order} [{look}, pos={_point(lane.label)}]"
    labels = {cluster.name: _cluster_label(cluster) for cluster in picture.clusters}
    for index, frame in enumerate(placed.frames):
        keys = " ".join(quoted(box.key) for box in picture.boxes if _within(box, frame))
        bounds = f"{frame.left:.1f},{frame.bottom:.1f},{frame.right:.1f},{frame.top:.1f}"
        look = f'label={quoted(labels.get(frame.cluster, ""))}, fontsize=9, fontcolor="{theme.quiet}"'
        place = f'bb="{bounds}", lp="{frame.label[0] + 20:.1f},{frame.label[1] + 3:.1f}"'
        yield f'  subgraph cluster_{index} {{ graph [{look}, color="{theme.gradient}", {place}]; {keys} }}'


def _within(box: Box, frame: Frame) -> bool:
    return box.order == frame.order and not box.stub and box.clusters[-1:] == (frame.cluster,)


def _cluster_label(cluster: Cluster) -> str:
    label = shorten(cluster.label, 61)
    return f"{label} ×{cluster.times:,}" if cluster.times > 1 else label


def _clusters(picture: Picture, theme: Theme) -> Iterator[str]:
    """The frames around groups of boxes, nested."""
    inside: dict[str | None, list[str]] = {}
    for box in picture.boxes:
        inside.setdefault(box.clusters[-1] if box.clusters else None, []).append(quoted(box.key))
    children: dict[str | None, list[int]] = {}
    names = {cluster.name for cluster in picture.clusters}
    for index, cluster in enumerate(picture.clusters):
        children.setdefault(cluster.parent if cluster.parent in names else None, []).append(index)

    def group(index: int, indent: str) -> Iterator[str]:
        cluster = picture.clusters[index]
        look = f"label={quoted(_cluster_label(cluster))}, fontname={quoted(FONT_FAMILY)}, fontsize={DETAIL_PT:g}"
        yield f"{indent}subgraph cluster_{index} {{"
        paint = f'fontcolor="{theme.quiet}", color="{theme.gradient}"'
        yield f"{indent}  graph [{look}, {paint}, style=rounded, labeljust=l]"
        yield f"{indent}  {' '.join(inside.get(cluster.name, []))}"
        for child in children.get(cluster.name, []):
            yield from group(child, indent + "  ")
        yield f"{indent}}}"

    for index in children.get(None, []):
        yield from group(index, "  ")


def _box(box: Box, measure: Measure | None, theme: Theme) -> dict[str, str]:
    lines = [line.text for line in box.lines]
    if box.times > 1:
        lines[0] += f"  ×{box.times:,}"
    label = "\\n".join(quoted(line)[1:-1] for line in lines)
    attributes = {"id": quoted(box.key), "label": f'"{label}"'}
    # A second outline stands 4 points outside of the first.
    spare = 8.0 if box.category == "folded" else 0.0
    attributes |= {"width": inches(box.width - spare), "height": inches(box.height - spare)}
    if box.full is not None:
        attributes["tooltip"] = quoted(box.full).replace("\n", "\\n")
    return attributes | box_look(box, measure, theme)


def _weight(arrow: Arrow, leaves: set[str]) -> dict[str, str]:
    """Gradient edges between operations weigh more: chains of them stand straight, leaves and curvature beside them.

    A chain of 1,000 operations on one weight is 300 points wide instead of 55,000.
    """
    return {"weight": "2"} if arrow.role == "gradient" and arrow.head not in leaves else {}
