"""What a recording knows of the nodes of one walk, and its way into their graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gradgraph.graph import AutogradGraph
from gradgraph.recording.log import Log, NodeRecord
from gradgraph.recording.modules import module_names
from gradgraph.walk import Walk

__all__ = ["Provenance"]


class Provenance:
    """The records of the nodes of `walk`; false where nothing is known.

    Args:
        log: what was recorded.
        walk: the nodes.
        paths: what modules are called by whoever traces, by identity.

    Attributes:
        records: what is known of a node, by key.
        orders: what recorded passes prove, by key, where that is above 0.
        created: of each recorded node whether the backward of another one made it.
        complete: whether all nodes but leaves are recorded.
    """

    def __init__(self, log: Log | None, walk: Walk, paths: Mapping[int, str]) -> None:
        self._walk = walk
        self.records: dict[int, NodeRecord] = {}
        if log is not None:
            log.look_up()
            found = ((key, log.record_of(node)) for key, node in enumerate(walk.nodes))
            self.records = {key: record for key, record in found if record is not None}
        self._log = log if self.records else None
        self.orders = {key: record.order for key, record in self.records.items() if record.order}
        self.created = {key: record.creator is not None for key, record in self.records.items()}
        ends = sum(not walk.below(key) for key in range(len(walk.nodes)) if key not in self.records)
        self.complete = self._log is not None and len(self.records) + ends == len(walk.nodes)
        self._names = {} if self._log is None else self._module_names(self._log, paths)

    def __bool__(self) -> bool:
        return self._log is not None

    def parameters(self) -> dict[int, tuple[str, str]]:
        """Name and module of each parameter of the modules that ran, by identity; those with several are left out."""
        found: dict[int, set[tuple[str, str]]] = {}
        for index, name in self._names.items():
            module = self._log.modules[index].module() if self._log is not None else None
            for own, tensor in [] if module is None else module._parameters.items():
                if tensor is not None:
                    found.setdefault(id(tensor), set()).add((f"{name}.{own}".strip("."), name))
        return {key: next(iter(ways)) for key, ways in found.items() if len(ways) == 1}

    def annotate(self, graph: AutogradGraph, leaves: Mapping[int, Tensor]) -> None:
        """Write what is known into the nodes of `graph`."""
        log = self._log
        if log is None:
            return
        owners = self.parameters()
        for key, variable in leaves.items():
            data: dict[str, Any] = graph.nodes[key]
            if data["module"] is None and id(variable) in owners:
                data["module"] = owners[id(variable)][1]
            if any(user in self.records for user in graph.predecessors(key)):
                data["provenance"] = "recorded"
        calls = _calls(self.records)
        key_of = {log.identity(node, new=False): key for node, key in self._walk.key_of.items() if key < len(graph)}
        for key, record in self.records.items():
            if key < len(graph):  # what lower outputs reached besides stands behind
                _write(graph, key, record, key_of, log)
                if record.module is not None:
                    graph.nodes[key]["module"] = self._names[record.module]
                    graph.nodes[key]["module_call"] = calls[record.module, record.call]
                elif record.creator is None and graph.nodes[key]["kind"] != "leaf":
                    # It ran outside of any module, whichever module's parameters it uses: an L2 penalty, say.
                    graph.nodes[key]["module"] = None

    def passes(self, graph: AutogradGraph) -> list[dict[str, Any]]:
        """The passes that made nodes of `graph`."""
        numbers: set[Any] = {data["pass"] for _, data in graph.nodes(data=True)}
        passes = [] if self._log is None else [one for one in self._log.passes if one.number in numbers]
        # No seconds: a program's graph is the same in every run.
        return [
            {
                "number": one.number,
                "source": one.source,
                "create_graph": one.create_graph,
                "accumulates": one.accumulates,
                "order": one.order,
                "nodes": one.nodes,
            }
            for one in passes
        ]

    def _module_names(self, log: Log, paths: Mapping[int, str]) -> dict[int, str]:
        roots = {log.modules[record.module].root for record in self.records.values() if record.module is not None}
        # Modules without nodes of their own may own parameters.
        used = {index for index, module in log.modules.items() if module.root in roots}
        return module_names(log, used, paths)


def _write(graph: AutogradGraph, key: int, record: NodeRecord, key_of: Mapping[int | None, int], log: Log) -> None:
    data: dict[str, Any] = graph.nodes[key]
    data["provenance"] = "recorded"
    if record.site is not None:
        data["source"] = log.sites[record.site]
        if record.site in log.stacks:
            data["stack"] = log.stacks[record.site]
    if record.made_by is not None:
        data["pass"] = record.made_by
    if record.creator is not None:
        creator = data["creator"] = key_of.get(record.creator)
        data["accumulation"] = record.accumulation
        if creator is not None and graph.nodes[creator]["kind"] == "leaf":
            data["module"] = graph.nodes[creator]["module"]  # the engine adds to .grad


def _calls(records: Mapping[int, NodeRecord]) -> dict[tuple[int, int], int]:
    """Which call of its module each call is among those that made nodes here: 1, 2, ..."""
    seen: dict[int, set[int]] = {}
    for record in records.values():
        if record.module is not None:
            seen.setdefault(record.module, set()).add(record.call)
    return {(module, call): place + 1 for module, calls in seen.items() for place, call in enumerate(sorted(calls))}
