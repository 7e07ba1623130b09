"""`trace()`: the only walk of `next_functions`. Turns tensors into an `AutogradGraph`."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from gradgraph.graph import NODE_ATTRIBUTES, SCHEMA_VERSION, AutogradGraph, Live
from gradgraph.kinds import kind_of
from gradgraph.leaves import module_of_nodes, name_leaves, name_others
from gradgraph.orders import curvature_edges, orders_of
from gradgraph.outputs import flatten
from gradgraph.params import ParamsLike, caller_namespace, module_paths, named_tensors
from gradgraph.recording.log import Log, latest
from gradgraph.recording.provenance import Provenance
from gradgraph.saved import Charges, SavedValue, parts_of, saved_values
from gradgraph.teardown import lay_fuses
from gradgraph.walk import Walk

__all__ = ["trace", "trace_in"]

_WORTH_A_PAUSE = 20_000  # nodes; below, the collection that follows a pause costs as much as the pause saves


def trace(
    outputs: Any,
    params: ParamsLike | None = None,
    *,
    lower: Sequence[Any] | Tensor = (),
    names: Mapping[str, Tensor] | None = None,
) -> AutogradGraph:
    """Trace the autograd graph behind `outputs`, as it stands now.

    Iterative, so any depth is fine; runs no hook and no user code, changes nothing, and works on graphs that a
    backward pass has freed. Time and memory are linear in nodes. The graph keeps the live nodes, and with them their
    activations, until `release()`.

    Args:
        outputs: a tensor, a `GradientEdge`, or any nesting of lists, tuples, dicts, dataclasses and other pytrees of
            them. Members without a graph are skipped as long as one has one.
        params: names the leaves: a `Module`, several, an optimizer, a mapping from name to tensor, or an iterable of
            tensors or of (name, tensor). A leaf that stays unnamed takes the caller's variable name where that is
            sure, else `leaf0`, `leaf1`, ...
        lower: outputs of lower order, lowest first. What `lower[0]` reaches is order 0, what only `lower[1]` reaches
            order 1, and so on; the rest is the order above. `trace(penalty, model, lower=[loss])` tells a loss from
            its double backward.
        names: names for any tensors of the graph, intermediate ones too.

    Returns:
        The graph. Its nodes carry the attributes of `gradgraph.graph.NODE_ATTRIBUTES`, its edges `output_nr` and
        `role`.

    Raises:
        InputError: nothing in `outputs` has a graph; none of `params` is in it; a tensor of `names` is not in it.

    Example:
        >>> import torch, gradgraph
        >>> x = torch.tensor(2.0, requires_grad=True)
        >>> graph = gradgraph.trace(x * x)
        >>> [data["op"] for _, data in graph.nodes(data=True)]
        ['MulBackward0', 'AccumulateGrad']
        >>> graph.leaves()
        {1: 'x'}
    """
    return trace_in(caller_namespace(), outputs, params, lower=lower, names=names)


def trace_in(
    namespace: Mapping[str, Any],
    outputs: Any,
    params: ParamsLike | None = None,
    *,
    lower: Sequence[Any] | Tensor = (),
    names: Mapping[str, Tensor] | None = None,
    log: Log | None = None,
) -> AutogradGraph:
    """`trace()`, with the variables to name leaves from, and what a recording knows: by default the latest."""
    # What the user's own tensor subclasses and function modes do to attributes is no business of a tracer.
    with torch._C.DisableTorchFunction():
        return _traced(namespace, outputs, params, lower, names or {}, latest() if log is None else log)


def _traced(
    namespace: Mapping[str, Any],
    outputs: Any,
    params: ParamsLike | None,
    lower: Sequence[Any] | Tensor,
    names: Mapping[str, Tensor],
    log: Log | None,
) -> AutogradGraph:
    roots, skipped = flatten(outputs, "outputs")
    lower_roots = [flatten(entry, f"lower[{index}]")[0] for index, entry in enumerate(_as_sequence(lower))]
    named = named_tensors(params, namespace)
    walk = Walk()
    walk.follow(roots)
    count = len(walk.nodes)
    # A loss is often no part of the graph of its own gradient, but what it saved tells curvature edges.
    for entry in lower_roots:
        walk.follow(entry)
    with _gc_paused(count):
        lay_fuses(walk)
        graph = AutogradGraph()
        nodes = walk.nodes[:count]
        live = Live(nodes, _add_nodes(graph, nodes, walk.detached), roots)
        known = Provenance(log, walk, module_paths(params, namespace) if log is not None else {})
        # A recording that saw everything knows the orders better than outputs of lower order tell them.
        entries = [] if known.complete else [walk.keys(entry) for entry in lower_roots]
        orders = orders_of(walk, entries, known.orders)
        curved = curvature_edges(walk, count, orders, known.created, live.leaves)
        _add_edges(graph, walk, walk.start[count], curved)
        orders = {key: order for key, order in orders.items() if key < count}
        for key, order in orders.items():
            graph.nodes[key]["order"] = order
        unreached = name_leaves(graph, live.leaves, named, namespace, known.parameters)
        name_others(graph, walk.key_of, live.leaves, names, namespace)
        module_of_nodes(graph, live.leaves, named)
        known.annotate(graph, live.leaves)
    graph.graph.update(
        schema=SCHEMA_VERSION,
        roots=walk.keys(roots),
        root_outputs=[edge.output_nr for edge in roots],
        skipped_outputs=skipped,
        unreached=unreached,
        torch=str(torch.__version__),  # a subclass of str, which GraphML refuses
        orders=sorted(set(orders.values()) | ({0} if len(orders) < len(nodes) else set())),
        passes=known.passes(graph),
        recorded=sum(key < count for key in known.records),
        created=_creator(),
    )
    graph._live = live
    return graph


def _as_sequence(lower: Sequence[Any] | Tensor) -> Sequence[Any]:
    return [lower] if isinstance(lower, Tensor) else lower


def _creator() -> str:
    from gradgraph import __version__

    # No time of day: one program gives the same bytes on every run.
    return f"gradgraph {__version__}"


@contextmanager
def _gc_paused(count: int) -> Iterator[None]:
    """Millions of small objects are made and none is garbage: collecting meanwhile doubles the time of large graphs."""
    if count < _WORTH_A_PAUSE or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _add_nodes(graph: AutogradGraph, nodes: Sequence[Any], detached: Sequence[int]) -> dict[int, Tensor]:
    """Add `nodes` with their attributes; the variables of those that are leaves, by key."""
    describe = _Descriptions()
    charges = Charges()
    # The graph is our own and new: its dicts are filled as add_node and add_edge would, at half their cost.
    store: dict[int, dict[str, Any]] = graph._node  # type: ignore[attr-defined]
    succ: dict[int, Any] = graph._succ  # type: ignore[attr-defined]
    pred: dict[int, Any] = graph._pred  # type: ignore[attr-defined]
    templates = describe.templates
    leaves: dict[int, Tensor] = {}
    for key, fn in enumerate(nodes):
        data = store[key] = (templates.get(type(fn)) or describe.template(fn)).copy()
        data["outputs"] = describe.outputs(fn)
        data["detached_slots"] = detached[key]
        values = saved_values(fn)
        if values:
            data["saved"], data["saved_bytes"] = describe.saved(values, charges)
        succ[key] = {}
        pred[key] = {}
        if data["kind"] == "leaf":
            leaves[key] = fn.variable
    for key, variable in leaves.items():
        store[key]["storage"] = charges.number(variable)
    return leaves


def _add_edges(graph: AutogradGraph, walk: Walk, count: int, curved: set[int]) -> None:
    """Add the first `count` edges of `walk`, those at the positions `curved` as curvature edges."""
    keys = list(graph)  # one int object for each key
    succ: dict[int, Any] = graph._succ  # type: ignore[attr-defined]
    pred: dict[int, Any] = graph._pred  # type: ignore[attr-defined]
    columns = zip(walk.source, walk.target, walk.slot, walk.output_nr, strict=True)
    for u, v, slot, output_nr in islice(columns, count):
        parallel = succ[u].get(v)
        if parallel is None:
            parallel = succ[u][keys[v]] = pred[v][keys[u]] = {}
        parallel[slot] = {"output_nr": output_nr, "role": "gradient"}
    for position in curved:
        succ[walk.source[position]][walk.target[position]][walk.slot[position]]["role"] = "curvature"


class _Descriptions:
    """JSON descriptions of nodes. Equal ones are one object, so that a million nodes stay small."""

    def __init__(self) -> None:
        self.templates: dict[type, dict[str, Any]] = {}
        self._outputs: dict[Any, list[dict[str, Any]]] = {}
        self._saved: dict[tuple[int, ...], list[dict[str, Any]]] = {}
        self._shared: dict[tuple[Any, ...], dict[str, Any]] = {}
        self._shapes: dict[torch.Size, list[int]] = {}
        self._dtypes: dict[torch.dtype, str] = {}

    def template(self, fn: Any) -> dict[str, Any]:
        """All attributes, with those filled in that nodes of one type and name share; kept in `templates`."""
        kind = type(fn)
        # A Python Function may carry a ctx.name of the user's own, which hides name().
        name = kind.__name__ if isinstance(fn, torch._C._FunctionBase) else fn.name()
        op = name.removeprefix("torch::autograd::")
        template = {**NODE_ATTRIBUTES, "op": op, "kind": kind_of(fn, op)}
        if op == kind.__name__:  # nodes that have no Python type of their own share one, whatever their names
            self.templates[kind] = template
        return template

    def outputs(self, fn: Any) -> list[dict[str, Any]]:
        metadata = fn._input_metadata
        # Almost every node has one output, and this is done for each.
        key = _output_key(metadata[0]) if len(metadata) == 1 else tuple([_output_key(one) for one in metadata])
        known = self._outputs.get(key)
        if known is None:
            known = self._outputs[key] = [self._described(one) for one in metadata]
        return known

    def saved(self, values: list[SavedValue], charges: Charges) -> tuple[list[dict[str, Any]], int]:
        entries = []
        total = 0
        for name, tensor, state, version, current in values:
            shape = dtype = size = number = None
            fresh = 0
            if tensor is not None:
                number, fresh = charges.charge(tensor)
                strided = tensor.layout is torch.strided
                if strided or not tensor.is_nested:
                    shape = self._shapes.get(tensor.shape)
                    if shape is None:
                        shape = self._shapes[tensor.shape] = [int(one) for one in tensor.shape]
                dtype = self._dtypes.get(tensor.dtype) or self._dtype(tensor.dtype)
                # Of its own values, in all its parts where it is sparse or nested.
                size = tensor.nbytes if strided else sum(part.nbytes for part in parts_of(tensor))
            entry = {
                "name": name,
                "shape": shape,
                "dtype": dtype,
                "bytes": size,
                "storage": number,
                "state": state,
                "version": version,
            }
            if current is not None:
                entry["current_version"] = current
            if not fresh:  # a storage never seen before has no equal entry yet; equal shapes are one object
                entry = self._shared.setdefault((name, id(shape), dtype, size, number, state, version, current), entry)
            entries.append(entry)
            total += fresh
        if not total:
            entries = self._saved.setdefault(tuple(map(id, entries)), entries)
        return entries, total

    def _dtype(self, dtype: torch.dtype) -> str:
        known = self._dtypes.get(dtype)
        if known is None:
            known = self._dtypes[dtype] = str(dtype).removeprefix("torch.")
        return known

    def _described(self, metadata: Any) -> dict[str, Any]:
        # A nested tensor's shape is ragged, and asking for it raises.
        shape = None if metadata.is_nested_tensor else [int(size) for size in metadata.shape]
        return {"shape": shape, "dtype": self._dtype(metadata.dtype), "device": str(metadata.device)}


def _output_key(metadata: Any) -> tuple[Any, ...]:
    if metadata.is_nested_tensor:
        return metadata.dtype, metadata.device, None
    return metadata.dtype, metadata.device, *metadata.shape
