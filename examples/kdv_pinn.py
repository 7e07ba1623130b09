"""A physics-informed net for the Korteweg-de Vries equation: a loss with third derivatives in it.

    u_t + 6 u u_x + u_xxx = 0

The residual needs u_xxx, so the graph that `loss.backward()` runs has orders 0 to 3 before the pass begins. The same
`residual`, given the equation's soliton instead of the net, is zero to rounding: that checks every derivative.

    gradgraph render examples/kdv_pinn.py -o kdv_pinn.svg
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd import grad


def make_net(width: int = 20) -> nn.Sequential:
    """From (x, t) to u."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(2, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1)
    ).double()


def soliton(xt: Tensor, speed: float = 1.0) -> Tensor:
    """A wave that runs to the right and keeps its shape: c/2 sech^2(sqrt(c)/2 (x - c t)), [n, 1]."""
    x, t = xt[:, :1], xt[:, 1:]
    return speed / 2 / torch.cosh(speed**0.5 / 2 * (x - speed * t)) ** 2


def points(count: int = 64) -> Tensor:
    """Random (x, t) in [-5, 5] x [0, 1], [count, 2]."""
    unit = torch.rand(count, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return unit * torch.tensor([10, 1]) - torch.tensor([5, 0])


def derivative(u: Tensor, by: Tensor) -> Tensor:
    """Row by row: sample n of `u` depends on row n of `by` alone."""
    return grad(u.sum(), by, create_graph=True)[0]


def residual(wave: Callable[[Tensor], Tensor], xt: Tensor) -> tuple[Tensor, list[Tensor]]:
    """u_t + 6 u u_x + u_xxx at each point [n, 1]; and u, u_x, u_xx, u_xxx."""
    x, t = xt.detach()[:, :1].requires_grad_(), xt.detach()[:, 1:].requires_grad_()
    u = wave(torch.cat([x, t], dim=1))
    u_t, u_x = derivative(u, t), derivative(u, x)
    u_xx = derivative(u_x, x)
    u_xxx = derivative(u_xx, x)
    return u_t + 6 * u * u_x + u_xxx, [u, u_x, u_xx, u_xxx]


def pinn_loss(net: nn.Module, xt: Tensor) -> Tensor:
    """The mean squared residual, and 10 times the misfit to the soliton at t = 0."""
    start = torch.cat([xt[:, :1], torch.zeros_like(xt[:, 1:])], dim=1)
    return residual(net, xt)[0].pow(2).mean() + 10 * (net(start) - soliton(start)).pow(2).mean()


if __name__ == "__main__":
    torch.set_num_threads(1)  # for tensors this small, sharing the work out takes longer than doing it
    xt = points()
    print(f"largest residual of the soliton: {residual(soliton, xt)[0].abs().max().item():.0e}")

    net = make_net()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for step in range(101):
        loss = pinn_loss(net, xt)
        if step % 25 == 0:
            print(f"step {step}: loss {loss.item():.4f}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
