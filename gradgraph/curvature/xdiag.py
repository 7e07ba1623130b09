"""XDiag: a diagonal from a low-rank part that is exact and a rest that is estimated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from gradgraph.curvature.hutchinson import ending, hutchinson
from gradgraph.curvature.many_products import ManyProducts
from gradgraph.curvature.probing import Estimate, Moments, Signs, batches, is_enough
from gradgraph.curvature.rows import one_hots
from gradgraph.curvature.sharding import Share
from gradgraph.curvature.sketch import Sketch

__all__ = ["xdiag"]

#: A sketch pays where the variance that it leaves is below this share of Hutchinson's. It costs as many products again,
#: so it has to halve the variance; what it leaves is overestimated, since the sketch is applied from one side only.
_PAYS = 0.6
#: So few products are not worth estimating with.
_FEW = 32


def xdiag(
    products: ManyProducts,
    signs: Signs,
    *,
    probes: int,
    tolerance: float | None,
    share: Share,
    advance: Callable[[int], None],
) -> Estimate:
    """Leave-one-out sketches: H within the range of HΩ is exact, the rest estimated, each vector used for both.

    With Q_i an orthonormal basis of {Hω_j, j ≠ i} and P_i = Q_i Q_iᵀ, the estimate is the mean over the vectors ω_i of

        diag(P_i H + H P_i − P_i H P_i) + ω_i ⊙ (I − P_i) H (I − P_i) ω_i

    The two parts of H add up to H, the first is computed, the second estimated by a vector that P_i does not depend on:
    no bias. All leave-one-outs come from one basis Q of HΩ and from HQ (P_i drops one direction of Q), hence `probes`
    products: half of them Hω, half HQ. It is exact to rounding where the rank of H is below the number of vectors.

    E. N. Epperly, J. A. Tropp and R. J. Webber, "XTrace: making the most of every sample in stochastic trace
    estimation", SIAM Journal on Matrix Analysis and Applications 45 (2024), arXiv 2301.07825. Their XDiag projects any
    matrix from the left, (I − P_i) H; a Hessian is symmetric, and projecting it from both sides takes no product more
    and leaves less.

    The standard error is that of the leave-one-outs as if they were independent. Their common basis makes them a little
    dependent: about 5 % too small for a net with probes for a few per cent of its entries, up to a fifth too small
    where the probes are half as many as the entries.

    Where the sketch does not pay (the spectrum is flat, or the matrix nearly diagonal), which the products Hω alone
    show, all products go to Hutchinson's estimator instead; likewise where one is not finite, which leaves no basis.
    With as many probes as entries the columns themselves are computed: exact.

    Args:
        products: those of the Hessian.
        signs: the vectors ω.
        probes: how many products to spend.
        tolerance: as for `hutchinson`.
        share: this rank's.
        advance: called with the number of products that are done.

    Cost: `probes` products, and `size` × `probes`² operations. Memory: `size` × `probes` numbers on every rank, twice
    that while the basis is made.
    """
    size = products.size
    if size <= probes and (tolerance is None or size <= _FEW):
        return _columns(products, share, advance)
    moments = Moments(size, products.dtype, products.device)
    outcome = _sketched(products, signs, moments, probes, tolerance, share, advance)
    if isinstance(outcome, Estimate):
        return outcome
    why, wasted = outcome
    found = hutchinson(
        products, signs, probes=probes - wasted, tolerance=tolerance, share=share, advance=advance, before=moments
    )
    return replace(found, reason=f"{found.reason}; Hutchinson's estimator, since {why}")


def _sketched(
    products: ManyProducts,
    signs: Signs,
    moments: Moments,
    probes: int,
    tolerance: float | None,
    share: Share,
    advance: Callable[[int], None],
) -> Estimate | tuple[str, int]:
    """The estimate; or why there is none, and how many products only it would have used. Fills `moments`."""
    sketch = Sketch(products.size, share)
    found: Estimate | None = None
    for stop in batches(0, min(probes // 2, products.size + 1), tolerance):
        chosen = signs(moments.count, stop)
        received = _shared(products, chosen, share, advance)
        moments.add(chosen * received)
        if not received.isfinite().all():
            return "products are not finite", sketch.rank if sketch.is_complete else 0
        sketch.extend(chosen, received)
        del received
        if found is None and not share.first(float(sketch.variance_left() < _PAYS * moments.variance.sum())):
            if is_enough(moments.mean, moments.stderr, tolerance, share):
                break
            continue
        if not sketch.complete(lambda basis: _shared(products, basis, share, advance)):
            return "products are not finite", sketch.rank
        values, stderr = sketch.estimate()
        enough = is_enough(values, stderr, tolerance, share)
        spent = moments.count + sketch.rank
        reason = f"{spent} products, a basis of {sketch.rank}, {ending(enough, tolerance)}"
        found = Estimate(values, stderr, False, reason)
        if enough:
            break
    return found or ("a sketch does not pay", 0)


def _shared(products: ManyProducts, vectors: Tensor, share: Share, advance: Callable[[int], None]) -> Tensor:
    """The products with the rows of `vectors`, of which every rank computes some."""
    received = torch.zeros(vectors.shape, dtype=products.dtype, device=products.device)
    first, last = share.slice(len(vectors))
    at = first
    while at < last:
        some = vectors[at : min(at + products.plan.chunk, last)].to(products.dtype)
        received[at : at + len(some)] = products.of(some)
        at += len(some)
        advance(len(some))
    advance(len(vectors) - (last - first))
    share.sum_([received])
    return received


def _columns(products: ManyProducts, share: Share, advance: Callable[[int], None]) -> Estimate:
    """The diagonal itself, by as many products as it has entries."""
    values = torch.zeros(products.size, dtype=products.dtype, device=products.device)
    first, last = share.slice(products.size)
    at = first
    while at < last:
        some = one_hots(values, at, min(products.plan.chunk, last - at))
        values[at : at + len(some)] = products.of(some)[:, at : at + len(some)].diagonal()
        at += len(some)
        advance(len(some))
    advance(products.size - (last - first))
    share.sum_([values])
    reason = f"all {products.size} columns: no more than the products wanted"
    return Estimate(values, torch.zeros_like(values), True, reason)
