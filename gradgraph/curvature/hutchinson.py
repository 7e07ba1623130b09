"""Hutchinson's estimator of a diagonal."""

from __future__ import annotations

from collections.abc import Callable

from gradgraph.curvature.many_products import ManyProducts
from gradgraph.curvature.probing import Estimate, Moments, Signs, batches, is_enough
from gradgraph.curvature.sharding import Share

__all__ = ["ending", "hutchinson"]


def hutchinson(
    products: ManyProducts,
    signs: Signs,
    *,
    probes: int,
    tolerance: float | None,
    share: Share,
    advance: Callable[[int], None],
    before: Moments | None = None,
) -> Estimate:
    """The mean of ω ⊙ Hω over `probes` vectors ω of random signs.

    E[ω_i (Hω)_i] = Σ_j H_ij E[ω_i ω_j] = H_ii, so it has no bias; entry i of one vector has variance Σ_{j≠i} H_ij²,
    estimated by the sample's. Hence it is exact for a diagonal matrix, and slow where rows are long: four times the
    vectors halve the error.

    M. F. Hutchinson, "A stochastic estimator of the trace of the influence matrix for Laplacian smoothing splines",
    Communications in Statistics 18 (1989); for the diagonal C. Bekas, E. Kokiopoulou and Y. Saad, "An estimator for the
    diagonal of a matrix", Applied Numerical Mathematics 57 (2007).

    Args:
        products: those of the Hessian.
        signs: the vectors.
        probes: how many to use, those of `before` counted.
        tolerance: stop where the norm of the standard errors is at most this share of the diagonal's norm.
        share: this rank's.
        advance: called with the number of vectors that are done.
        before: what the vectors up to `before.count` gave already.

    Cost: a product, two passes over the loss's graph, a vector. Memory: two numbers an entry, and those of a pass.
    """
    whole = before if before is not None else Moments(products.size, products.dtype, products.device)
    done = whole.count
    # One rank carries on what all know; the others begin with nothing.
    own = whole if share.rank == 0 else Moments(products.size, products.dtype, products.device)
    enough = before is not None and is_enough(whole.mean, whole.stderr, tolerance, share)
    for stop in () if enough else batches(done, probes, tolerance):
        first, last = share.slice(stop - done)
        at = done + first
        while at < done + last:
            vectors = signs(at, min(at + products.plan.chunk, done + last)).to(products.dtype)
            own.add(vectors * products.of(vectors))
            at += len(vectors)
            advance(len(vectors))
        advance(stop - done - (last - first))
        done = stop
        whole = own.over(share)
        enough = done > 1 and is_enough(whole.mean, whole.stderr, tolerance, share)
        if enough:
            break
    return Estimate(whole.mean, whole.stderr, False, f"{done} probe{'s' * (done != 1)}, {ending(enough, tolerance)}")


def ending(enough: bool, tolerance: float | None) -> str:
    """Why an estimate stopped, in words."""
    if tolerance is None:
        return "as many as wanted"
    return f"tolerance {tolerance:g} met" if enough else f"tolerance {tolerance:g} not met"
