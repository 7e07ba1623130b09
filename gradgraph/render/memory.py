"""What a graph keeps in memory: its saved tensors, the largest first, each storage once."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from gradgraph.errors import InputError
from gradgraph.render.lines import file_line, format_bytes, format_shape
from gradgraph.render.table import table

if TYPE_CHECKING:
    from gradgraph.graph import AutogradGraph

__all__ = ["Kept", "Memory", "memory"]

_MOST_ROWS = 30


@dataclass(frozen=True)
class Kept:
    """One storage that saved tensors share, described by the first of them.

    Attributes:
        node: key of the node that saved it first.
        op: that node's op.
        saved_as: what the node calls it.
        shape: the saved tensor's shape; None where it is freed, packed or nested.
        dtype: its dtype.
        bytes: what the storage keeps alive: its size, as far as the graph tells it; None where unknown.
        state: `live`, `modified`, or `packed`.
        parameter: the name of the leaf whose storage it is.
        module: the node's module.
        source: the node's source line.
        shared_with: how many other saved tensors of the graph use the storage.
    """

    node: int
    op: str
    saved_as: str
    shape: list[int] | None
    dtype: str | None
    bytes: int | None
    state: str
    parameter: str | None
    module: str | None
    source: str | None
    shared_with: int


@dataclass(frozen=True)
class Memory:
    """What a graph keeps alive.

    Attributes:
        entries: the storages, largest first; those behind hooks, of unknown size, last.
        total: bytes of all of them.
        parameters: of these, bytes of the leaves' own storages, which the program holds anyway.
        activations: the rest: what releasing the graph gives back.
        packed: how many saved tensors hide behind hooks.
        freed: how many saved tensors a backward pass has freed.
        top: how many entries the text shows.
    """

    entries: list[Kept]
    total: int
    parameters: int
    activations: int
    packed: int
    freed: int
    top: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON values; the `top` entries, where that was given."""
        values = asdict(self)
        del values["top"]
        values["entries"] = values["entries"][: self.top]
        values["left_out"] = len(self.entries) - len(values["entries"])
        return values

    def to_text(self, width: int = 100) -> str:
        """A table for a terminal of `width` columns, then the totals."""
        return "\n".join(_text(self, width))

    __str__ = to_text


def memory(graph: AutogradGraph, *, top: int | None = None) -> Memory:
    """What the saved tensors of `graph` keep alive, each storage counted once. Linear in saved tensors.

    Args:
        graph: the graph; what it recorded when traced counts, live or not.
        top: how many entries to show; None shows the 30 largest as text, and all as JSON.

    Raises:
        InputError: `top` is not positive.
    """
    if top is not None and top < 1:
        raise InputError(f"memory() expected a positive number of entries to show, got top={top!r}.")
    owners = {data["storage"]: key for key, data in graph.nodes(data=True) if data["storage"] is not None}
    uses: dict[int, int] = {}
    first: dict[int, tuple[int, dict[str, Any]]] = {}
    largest: dict[int, int] = {}
    packed: list[Kept] = []
    freed = 0
    for key, data in graph.nodes(data=True):
        for entry in data["saved"]:
            storage = entry["storage"]
            if entry["state"] == "packed":
                packed.append(_kept(key, data, entry, None, None, 0))
            elif entry["state"] == "freed":
                freed += 1
            elif storage is not None:
                uses[storage] = uses.get(storage, 0) + 1
                first.setdefault(storage, (key, entry))
                largest[storage] = max(largest.get(storage, 0), entry["bytes"] or 0)
    sizes = _sizes(graph, first, largest)
    entries = [
        _kept(key, graph.nodes[key], entry, sizes[storage], _name(graph, owners.get(storage)), uses[storage] - 1)
        for storage, (key, entry) in first.items()
    ]
    entries.sort(key=lambda kept: (-(kept.bytes or 0), kept.node, kept.saved_as))
    total = sum(sizes.values())
    parameters = sum(size for storage, size in sizes.items() if storage in owners)
    return Memory(entries + packed, total, parameters, total - parameters, len(packed), freed, top)


def _sizes(
    graph: AutogradGraph, first: dict[int, tuple[int, dict[str, Any]]], largest: dict[int, int]
) -> dict[int, int]:
    """Bytes of each storage. A node tells only the sum of those that it is charged for; a saved tensor tells its own.

    They differ where a view keeps a larger storage alive, or repeats a smaller one: the node is right, and the
    difference is put down to the largest of its storages.
    """
    sizes = dict(largest)
    fresh: dict[int, list[int]] = {}
    for storage, (key, _) in first.items():
        fresh.setdefault(key, []).append(storage)
    for key, storages in fresh.items():
        own = graph.nodes[key]["saved_bytes"]
        if own:  # else this is a part of a graph, whose rest was charged
            most = max(storages, key=lambda storage: sizes[storage])
            sizes[most] = max(0, sizes[most] + own - sum(sizes[storage] for storage in storages))
    return sizes


def _kept(
    key: int, data: dict[str, Any], entry: dict[str, Any], size: int | None, parameter: str | None, shared: int
) -> Kept:
    return Kept(
        node=key,
        op=data["op"],
        saved_as=entry["name"],
        shape=entry["shape"],
        dtype=entry["dtype"],
        bytes=size,
        state=entry["state"],
        parameter=parameter,
        module=data["module"],
        source=data["source"],
        shared_with=shared,
    )


def _name(graph: AutogradGraph, key: int | None) -> str | None:
    return None if key is None else graph.nodes[key]["name"]


def _text(found: Memory, width: int) -> list[str]:
    most = found.top or _MOST_ROWS
    shown = found.entries[:most]
    heads = ["bytes", "tensor", "saved by", "node", "where", ""]
    rows = [
        [format_bytes(kept.bytes), _tensor(kept), kept.op, str(kept.node), _where(kept), _notes(kept)] for kept in shown
    ]
    lines = table([heads, *rows], right=(0, 3), width=width) if rows else ["no saved tensors"]
    if len(found.entries) > len(shown):
        lines.append(f"… and {len(found.entries) - len(shown)} more")
    lines += [
        "",
        f"total       {format_bytes(found.total)}",
        f"activations {format_bytes(found.activations)}",
        f"parameters  {format_bytes(found.parameters)}",
    ]
    if found.packed:
        lines.append(f"packed      {found.packed} behind saved-tensor hooks, of unknown size")
    if found.freed:
        lines.append(f"freed       {found.freed}, by a backward pass")
    return lines


def _tensor(kept: Kept) -> str:
    shape = "" if kept.shape is None and kept.state == "packed" else f" {format_shape(kept.shape)}"
    return f"{kept.saved_as}{shape}{f' {kept.dtype}' if kept.dtype else ''}"


def _where(kept: Kept) -> str:
    return file_line(kept.source) if kept.source else kept.module or ""


def _notes(kept: Kept) -> str:
    notes = [f"parameter {kept.parameter}"] if kept.parameter else []
    notes += [kept.state] if kept.state != "live" else []
    notes += [f"shared ×{kept.shared_with + 1}"] if kept.shared_with else []
    return ", ".join(notes)
