"""`trace()`: the only walk of `next_functions`. Turns tensors into an `AutogradGraph`."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

from gradgraph.graph import NODE_ATTRIBUTES, SCHEMA_VERSION, AutogradGraph, Live
from gradgraph.leaves import module_of_nodes, name_leaves, name_others
from gradgraph.orders import Made, curvature_edges, orders_of
from gradgraph.outputs import flatten
from gradgraph.params import ParamsLike, caller_namespace, named_tensors
from gradgraph.saved import Charges, SavedValue, parts_of, saved_values, storages_of
from gradgraph.teardown import lay_fuses
from gradgraph.walk import Walk

__all__ = ["trace", "trace_in"]


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
    made: Sequence[Made] = (),
) -> AutogradGraph:
    """`trace()`, with the variables to name leaves from, and what is known of when nodes were made."""
    roots, skipped = flatten(outputs, "outputs")
    lower_roots = [flatten(entry, f"lower[{index}]")[0] for index, entry in enumerate(_as_sequence(lower))]
    named = named_tensors(params, namespace)
    with _gc_paused():
        walk = Walk()
        walk.follow(roots)
        count = len(walk.nodes)
        # A loss is often no part of the graph of its own gradient, but what it saved tells curvature edges.
        for entry in lower_roots:
            walk.follow(entry)
        lay_fuses(walk)
        graph = AutogradGraph()
        nodes = walk.nodes[:count]
        live = Live(nodes, {key: _variable(fn) for key, fn in enumerate(nodes) if _is_leaf(fn)}, roots)
        _add_nodes(graph, nodes, walk.detached, live.leaves)
        orders, created = orders_of(walk, [walk.keys(entry) for entry in lower_roots], made)
        curved = curvature_edges(walk, count, orders, created, live.leaves)
        keys = list(graph)  # one int object for each key
        for position, u, v in walk.edges(count):
            role = "curvature" if position in curved else "gradient"
            graph.add_edge(keys[u], keys[v], walk.slot[position], output_nr=walk.output_nr[position], role=role)
    orders = {key: order for key, order in orders.items() if key < count}
    for key, order in orders.items():
        graph.nodes[key]["order"] = order
    if created is not None:
        for key in graph:
            graph.nodes[key]["provenance"] = "recorded"
    unreached = name_leaves(graph, live.leaves, named, namespace)
    name_others(graph, walk.key_of, live.leaves, names or {}, namespace)
    module_of_nodes(graph, live.leaves, named)
    graph.graph.update(
        schema=SCHEMA_VERSION,
        roots=walk.keys(roots),
        root_outputs=[edge.output_nr for edge in roots],
        skipped_outputs=skipped,
        unreached=unreached,
        torch=str(torch.__version__),  # a subclass of str, which GraphML refuses
        orders=sorted(set(orders.values()) | ({0} if len(orders) < len(nodes) else set())),
        passes=[],
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
def _gc_paused() -> Iterator[None]:
    """Millions of small objects are made and none is garbage: collecting meanwhile doubles the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _add_nodes(graph: AutogradGraph, nodes: list[Node], detached: Sequence[int], leaves: dict[int, Tensor]) -> None:
    describe = _Descriptions()
    charges = Charges()
    store: dict[int, dict[str, Any]] = graph._node  # type: ignore[attr-defined] # networkx's own, of our base class
    for key, fn in enumerate(nodes):
        data = describe.template(fn).copy()
        data["outputs"] = describe.outputs(fn)
        data["detached_slots"] = detached[key]
        data["saved"], data["saved_bytes"] = describe.saved(fn, charges)
        graph.add_node(key)
        store[key] = data  # add_node(key, **data) would copy it twice
    for key, variable in leaves.items():
        # After all nodes: what an operation saved is charged to the operation.
        graph.nodes[key]["storage"], _ = charges.charge(storages_of(variable))


def _is_leaf(fn: Node) -> bool:
    return type(fn).__name__ == "AccumulateGrad"


def _variable(accumulate_grad: Any) -> Tensor:
    variable: Tensor = accumulate_grad.variable
    return variable


