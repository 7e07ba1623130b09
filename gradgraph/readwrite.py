"""Graphs as files: node-link JSON with a schema version, and GraphML through networkx.

The JSON is strict: no NaN, no Infinity (a float that is not finite is written as `{"$float": "nan"}`), every angle
bracket escaped, so that it can stand in an HTML page.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
from itertools import chain
from pathlib import Path
from typing import Any

import networkx as nx

from gradgraph.errors import InputError, ReadError
from gradgraph.files import write_whole
from gradgraph.graph import NODE_ATTRIBUTES, RESERVED, SCHEMA_VERSION, AutogradGraph

__all__ = ["from_dict", "read_json", "to_dict", "write_graphml", "write_json"]

_FORMAT = "gradgraph"
_FLOAT = "$float"
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff\ud800-\udfff]")
_RESERVED_OF_EDGES = frozenset(("source", "target", "key"))


def write_json(graph: AutogradGraph, path: str | os.PathLike[str]) -> Path:
    """Write `graph` as node-link JSON that `read_json` reads back exactly.

    The file is also what `networkx.node_link_graph(data, edges="edges")` reads. One graph gives the same bytes on
    every run. An existing file is replaced, and only once the new one is complete.

    Raises:
        InputError: `path` cannot be written, or an attribute of the graph is not a JSON value.

    Example:
        >>> import tempfile, torch, gradgraph
        >>> x = torch.tensor(3.0, requires_grad=True)
        >>> graph = gradgraph.trace(x * x)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = gradgraph.write_json(graph, f"{folder}/square.json")
        ...     '"MulBackward0"' in path.read_text()
        True
    """
    try:
        text = json.dumps(to_dict(graph), allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"the graph cannot be written as JSON: {error}. Expected attributes made of JSON values; "
            "gradgraph.annotate checks that."
        ) from error
    # Angle brackets occur only within strings, where this escape means the same.
    return write_whole(path, text.replace("<", "\\u003c").replace(">", "\\u003e").encode() + b"\n")


def to_dict(graph: AutogradGraph) -> dict[str, Any]:
    """`graph` as a dict of strict JSON values, in node-link form.

    Raises:
        ValueError: an attribute has a name that the form needs for itself.
    """
    of_nodes = (RESERVED & data.keys() for _, data in graph.nodes(data=True))
    of_edges = (_RESERVED_OF_EDGES & data.keys() for *_, data in graph.edges(data=True))
    for taken in chain(of_nodes, of_edges):
        if taken:
            raise ValueError(f"an attribute is called {min(taken)!r}, which node-link JSON needs for itself")
    return {
        "format": _FORMAT,
        "schema": SCHEMA_VERSION,
        "directed": True,
        "multigraph": True,
        "graph": _encoded(graph.graph),
        "nodes": [{**_encoded(data), "id": key} for key, data in graph.nodes(data=True)],
        "edges": [
            {**_encoded(data), "source": u, "target": v, "key": slot}
            for u, v, slot, data in graph.edges(keys=True, data=True)
        ],
    }


def read_json(path: str | os.PathLike[str]) -> AutogradGraph:
    """Read a graph that `write_json` wrote. Needs no torch; the graph is released.

    Raises:
        ReadError: the file is missing, truncated, not a gradgraph graph, malformed, or of a newer schema.

    Example:
        >>> import tempfile, torch, gradgraph
        >>> x = torch.tensor(3.0, requires_grad=True)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     gradgraph.read_json(gradgraph.write_json(gradgraph.trace(x * x), f"{folder}/square.json"))
        <AutogradGraph: 2 nodes, 2 edges, order 0>
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ReadError(f"cannot read {path}: {reason}. Expected a graph written by gradgraph.write_json.") from error
    try:
        data = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ReadError(
            f"{path} is not valid JSON ({error}): it is truncated or damaged, or no graph. Write it again with "
            "gradgraph.write_json or `gradgraph trace`."
        ) from error
    try:
        return from_dict(data)
    except ReadError as error:
        raise ReadError(f"{path}: {error}") from error


