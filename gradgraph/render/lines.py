"""The lines of text in the box of one node: what it is, what it makes, and what is known about it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gradgraph.shares import format_share, share_of

__all__ = [
    "LONGEST",
    "Line",
    "Role",
    "Show",
    "alerting",
    "curvature_lines",
    "file_line",
    "format_bytes",
    "format_number",
    "format_shape",
    "lines_of",
    "outputs_line",
    "printable",
    "short_source",
    "shorten",
]

LONGEST = 34  # characters of one line; about 170 pt
_FOLDER = re.compile(r"[/\\]")
_MOST_ENTRIES = 6  # of a list that a box spells out

Role = Literal["head", "detail", "note", "alert"]


@dataclass(frozen=True)
class Line:
    """One line of a box. `head` stands out, `detail` is quiet, `note` is an annotation, `alert` a defect."""

    text: str
    role: Role = "detail"
    full: str | None = None  # where the text is a part of it


@dataclass(frozen=True)
class Show:
    """Which annotations the boxes carry."""

    gradients: bool = False
    hessian: bool = False
    saved: bool = False
    device: bool = False  # where a graph lives on several devices
    called_again: frozenset[str] = frozenset()  # modules that were called several times
    curvature: float | None = None  # what the magnitudes of all nodes of the graph sum to


def lines_of(data: Mapping[str, Any], show: Show) -> list[Line]:
    """The lines for a node with the attributes `data`; the first is its heading. Texts may be long; see `shorten`."""
    lines = list(_identity(data, show))
    if data.get("detached_slots"):
        count = data["detached_slots"]
        lines.append(Line(f"{count} input needs no grad" if count == 1 else f"{count} inputs need no grad"))
    lines += _modified(data)
    if show.gradients:
        lines += _gradient(data)
        lines += _ledger(data)
    if show.hessian:
        lines += _hessian(data)
    lines += curvature_lines(data, show)
    if show.saved:
        lines += _saved(data)
    return lines


def curvature_lines(data: Mapping[str, Any], show: Show) -> Iterator[Line]:
    """What a node or folded box adds to a curvature, and its share of the whole; nothing of those that add nothing."""
    value = data.get("curvature")
    if not value:
        return
    share = share_of(float(value), show.curvature)
    words = f"curvature {format_number(value, sign=True)}"
    bad = not math.isfinite(float(value))
    yield Line(f"{words} ({format_share(share)})" if share else words, "alert" if bad else "note")


def alerting(lines: Sequence[Line]) -> bool:
    """Whether a line tells of a defect."""
    return any(line.role == "alert" for line in lines)


def shorten(text: str, most: int = LONGEST) -> str:
    """`text` on one line, its middle cut where it is longer than `most` characters: both ends of a path tell most.

    >>> shorten("transformer.h.0.attn.c_attn.weight", 20)
    'transfor…attn.weight'
    """
    text = printable(text)
    if len(text) <= most:
        return text
    front = (most - 1) * 2 // 5 + 1
    return f"{text[:front].rstrip(' …')}…{text[len(text) - (most - 1 - front) :].lstrip(' …')}"


def printable(text: str) -> str:
    """`text` on one line, without characters that control a terminal or are forbidden in XML."""
    if text.isprintable() and "  " not in text and text == text.strip():
        return text
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in " ".join(text.split()))


def format_number(value: Any, *, sign: bool = False) -> str:
    """A number in three digits."""
    number = float(value)
    return f"{number:+.3g}" if sign and math.isfinite(number) and number else f"{number:.3g}"


def format_bytes(count: int | None) -> str:
    """A number of bytes for people: `640 B`, `3.9 KiB`."""
    if count is None:
        return "unknown"
    if count < 1024:
        return f"{count} B"
    size = float(count)
    for unit in ("KiB", "MiB", "GiB"):
        size /= 1024
        if size < 1023.95:
            return f"{size:.1f} {unit}"
    return f"{size / 1024:.1f} TiB"


def format_shape(shape: Sequence[int] | None) -> str:
    """`[3, 4]`, `scalar`, or `ragged` for a nested tensor."""
    if shape is None:
        return "ragged"
    return f"[{', '.join(map(str, shape))}]" if shape else "scalar"


def _identity(data: Mapping[str, Any], show: Show) -> Iterator[Line]:
    """What the node is. A leaf goes by its name, an operation by its op."""
    op, name = str(data.get("op")), data.get("name")
    if data.get("kind") == "leaf":
        yield Line(str(name or op), "head")
    else:
        yield Line(op, "head")
    if data.get("kind") == "opaque":
        yield Line("runs unseen inside")
    elif data.get("kind") == "blocked":
        yield Line("cannot be differentiated again", "alert")
    yield from outputs_line(data, show)
    if name and data.get("kind") != "leaf":
        yield Line(f"= {name}", "note")
    if data.get("module") and data.get("kind") != "leaf":
        call = f" #{data['module_call']}" if data["module"] in show.called_again else ""
        where = f"{data['module']}{call}"
        yield Line(f"module {where}" if len(where) <= LONGEST - 7 else where)
    if data.get("source"):
        # The file's own name and the function tell more than the path, which is in the tooltip.
        source = str(data["source"])
        shown = file_line(source)
        yield Line(shown if len(shown) <= LONGEST else shown.partition(" in ")[0], full=source)


def outputs_line(data: Mapping[str, Any], show: Show) -> Iterator[Line]:
    """What a node makes: the shapes of its results."""
    outputs = data.get("outputs") or []
    if outputs:
        yield Line(_outputs(outputs, show))


def short_source(source: str) -> str:
    """A line without what says nothing: that it stands outside of any function."""
    return source.removesuffix(" in <module>")


def file_line(source: str) -> str:
    """A line by its file's own name, without the folders."""
    return short_source(_FOLDER.split(source)[-1])


