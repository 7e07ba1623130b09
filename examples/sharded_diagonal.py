"""A Hessian diagonal that several processes compute together.

Every process builds the same net, the same batch and the same loss. Given `shard=True`, each computes a share of the
Hessian's rows, or of the random vectors of an estimate, and ends with the whole result. Alone it computes everything.
An error in one process is an error in all.

    torchrun --nproc_per_node=2 examples/sharded_diagonal.py

    gradgraph render examples/sharded_diagonal.py:gradient -o sharded_diagonal.svg
"""

import torch
import torch.distributed as dist
from curve_fit import data, make_net, mse
from torch import Tensor, nn
from torch.autograd import grad

import gradgraph


def make_loss() -> tuple[nn.Sequential, Tensor]:
    """The net of `curve_fit.py` and its loss, in float64, the same in every process."""
    net = make_net(dtype=torch.float64)
    return net, mse(net, *data(100, torch.float64))


def flat(parts: dict[str, Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in parts.values()])


def report(exact: gradgraph.HessianDiagonal, estimated: gradgraph.HessianDiagonal, processes: int) -> None:
    """What every process now knows; one of them says it."""
    truth, guess, error = flat(exact), flat(estimated), flat(estimated.stderr)
    within = ((guess - truth).abs() <= 2 * error).double().mean()
    print("processes:", processes)
    print(f"{len(truth)} second derivatives, from {truth.min():.4f} to {truth.max():.4f}, their sum {truth.sum():.4f}")
    off, said = (guess - truth).norm() / truth.norm(), error.norm() / truth.norm()
    print(f"estimated: off by {off:.3f} of the norm, said {said:.3f}")
    print(f"within two standard errors: {within:.0%}")


if __name__ == "__main__":
    sharded = dist.is_torchelastic_launched()
    if sharded:
        dist.init_process_group("gloo")
    net, loss = make_loss()
    exact = gradgraph.hessian_diagonal(loss, net, method="batched", shard=sharded)
    estimated = gradgraph.hessian_diagonal(loss, net, method="xdiag", probes=40, shard=sharded)
    if not sharded or dist.get_rank() == 0:
        report(exact, estimated, dist.get_world_size() if sharded else 1)
    if sharded:
        dist.destroy_process_group()

    # What every process differentiates, here by one of the parameters.
    (gradient,) = grad(loss, net[2].weight, create_graph=True)
