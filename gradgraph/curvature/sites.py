"""Where parameters enter the graph linearly: `z[l, o, p] = sum_f w[o, f] x[f, l, o, p] + ...`.

A linear layer, a convolution, the scale and shift of a norm, an embedding: at such a site all that the loss knows of
the parameter is in z, and x does not depend on the parameter. So

    d²loss / dw[o, f]² = sum over (l, p), (m, q) of x[f, l, o, p] x[f, m, o, q] H_z[(l, o, p), (m, o, q)],

and only the Hessian of z is needed, which is that of the graph's suffix behind the site. z is row-major `[L, O, P]`:
`[rows, units, 1]` of a linear layer, `[samples, channels, positions]` of a convolution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

from gradgraph.curvature.apart_rules import ELEMENTWISE, PARTS, VIEWS, Shape, operation, shape_of
from gradgraph.curvature.site_kinds import KINDS
from gradgraph.kinds import name_of
from gradgraph.saved import saved_values
from gradgraph.walk import Walk, edge_of

__all__ = ["Consumers", "Place", "Site", "Sites", "Term", "Use", "find_sites", "reaches"]

#: Key of a node and number of one of its outputs.
Place = tuple[int, int]

#: The edges that lead to each output, as (key of the consumer, slot).
Consumers = Mapping[Place, Sequence[tuple[int, int]]]

#: Operations that give entries of their input, each at most once.
_SELECTIONS = VIEWS - {"ToCopy"} | PARTS | {"T", "Transpose", "Permute", "Select", "Slice"}

#: Kinds of sites that one parameter may have several of.
_SHARED = ("matrix", "convolution")


@dataclass(frozen=True)
class Use:
    """One place where a parameter, or a selection of its entries, enters.

    Attributes:
        name: the parameter.
        operand: the edge of what enters: the parameter's own, or that of the last selection.
        shape: of the operand.
    """

    name: str
    operand: GradientEdge
    shape: Shape


@dataclass(eq=False)
class Site:
    """A node that parameters enter linearly.

    Attributes:
        place: of z.
        node: its node.
        kind: "matrix" (`x @ w`), "matrix of rows" (`w @ x`), "convolution", "norm", "product 0" and "product 1" (by the
            slot of the parameter), "sum", "embedding".
        shape: of z.
        sizes: L, O and P.
        weight: what is multiplied with x.
        bias: what is added.
        saved: what the node saved, by name.
    """

    place: Place
    node: Node
    kind: str
    shape: Shape
    sizes: tuple[int, int, int]
    weight: Use | None = None
    bias: Use | None = None
    saved: dict[str, Tensor] = field(default_factory=dict)

    @property
    def edge(self) -> GradientEdge:
        """Where the gradient of z arrives."""
        return GradientEdge(self.node, 0)

    @property
    def uses(self) -> list[Use]:
        """What enters here."""
        return [use for use in (self.weight, self.bias) if use is not None]


@dataclass(frozen=True)
class Term:
    """A use by an operation by entry, of the use's own shape: a penalty on the parameter, for instance.

    Attributes:
        use: what enters.
        place: of the operation's output.
        node: the operation.
        slots: by which it enters.
    """

    use: Use
    place: Place
    node: Node
    slots: tuple[int, ...]

    @property
    def edge(self) -> GradientEdge:
        """Where the gradient of the output arrives."""
        return GradientEdge(self.node, 0)

    @property
    def uses(self) -> list[Use]:
        """What enters here."""
        return [self.use]


@dataclass
class Sites:
    """What `find_sites` found.

    Attributes:
        sites: in no order.
        terms: uses beside them, where they were asked for.
        shared: the sites, of one kind, of parameters that are used at several; where they were asked for.
        tied: pairs of an embedding and a head that use one table.
        refused: why a parameter has none, in words.
        consumers: of every output.
        edges: where the gradient of each parameter arrives.
    """

    sites: list[Site]
    refused: dict[str, str]
    consumers: Consumers
    edges: dict[str, GradientEdge]
    terms: list[Term] = field(default_factory=list)
    shared: list[list[Site]] = field(default_factory=list)
    tied: list[tuple[Site, Site]] = field(default_factory=list)


def find_sites(walk: Walk, tensors: Mapping[str, Tensor], *, terms: bool = False) -> Sites:
    """The sites of those of `tensors` whose every use is one, or with `terms` a term.

    `walk` starts at the loss alone.
    """
    consumers: dict[Place, list[tuple[int, int]]] = {}
    for u, v, slot, output_nr in zip(walk.source, walk.target, walk.slot, walk.output_nr, strict=True):
        consumers.setdefault((v, output_nr), []).append((u, slot))
    found = Sites([], {}, consumers, {})
    known_saved: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if not tensor.requires_grad:
            continue
        edge = found.edges[name] = edge_of(tensor)
        if edge.node not in walk.key_of:
            continue
        uses = _uses(walk, consumers, (walk.key_of[edge.node], edge.output_nr))
        whole = f"it is used at {len(uses)} places ({_names(walk, uses)})"
        own_terms = _take_terms(walk, name, walk.key_of[edge.node], uses) if terms else []
        known = [_recognised(walk, name, place, key, slot, known_saved) for place, key, slot in uses]
        if len(uses) > 1 and not _disjoint(walk, tensor, [place for place, _, _ in uses]):
            if not terms or not (_share(found.shared, known) or _tie(found.tied, known)):
                found.refused[name] = f"{whole}, which cannot be read together"
            else:
                found.terms += own_terms
            continue
        strange = [use for use, one in zip(uses, known, strict=True) if one is None]
        if strange:
            found.refused[name] = f"it enters through {_described(walk, *strange[0][:2])}"
            continue
        for one in known:
            if one is not None:
                _add(found.sites, *one)
        found.terms += own_terms
    return found


def _names(walk: Walk, uses: list[tuple[Place, int, int]]) -> str:
    return ", ".join(list(dict.fromkeys(name_of(walk.nodes[key]) for _, key, _ in uses))[:5])


def _described(walk: Walk, place: Place, key: int) -> str:
    """The operation at `key`, which takes the output at `place`; and the shapes, where those are in the way."""
    node = walk.nodes[key]
    shape, operand = shape_of(node, 0), shape_of(walk.nodes[place[0]], place[1])
    if (
        operation(node) not in ("Add", "Mul")
        or shape in (None, operand)
        or sum(size != 1 for size in operand or ()) < 2
    ):
        return name_of(node)
    return f"{name_of(node)}, {list(operand or ())} broadcast to {list(shape or ())}: not along all axes but one"


def _take_terms(walk: Walk, name: str, own: int, uses: list[tuple[Place, int, int]]) -> list[Term]:
    """Take those out of `uses`, of the parameter whose node is `own`, that are terms."""
    slots: dict[tuple[Place, int], list[int]] = {}
    for place, key, slot in uses:
        node = walk.nodes[key]
        alike = _is_of_its_type(walk, key, place) and shape_of(node, 0) == shape_of(walk.nodes[place[0]], place[1])
        if operation(node) in ELEMENTWISE and alike and shape_of(node, 0):
            slots.setdefault((place, key), []).append(slot)
    for place, key in list(slots):
        edges = range(walk.start[key], walk.start[key + 1])
        others = [walk.target[edge] for edge in edges if walk.slot[edge] not in slots[place, key]]
        if reaches(walk, others, own):
            del slots[place, key]  # w * f(w) is more than what w is by entry
    uses[:] = [one for one in uses if one[:2] not in slots]
    found = []
    for (place, key), several in slots.items():
        operand = GradientEdge(walk.nodes[place[0]], place[1])
        shape = shape_of(walk.nodes[place[0]], place[1])
        found.append(Term(Use(name, operand, shape or ()), (key, 0), walk.nodes[key], tuple(several)))
    return found


def _share(shared: list[list[Site]], known: list[tuple[Site, str, Use] | None]) -> bool:
    """Put the uses of one parameter down at sites of one kind; whether they are."""
    here = [one for one in known if one is not None]
    alike = {(site.kind, role, site.sizes[1], use.shape) for site, role, use in here}
    places = [site.place for site, _, _ in here]
    if len(here) < len(known) or len(alike) > 1 or here[0][0].kind not in _SHARED or len(set(places)) < len(places):
        return False
    for sites in shared:
        if [site.place for site in sites] == places and getattr(sites[0], here[0][1]) is None:
            break
    else:
        sites = [site for site, _, _ in here]
        shared.append(sites)
    for site, (_, role, use) in zip(sites, here, strict=True):
        setattr(site, role, use)
    return True


def _tie(tied: list[tuple[Site, Site]], known: list[tuple[Site, str, Use] | None]) -> bool:
    """Put down an embedding and a head that use one parameter; whether that is what they are."""
    by_kind = {site.kind: (site, use) for site, _, use in filter(None, known)}
    if len(known) != 2 or set(by_kind) != {"embedding", "matrix"}:
        return False
    for site, use in by_kind.values():
        site.weight = use
    tied.append((by_kind["embedding"][0], by_kind["matrix"][0]))
    return True


def reaches(walk: Walk, keys: list[int], wanted: int) -> bool:
    """Whether any of the nodes `keys` is, or leads to, the node `wanted`."""
    seen: set[int] = set()
    stack = list(keys)
    while stack:
        key = stack.pop()
        if key == wanted:
            return True
        if key not in seen:
            seen.add(key)
            stack += walk.below(key)
    return False


def _uses(walk: Walk, consumers: Consumers, place: Place) -> list[tuple[Place, int, int]]:
    """Every operation that takes the output at `place` or a selection of it: what it takes, its key, the slot."""
    found: list[tuple[Place, int, int]] = []
    stack = [place]
    while stack:
        place = stack.pop()
        for key, slot in consumers.get(place, ()):
            node: Any = walk.nodes[key]
            if operation(node) in _SELECTIONS:
                stack += [(key, nr) for nr in range(len(node._input_metadata))]
            else:
                found.append((place, key, slot))
    return found


def _disjoint(walk: Walk, tensor: Tensor, places: Sequence[Place]) -> bool:
    """Whether no entry of `tensor` is in two of its selections at `places`."""
    if len(set(places)) < len(places):
        return False
    edges = [GradientEdge(walk.nodes[key], nr) for key, nr in places]
    metadata = [edge.node._input_metadata[edge.output_nr] for edge in edges]
    ones = [torch.ones(one.shape, dtype=one.dtype, device=one.device) for one in metadata]
    (count,) = torch.autograd.grad(edges, [tensor], ones, retain_graph=True)
    return bool((count <= 1).all())


def _add(sites: list[Site], site: Site, role: str, use: Use) -> None:
    """Put the use down at its site, which a weight and a bias may share."""
    for other in sites:
        same = other.place == site.place and other.kind == site.kind and other.sizes == site.sizes
        if same and getattr(other, role) is None:
            site = other
            break
    else:
        sites.append(site)
    setattr(site, role, use)


def _recognised(
    walk: Walk, name: str, place: Place, key: int, slot: int, known_saved: dict[int, dict[str, Tensor]]
) -> tuple[Site, str, Use] | None:
    """The site at node `key`, and whether what enters by `slot` is its weight or its bias.

    `known_saved` has what nodes saved, as far as they have been asked.
    """
    node = walk.nodes[key]
    rule = KINDS.get(operation(node))
    shape, operand = shape_of(node, 0), shape_of(walk.nodes[place[0]], place[1])
    if rule is None or shape is None or operand is None or 0 in shape or 0 in operand:
        return None
    if not _is_of_its_type(walk, key, place):
        return None
    if key not in known_saved:
        tensors = [(one.name, one.data) for one in saved_values(node) if one.state == "live"]
        known_saved[key] = {name: data for name, data in tensors if data is not None and data.layout is torch.strided}
    saved = known_saved[key]
    known = rule(node, slot, shape, operand, saved)
    if known is None:
        return None
    kind, role, sizes = known
    site = Site((key, 0), node, kind, shape, sizes, saved=saved)
    return site, role, Use(name, GradientEdge(walk.nodes[place[0]], place[1]), operand)


def _is_of_its_type(walk: Walk, key: int, place: Place) -> bool:
    """Whether what node `key` gives has the type of what it takes at `place`: neither wider nor complex."""
    own: Any = walk.nodes[key]._input_metadata[0]
    given: Any = walk.nodes[place[0]]._input_metadata[place[1]]
    return bool(own.dtype == given.dtype and own.dtype.is_floating_point)