def _outputs(outputs: Sequence[Mapping[str, Any]], show: Show) -> str:
    shown = [_output(output, show) for output in outputs[:3]]
    more = len(outputs) - len(shown)
    if len(outputs) > 1 and len(set(map(str, outputs))) == 1:
        return f"{len(outputs)} × {shown[0]}"
    return " · ".join(shown) + (f" +{more} more" if more else "")


def _output(output: Mapping[str, Any], show: Show) -> str:
    dtype = output.get("dtype")
    parts = [format_shape(output.get("shape"))]
    if dtype and dtype != "float32":
        parts.append(str(dtype))
    if show.device or output.get("device") == "meta":
        parts.append(str(output.get("device")))
    return " ".join(parts)


def _modified(data: Mapping[str, Any]) -> Iterator[Line]:
    """A saved tensor that was changed since makes the next backward fail: said whether asked for or not."""
    names = [str(entry["name"]) for entry in data.get("saved") or [] if entry["state"] == "modified"]
    if names:
        yield Line(f"changed in place: {', '.join(names)}", "alert")


def _gradient(data: Mapping[str, Any]) -> Iterator[Line]:
    found = data.get("gradient")
    if found is None:
        yield Line("no gradient arrives")
        return
    entries = found if isinstance(found, list) else [found]
    for index, stats in enumerate(entries[:_MOST_ENTRIES]):
        where = f" {index}" if len(entries) > 1 else ""
        if stats is None:
            yield Line(f"no gradient{where}")
            continue
        bad = [f"{stats[kind]} {label}" for kind, label in (("nan", "NaN"), ("inf", "inf")) if stats.get(kind)]
        if bad:
            yield Line(f"gradient{where}: {', '.join(bad)} of {stats.get('numel', '?')}", "alert")
        elif stats.get("numel") and stats.get("zeros") == stats["numel"]:
            yield Line(f"‖grad{where}‖ 0, all zero", "note")
        else:
            yield Line(f"‖grad{where}‖ {_figure(stats.get('norm'))}, max {_figure(stats.get('max_abs'))}", "note")
    if len(entries) > _MOST_ENTRIES:
        yield Line(f"+{len(entries) - _MOST_ENTRIES} more gradients")


def _ledger(data: Mapping[str, Any]) -> Iterator[Line]:
    passes = data.get("accumulated") or []
    if len(passes) > _MOST_ENTRIES:
        yield Line(f".grad: {len(passes) - _MOST_ENTRIES} earlier passes")
    for entry in passes[-_MOST_ENTRIES:]:
        added, total = entry.get("contribution"), entry.get("total")
        bad = any(value is not None and not math.isfinite(float(value)) for value in (added, total))
        parts = f".grad pass {entry.get('pass')}: {_figure(added)}", f"total {_figure(total)}"
        yield from _whole(*parts, "alert" if bad else "note")


def _figure(value: Any) -> str:
    return "unknown" if value is None else format_number(value)


def _hessian(data: Mapping[str, Any]) -> Iterator[Line]:
    diagonal = data.get("hessian_diagonal")
    if not diagonal:
        return
    about = "=" if diagonal.get("exact", True) else "≈"
    values = {name: diagonal.get(name) for name in ("mean", "min", "max")}
    bad = any(value is not None and not math.isfinite(float(value)) for value in values.values())
    yield Line(f"H diag mean {about} {_figure(values['mean'])}", "alert" if bad else "note")
    span = f"H diag {_figure(values['min'])} to {_figure(values['max'])}"
    count = diagonal.get("negative")
    yield from _whole(span, f"{count:,} negative" if count else "", "alert" if bad else "note")


def _whole(first: str, second: str, role: Role) -> Iterator[Line]:
    """Two parts on one line, or on two where one would be cut: figures without their middle are none."""
    both = ", ".join(filter(None, (first, second)))
    if len(both) <= LONGEST:
        yield Line(both, role)
    else:
        yield from (Line(part, role) for part in (first, second))


def _saved(data: Mapping[str, Any]) -> Iterator[Line]:
    entries = data.get("saved") or []
    if not entries:
        return
    own = data.get("saved_bytes") or 0
    shared = any(entry["bytes"] for entry in entries) and not own
    yield Line(f"keeps {format_bytes(own)}{', all shared' if shared else ''}", "note")
    for entry in entries[:_MOST_ENTRIES]:
        state = entry["state"]
        if state in ("freed", "packed"):
            yield Line(f"{entry['name']} {state}", "note")
        else:
            shape = format_shape(entry["shape"])
            yield Line(f"{entry['name']} {shape} {format_bytes(entry['bytes'])}")
    if len(entries) > _MOST_ENTRIES:
        yield Line(f"+{len(entries) - _MOST_ENTRIES} more saved")