def from_dict(data: Any) -> AutogradGraph:
    """The graph behind `to_dict`'s result.

    Raises:
        ReadError: `data` is not such a dict, or of a newer schema.
    """
    if not isinstance(data, dict) or data.get("format") != _FORMAT:
        raise ReadError('not a gradgraph graph: expected a JSON object with "format": "gradgraph".')
    schema = data.get("schema")
    if type(schema) is not int or schema < 1:
        raise ReadError(f'expected "schema" to be a whole number from 1, got {_brief(schema)}.')
    if schema > SCHEMA_VERSION:
        raise ReadError(
            f"the graph was written with schema {schema}, and this gradgraph reads up to {SCHEMA_VERSION}: "
            "upgrade it with pip install --upgrade gradgraph."
        )
    graph = AutogradGraph()
    graph.graph.update(_decoded(_expect(data.get("graph"), dict, '"graph"')))
    for position, entry in enumerate(_expect(data.get("nodes"), list, '"nodes"')):
        attributes = _decoded(_expect(entry, dict, f"node {position}"))
        key = _expect(attributes.pop("id", None), int, f'"id" of node {position}')
        if key in graph:
            raise ReadError(f"two nodes have the id {key}; expected each once.")
        _check_attributes(key, attributes)
        graph.add_node(key)
        graph.nodes[key].update(attributes)
    for position, entry in enumerate(_expect(data.get("edges"), list, '"edges"')):
        attributes = _decoded(_expect(entry, dict, f"edge {position}"))
        u, v, slot = (
            _expect(attributes.pop(name, None), int, f'"{name}" of edge {position}')
            for name in ("source", "target", "key")
        )
        if u not in graph or v not in graph:
            raise ReadError(f"edge {position} goes from {u} to {v}; expected both to be ids of nodes.")
        if graph.has_edge(u, v, slot):
            raise ReadError(f"edge {position} repeats the edge {u} to {v} with key {slot}.")
        graph.add_edge(u, v, slot)
        graph.edges[u, v, slot].update(attributes)
    return graph


def write_graphml(graph: AutogradGraph, path: str | os.PathLike[str]) -> Path:
    """Write `graph` as GraphML, for Gephi, yEd, igraph and networkx. Attributes that are null are left out.

    GraphML holds scalars only: lists and dicts are written as JSON text. Characters that XML forbids become U+FFFD.

    Raises:
        InputError: `path` cannot be written.

    Example:
        >>> import tempfile, networkx, torch, gradgraph
        >>> x = torch.tensor(3.0, requires_grad=True)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = gradgraph.write_graphml(gradgraph.trace(x * x), f"{folder}/square.graphml")
        ...     print(networkx.read_graphml(path, node_type=int, force_multigraph=True))
        MultiDiGraph with 2 nodes and 2 edges
    """
    plain: nx.MultiDiGraph[int] = nx.MultiDiGraph()
    plain.graph.update(_scalars(graph.graph))
    for key, data in graph.nodes(data=True):
        plain.add_node(key)
        plain.nodes[key].update(_scalars(data))
    for u, v, slot, data in graph.edges(keys=True, data=True):
        plain.add_edge(u, v, slot)
        plain.edges[u, v, slot].update(_scalars(data))
    content = io.BytesIO()
    nx.write_graphml_xml(plain, content)
    return write_whole(path, content.getvalue())


def _encoded(value: Any) -> Any:
    """`value` with its non-finite floats as `{"$float": ...}`."""
    if isinstance(value, float) and not math.isfinite(value):
        return {_FLOAT: str(float(value))}
    if isinstance(value, dict):
        if _FLOAT in value:
            raise ValueError(f"the dict key {_FLOAT!r} is reserved for floats that are not finite")
        return {key: _encoded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encoded(item) for item in value]
    return value


def _decoded(value: Any) -> Any:
    if isinstance(value, dict):
        if _FLOAT in value:
            if value[_FLOAT] not in ("nan", "inf", "-inf"):
                raise ReadError(f'expected "{_FLOAT}" to be "nan", "inf" or "-inf", got {_brief(value[_FLOAT])}.')
            return float(value[_FLOAT])
        return {key: _decoded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    return value


def _scalars(data: dict[str, Any]) -> dict[str, Any]:
    return {name: _scalar(value) for name, value in data.items() if value is not None}


def _scalar(value: Any) -> str | int | float:
    if isinstance(value, str):
        return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", value)
    return value if isinstance(value, (int, float)) else json.dumps(_encoded(value))


_TYPES: dict[str, tuple[type, ...]] = {
    "op": (str,),
    "kind": (str,),
    "name": (str, type(None)),
    "order": (int,),
    "outputs": (list,),
    "module": (str, type(None)),
    "source": (str, type(None)),
    "detached_slots": (int,),
    "saved": (list,),
    "saved_bytes": (int,),
}


def _check_attributes(key: int, attributes: dict[str, Any]) -> None:
    missing = sorted(set(NODE_ATTRIBUTES) - set(attributes))
    if missing:
        raise ReadError(f"node {key} lacks the attribute {missing[0]!r}; expected all of the schema's.")
    for name, types in _TYPES.items():
        if not isinstance(attributes[name], types) or isinstance(attributes[name], bool):
            raise ReadError(
                f"node {key} has {_brief(attributes[name])} as {name!r}; expected {types[0].__name__}"
                + (" or null." if len(types) > 1 else ".")
            )


def _expect(value: Any, expected: type, what: str) -> Any:
    if not isinstance(value, expected) or isinstance(value, bool):
        raise ReadError(f"expected {what} to be {expected.__name__}, got {_brief(value)}.")
    return value


def _brief(value: Any) -> str:
    text = f"{type(value).__name__} {value!r}" if isinstance(value, (str, int, float)) else type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
