"""WGAN-GP: a critic whose gradient is held to norm 1 between real and generated points.

The penalty differentiates the critic by its *input* and the loss then differentiates that by the critic's weights:
a double backward in every training step. A generator makes points of the plane, real ones lie on a ring. Twenty steps
of training; the picture is the last pass of the critic.

    gradgraph render examples/wgan_gp.py -o wgan_gp.svg
"""

import math

import torch
from torch import Tensor, nn
from torch.autograd import grad


def make_nets() -> tuple[nn.Sequential, nn.Sequential]:
    """Generator 8-64-64-2 and critic 2-64-64-1."""
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    critic = nn.Sequential(nn.Linear(2, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1))
    return generator, critic


def ring(count: int) -> Tensor:
    """Points [count, 2] on a circle of radius 2."""
    angle = 2 * math.pi * torch.rand(count, 1)
    return 2 * torch.cat([angle.cos(), angle.sin()], dim=1)


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """Mean of (|d critic / dx| - 1)^2 at points x between real and fake ones."""
    mix = torch.rand(len(real), 1)
    x = (mix * real + (1 - mix) * fake).requires_grad_()
    (gradient,) = grad(critic(x).sum(), x, create_graph=True)
    return (gradient.norm(dim=1) - 1).pow(2).mean()


def critic_loss(generator: nn.Module, critic: nn.Module, count: int = 64) -> tuple[Tensor, Tensor]:
    """Estimated distance, negated, plus 10 times the penalty; and the penalty."""
    real = ring(count)
    fake = generator(torch.randn(count, 8)).detach()
    penalty = gradient_penalty(critic, real, fake)
    return critic(fake).mean() - critic(real).mean() + 10 * penalty, penalty


if __name__ == "__main__":
    torch.set_num_threads(1)  # for tensors this small, sharing the work out takes longer than doing it
    generator, critic = make_nets()
    of_generator = torch.optim.Adam(generator.parameters(), lr=1e-3, betas=(0.0, 0.9))
    of_critic = torch.optim.Adam(critic.parameters(), lr=1e-3, betas=(0.0, 0.9))
    for step in range(20):
        of_generator.zero_grad()
        score = -critic(generator(torch.randn(64, 8))).mean()
        score.backward()
        of_generator.step()
        for _ in range(5):
            loss, penalty = critic_loss(generator, critic)
            of_critic.zero_grad()
            loss.backward()
            of_critic.step()
        if step % 5 == 4:
            print(f"step {step + 1}: critic's loss {loss.item():.3f}, penalty {penalty.item():.4f}")
