"""Estimates of the Hessian's diagonal with their standard errors, for when the exact one costs too much."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Literal

import torch
from torch import Tensor

from gradgraph.curvature.budget import is_number
from gradgraph.curvature.first_order import FirstOrder
from gradgraph.curvature.hutchinson import hutchinson
from gradgraph.curvature.many_products import ManyProducts
from gradgraph.curvature.probing import Signs
from gradgraph.curvature.report import ParameterReport
from gradgraph.curvature.sharding import Share
from gradgraph.curvature.xdiag import xdiag
from gradgraph.errors import InputError

__all__ = ["Estimator", "estimate", "planned"]

Estimator = Literal["hutchinson", "xdiag"]

_METHODS = {"hutchinson": hutchinson, "xdiag": xdiag}
#: Products at least: one vector is an estimate, of unknown error; a sketch of two takes twice as many.
_LEAST = {"hutchinson": 1, "xdiag": 4}
_DEFAULT = 100
#: Where the tolerance ends it. A sketch holds as many vectors.
_DEFAULT_WITH_TOLERANCE = {"hutchinson": 10_000, "xdiag": 1_000}


def planned(method: Estimator, probes: int | None, tolerance: float | None) -> int:
    """How many products an estimate will take at most. Both methods take as many as `probes` says.

    The default is 100; with a tolerance 10,000 for "hutchinson", 1,000 for "xdiag".

    Raises:
        InputError: `probes` or `tolerance` is out of range.
    """
    if tolerance is not None and not (is_number(tolerance, Real) and 0 < tolerance < float("inf")):
        raise InputError(
            f"tolerance expected a positive number, the wanted norm of the standard errors relative to that of the "
            f"diagonal, such as 0.05; got {tolerance!r}. Use None for as many products as probes= says."
        )
    if probes is None:
        return _DEFAULT if tolerance is None else _DEFAULT_WITH_TOLERANCE[method]
    if not is_number(probes, Integral) or probes < _LEAST[method]:
        raise InputError(
            f"probes expected a whole number of Hessian-vector products, {_LEAST[method]} at least for {method!r}; got "
            f"{probes!r}."
        )
    return int(probes)


def estimate(
    method: Estimator,
    order: FirstOrder,
    names: Sequence[str],
    *,
    probes: int | None = None,
    tolerance: float | None = None,
    generator: torch.Generator | None = None,
    chunk_size: int | None = None,
    memory: int | None = None,
    share: Share | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, ParameterReport]]:
    """Estimate the diagonal of the Hessian by the parameters `names`, all from the same products.

    Args:
        method: "hutchinson" or "xdiag"; see the functions.
        order: the gradients.
        names: parameters whose gradients have a graph, one at least.
        probes: products of the Hessian with a vector to spend at most; see `planned`. "xdiag" holds so many vectors.
            A single one has no spread: its standard errors are NaN.
        tolerance: stop where the norm of the standard errors is at most this share of the norm of the diagonal (as far
            as it is known by then), over all entries of all `names`. Looked at after 16 vectors, then after each
            quarter more (16 at least). An estimate that stops at its own error looks a little better than it is.
        generator: decides the vectors, by one number drawn from it; None is a generator seeded 0, so that a call
            repeats. They depend neither on chunks nor on the number of ranks, of whose generators the first decides.
        chunk_size: vectors a pass.
        memory: bytes for the vectors of one pass.
        share: this rank's, entered.
        advance: called with the number of products that are done.

    Returns:
        Values, standard errors and reports by name. Entries whose products are not finite are NaN or infinite, and so
        are their errors. Passes in the reports are those of this rank, for all parameters together; seconds are
        divided.
    """
    began = time.perf_counter()
    share = share or Share.of(False)
    most = planned(method, probes, tolerance)
    products = ManyProducts(order, names, chunk_size=chunk_size, memory=memory)
    seed = int(share.first(float(_seed(generator))))
    found = _METHODS[method](
        products,
        Signs(products.size, seed, products.device),
        probes=most,
        tolerance=tolerance,
        share=share,
        advance=advance,
    )
    plan = products.plan
    reason = f"{found.reason}; {plan.reason}" if share.is_single else f"{found.reason}, over {share.size} ranks"
    values, stderr = products.split(found.values), products.split(found.stderr)
    seconds = (time.perf_counter() - began) / len(values)
    report = {
        name: ParameterReport(
            method=method,
            exact=found.exact,
            passes=plan.passes,
            chunk=plan.chunk,
            reason=reason if curved else "its gradient does not depend on it",
            reached="curved" if curved else "linear",
            seconds=seconds,
        )
        for name, curved in products.curved.items()
    }
    return values, stderr, report


def _seed(generator: torch.Generator | None) -> int:
    if generator is None:
        generator = torch.Generator().manual_seed(0)
    return int(torch.randint(2**31, (), generator=generator, device=generator.device))