class _Descriptions:
    """JSON descriptions of nodes. Equal ones are one object, so that a million nodes stay small."""

    def __init__(self) -> None:
        self._templates: dict[tuple[str, type], dict[str, Any]] = {}
        self._outputs: dict[Any, list[dict[str, Any]]] = {}
        self._saved: dict[tuple[int, ...], list[dict[str, Any]]] = {}
        self._shared: dict[tuple[Any, ...], dict[str, Any]] = {}
        self._shapes: dict[torch.Size, list[int]] = {}
        self._dtypes: dict[torch.dtype, str] = {}

    def template(self, fn: Any) -> dict[str, Any]:
        """All attributes, with those filled in that nodes of one type and name share."""
        # A Python Function may carry a ctx.name of the user's own, which hides name().
        name = type(fn).__name__ if isinstance(fn, torch._C._FunctionBase) else fn.name()
        known = self._templates.get((name, type(fn)))
        if known is None:
            op = name.removeprefix("torch::autograd::")
            known = self._templates[name, type(fn)] = {**NODE_ATTRIBUTES, "op": op, "kind": _kind(fn, op)}
        return known

    def outputs(self, fn: Any) -> list[dict[str, Any]]:
        # A nested tensor's shape is ragged, and asking for it raises.
        key = tuple(
            [(None if one.is_nested_tensor else tuple(one.shape), one.dtype, one.device) for one in fn._input_metadata]
        )
        known = self._outputs.get(key)
        if known is None:
            known = self._outputs[key] = [self._described(*one) for one in key]
        return known

    def saved(self, fn: Any, charges: Charges) -> tuple[list[dict[str, Any]], int]:
        values = saved_values(fn)
        if not values:
            return NODE_ATTRIBUTES["saved"], 0
        entries = []
        total = 0
        for value in values:
            entry, fresh = self._entry(value, charges)
            entries.append(entry)
            total += fresh
        if not total:
            entries = self._saved.setdefault(tuple(map(id, entries)), entries)
        return entries, total

    def _entry(self, value: SavedValue, charges: Charges) -> tuple[dict[str, Any], int]:
        name, tensor, state, version, current = value
        if tensor is None:
            shape = dtype = size = number = None
            fresh = 0
        else:
            number, fresh = charges.charge(storages_of(tensor))
            strided = tensor.layout is torch.strided
            shape = self._shape(tensor.shape) if strided or not tensor.is_nested else None
            dtype = self._dtype(tensor.dtype)
            size = tensor.nbytes if strided else _bytes(tensor)
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
        if fresh:  # a storage never seen before has no equal entry yet
            return entry, fresh
        # Equal shapes are one object, see _shape.
        return self._shared.setdefault((name, id(shape), dtype, size, number, state, version, current), entry), 0

    def _shape(self, shape: torch.Size) -> list[int]:
        known = self._shapes.get(shape)
        if known is None:
            known = self._shapes[shape] = [int(size) for size in shape]
        return known

    def _dtype(self, dtype: torch.dtype) -> str:
        known = self._dtypes.get(dtype)
        if known is None:
            known = self._dtypes[dtype] = str(dtype).removeprefix("torch.")
        return known

    def _described(self, shape: tuple[int, ...] | None, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
        return {
            "shape": None if shape is None else [int(size) for size in shape],
            "dtype": self._dtype(dtype),
            "device": str(device),
        }


def _bytes(tensor: Tensor) -> int:
    """Bytes of all parts of a tensor that is sparse or nested; 0 where torch hides them."""
    return sum(part.nbytes for part in parts_of(tensor))


def _kind(fn: Any, op: str) -> str:
    if _is_leaf(fn):
        return "leaf"
    if isinstance(fn, torch._C._FunctionBase):
        function = getattr(fn, "_forward_cls", None)
        where = getattr(function, "__module__", "")
        if op == "CheckpointFunctionBackward" and where.startswith("torch."):
            return "opaque"  # reentrant checkpoint: its forward runs again, unseen, within its backward
        if where.startswith("torch._functorch") and "Compiled" in op:
            return "opaque"
        backward = getattr(function, "backward", None)
        # once_differentiable wraps the user's backward in a function of torch's own module.
        if getattr(backward, "__globals__", None) is torch.autograd.function.__dict__ and hasattr(
            backward, "__wrapped__"
        ):
            return "blocked"
        return "custom"
    if op in ("NotImplemented", "Error", "DelayedError"):
        return "blocked"
    return "op"
