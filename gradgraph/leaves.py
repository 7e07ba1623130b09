"""Names of the nodes of a traced graph, and the module of those where parameter names make it sure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.autograd.graph import Node

from gradgraph.errors import InputError
from gradgraph.graph import AutogradGraph
from gradgraph.params import Named, names_in

__all__ = ["module_of_nodes", "name_leaves", "name_others"]


def name_leaves(
    graph: AutogradGraph,
    leaves: dict[int, Tensor],
    named: Sequence[Named],
    namespace: Mapping[str, Any],
    recorded: Callable[[], Mapping[int, tuple[str, str]]] = dict,
) -> list[str]:
    """Name every leaf: from `named`, else from `namespace`, else as recorded, else `leaf0`, `leaf1`, ...

    Names are unique. `recorded` gives, by identity, names of parameters of modules that ran, and the modules'.

    Returns:
        Names of those of `named` that are no leaf of the graph.

    Raises:
        InputError: none of `named` is in the graph.
    """
    by_tensor = {id(variable): key for key, variable in leaves.items()}
    taken: set[str] = set()
    unreached: list[str] = []
    for position, item in enumerate(named):
        key = by_tensor.pop(id(item.tensor), None)
        if key is None:
            unreached.append(item.name if item.name is not None else f"params[{position}]")
        elif item.name is None:
            by_tensor[id(item.tensor)] = key
        else:
            graph.nodes[key]["name"] = item.name
            taken.add(item.name)
    if named and len(unreached) == len(named):
        shown = ", ".join(unreached[:5]) + (", ..." if len(unreached) > 5 else "")
        raise InputError(
            f"none of the {len(named)} tensors of params is a leaf of this graph (missing: {shown}). Expected the "
            "tensors that outputs were computed from; were they copied, detached, or used under torch.no_grad()?"
        )
    if not by_tensor:
        return unreached
    called = {key: name for key, (name, _) in recorded().items()} | names_in(namespace)
    count = 0
    for key in sorted(by_tensor.values()):
        name = called.get(id(leaves[key]))
        while name is None or name in taken:
            name = f"leaf{count}"
            count += 1
        graph.nodes[key]["name"] = name
        taken.add(name)
    return unreached


def name_others(
    graph: AutogradGraph,
    index: Mapping[Node, int],
    leaves: dict[int, Tensor],
    names: Mapping[str, Tensor],
    namespace: Mapping[str, Any],
) -> None:
    """Name the nodes of the tensors in `names`, and of the caller's variables that hold a retained tensor.

    Two names of one node stand with ` = ` between them.

    Raises:
        InputError: a tensor of `names` is not in the graph.
    """
    by_tensor = {id(variable): key for key, variable in leaves.items()}
    asked: dict[int, list[str]] = {}
    for name, tensor in names.items():
        key = by_tensor.get(id(tensor)) if tensor.grad_fn is None else index.get(tensor.grad_fn)
        if key is None:
            raise InputError(
                f"names gives {name!r} to a tensor that is not in this graph; outputs do not depend on it."
            )
        asked.setdefault(key, []).append(name)
    for name, value in list(namespace.items()):
        if isinstance(value, Tensor) and value.retains_grad and not name.startswith("_"):
            key = index.get(value.grad_fn) if value.grad_fn is not None else None
            if key is not None and key not in asked:
                graph.nodes[key]["name"] = name
    for key, given in asked.items():
        graph.nodes[key]["name"] = " = ".join(given)


def module_of_nodes(graph: AutogradGraph, leaves: dict[int, Tensor], named: Sequence[Named]) -> None:
    """Give each parameter its owner as `module`, and so each forward operation that uses one module's parameters.

    A parameter may enter through operations that nothing else uses and that take nothing else (a transposed weight).
    """
    owners = {id(item.tensor): item.module for item in named}
    module: dict[int, str | None] = {}
    for key, variable in leaves.items():
        if id(variable) in owners:
            module[key] = owners[id(variable)]
            graph.nodes[key]["module"] = owners[id(variable)]
    stack = list(module)
    while stack:
        for user in graph.predecessors(stack.pop()):
            data = graph.nodes[user]
            if data["order"] or user in module:
                continue
            inputs = set(graph.successors(user))
            # Parameters of one module, and nothing of another: whatever else comes in is data.
            found = {module[key] for key in inputs if key in module}
            if len(found) != 1 or None in found:
                continue
            data["module"] = found.pop()
            if len(inputs) == 1 and data["detached_slots"] == 0 and graph.in_degree(user) == 1:
                module[user] = data["module"]
                stack.append(user)
