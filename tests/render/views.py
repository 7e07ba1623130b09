"""A view made by hand: every kind of folded box, clusters, a rim, counts, and what is hidden."""

from __future__ import annotations

from typing import Any

from gradgraph.graph import NODE_ATTRIBUTES
from gradgraph.view import View
from tests.render.graphs import out

__all__ = ["folded", "layered", "single"]


def folded(label: str, ops: dict[str, int], **more: Any) -> dict[str, Any]:
    """The attributes of a folded box."""
    count = sum(ops.values())
    order = more.get("order", 0)
    return {
        "kind": "folded",
        "label": label,
        "fold": "module",
        "times": 1,
        "ops": ops,
        "kinds": {"op": count},
        "count": count,
        "order": order,
        "orders": [order, order],
        "saved_bytes": 0,
        "gradient_range": None,
        "curvature": None,
        "hessian_range": None,
        "inner": {},
        "clusters": [],
        "creators": {},
        **more,
    }


def single(op: str, key: int, **more: Any) -> dict[str, Any]:
    """The attributes of a box that is one node, number `key` of the graph."""
    order = more.get("order", 0)
    return {
        **NODE_ATTRIBUTES,
        "op": op,
        "label": more.get("name") or op,
        "fold": None,
        "times": 1,
        "members": [key],
        "count": 1,
        "orders": [order, order],
        "ops": {op: 1},
        "inner": {},
        "clusters": [],
        "creators": {},
        "outputs": [out(4, 3)],
        **more,
    }


def layered() -> View:
    """Two orders of a network of twelve equal layers, partly opened."""
    view = View()
    layer = {"AddmmBackward0": 24, "AccumulateGrad": 24, "TanhBackward0": 12, "MulBackward0": 2, "AddBackward0": 1}
    spread = {"low": 0.001, "high": 2.5, "nan": 0, "inf": 0, "none": 3}
    boxes = [
        single("MeanBackward0", 90, order=1, outputs=[out()]),
        folded(
            "h.0 … h.11",
            {"MmBackward0": 36, "TBackward0": 24, "TanhBackwardBackward0": 12},
            order=1,
            fold="repeat",
            times=12,
            creators={3: 60},
            clusters=["h"],
            curvature=-1.25,
            gradient_range=spread | {"nan": 2},
        ),
        single("NllLossBackward0", 0, outputs=[out()], hidden_in=1, hidden_out=3),
        folded(
            "h.0 … h.11",
            layer,
            fold="repeat",
            times=12,
            saved_bytes=5 << 20,
            clusters=["h"],
            gradient_range=spread,
            hessian_range={"low": -1.0, "high": 4.0, "negative": 2},
        ),
        folded("head", {"FlashBackward": 2, "ViewBackward0": 5}, kinds={"blocked": 1, "custom": 1, "op": 5}),
        folded(
            "h.*.weight",
            {"AccumulateGrad": 12},
            kinds={"leaf": 12},
            fold="repeat",
            times=12,
            op="AccumulateGrad",
            outputs=[out(4, 4)],
        ),
        folded("train.py:9 in step", {"AddBackward0": 4}, fold="line", orders=[0, 3], clusters=["h", "h.inner"]),
    ]
    for key, data in enumerate(boxes):
        data.setdefault("members", list(range(100 * key, 100 * key + data["count"])))
        view.add_node(key, **data)
    arrows = [
        (0, 1, "gradient", 2),
        (1, 3, "curvature", 36),
        (1, 5, "curvature", 12),
        (2, 4, "gradient", 1),
        (4, 3, "gradient", 3),
        (3, 5, "gradient", 12),
        (3, 6, "gradient", 1),
    ]
    for tail, head, role, count in arrows:
        view.add_edge(tail, head, 0, role=role, count=count)
    view.graph.update(
        nodes=1234,
        edges=2000,
        by="module",
        hidden={"nodes": 1000, "edges": 1500},
        roots=[0],
        orders=[0, 1],
        recorded=1234,
        focus=[3],
        clusters={
            "h": {"label": "h ×12", "parent": None, "times": 12},
            "h.inner": {"label": "inner", "parent": "h", "times": 1},
        },
    )
    return view
