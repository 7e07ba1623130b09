"""The models' second and third derivatives, against finite differences, closed forms and torch's own modules."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import grad

import gradgraph

Run = Callable[[str], Any]


@contextlib.contextmanager
def doubles() -> Iterator[None]:
    """Make float64 the default dtype, of models and data. Not around `ran`, which keeps what it ran."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def slope(objective: Callable[[], Tensor], parameters: list[Tensor], step: float) -> tuple[float, float]:
    """The derivative of `objective` along its gradient's direction: by autograd, and by central differences."""
    gradients = grad(objective(), parameters)
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
    start = [parameter.detach().clone() for parameter in parameters]
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            for parameter, at, gradient in zip(parameters, start, gradients, strict=True):
                parameter.copy_(at + sign * step * gradient / norm)
        values.append(objective().item())
    return norm.item(), (values[0] - values[1]) / (2 * step)


def objective_of(name: str, values: dict[str, Any]) -> tuple[nn.Module, Callable[[], Tensor]]:
    """A model of the example, made small, and what the example differentiates by its parameters."""
    if name == "gpt2":
        gpt2 = values["make_model"](layers=2, width=12, heads=2, vocabulary=20)
        return gpt2, lambda: values["squared_gradient_norm"](values["loss_of"](gpt2), gpt2)
    if name == "lstm":
        lstm = values["make_model"](hidden=5)
        return lstm, lambda: values["losses"](lstm, *values["batch"](length=30))[1]
    if name == "resnet50":
        resnet = values["make_model"](width=2)
        return resnet, lambda: values["losses"](resnet, *values["batch"](size=64))[1]
    if name == "vit":
        vit = values["make_model"](size=32, depth=2, width=12)
        return vit, lambda: values["double_backpropagation"](vit, *values["batch"](size=32))[1]
    if name == "maml":
        net = values["make_net"](width=6)
        return net, lambda: values["meta_loss"](net)[0]
    if name == "kdv_pinn":
        pinn = values["make_net"](width=6)
        return pinn, lambda: values["pinn_loss"](pinn, values["points"](8))
    generator, critic = values["make_nets"]()

    def seeded() -> Tensor:
        torch.manual_seed(3)
        loss: Tensor = values["critic_loss"](generator, critic)[0]
        return loss

    return critic, seeded


@pytest.mark.parametrize("name", ["gpt2", "kdv_pinn", "lstm", "maml", "resnet50", "vit", "wgan_gp"])
def test_derivative_agrees_with_finite_differences(name: str, ran: Run) -> None:
    values = ran(name).values
    with doubles(), torch.random.fork_rng(devices=[]):
        model, objective = objective_of(name, values)
        exact, estimate = slope(objective, list(model.parameters()), 1e-6)
    assert exact > 1e-3
    assert estimate == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "lstm", "resnet50"])
def test_penalty_is_the_squared_gradient_norm(name: str, ran: Run) -> None:
    values = ran(name).values
    model = values["make_model"]()
    loss = values["loss_of"](model) if name == "gpt2" else values["losses"](model, *values["batch"]())[0]
    assert loss.item() == pytest.approx(values["loss"].item(), rel=1e-4)
    loss.backward()
    total = sum(parameter.grad.pow(2).sum().item() for parameter in model.parameters())
    assert values["penalty"].item() == pytest.approx(total, rel=1e-4)


def test_gpt2_is_causal_and_tied(ran: Run) -> None:
    model = ran("gpt2").values["make_model"]()
    assert model.lm_head.weight is model.wte.weight
    assert len(model.h) == 12
    tokens = torch.arange(8).unsqueeze(0)
    changed = tokens.clone()
    changed[0, -1] = 100
    before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :-1], after[:, :-1])
    assert not torch.allclose(before[:, -1], after[:, -1])


def test_vit_needs_the_math_backend(ran: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    values = ran("vit").values
    assert (len(values["model"].blocks), values["model"].pos_embed.shape) == (12, (1, 37, 192))
    model = values["make_model"](size=32, depth=1)
    _, penalty = values["double_backpropagation"](model, *values["batch"](32))
    penalty.backward()
    # The functions' globals are the script's own.
    monkeypatch.setitem(values["Attention"].forward.__globals__, "sdpa_kernel", lambda _: contextlib.nullcontext())
    _, penalty = values["double_backpropagation"](model, *values["batch"](32))
    with pytest.raises(RuntimeError, match="_scaled_dot_product_flash_attention_for_cpu_backward is not implemented"):
        penalty.backward()


def test_resnet50_is_of_bottlenecks_3_4_6_3(ran: Run) -> None:
    model = ran("resnet50").values["model"]
    assert [len(stage) for stage in (model.layer1, model.layer2, model.layer3, model.layer4)] == [3, 4, 6, 3]
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert len(convolutions) == 53
    # torchvision's ResNet-50 has 25,557,032 parameters, with a last layer for 1,000 classes instead of 10.
    assert sum(parameter.numel() for parameter in model.parameters()) == 25_557_032 - 990 * 2049


def test_lstm_is_torchs_own(ran: Run) -> None:
    values = ran("lstm").values
    model = values["make_model"]()
    whole = nn.LSTM(2, model.cell.hidden_size)
    with torch.no_grad():
        for name, parameter in model.cell.named_parameters():
            whole.get_parameter(f"{name}_l0").copy_(parameter)
    sequence, sums = values["batch"]()
    assert sequence.shape == (200, 4, 2)
    assert torch.equal(sequence[:, :, 1].sum(0), torch.full((4,), 2.0))
    assert torch.allclose((sequence[:, :, 0] * sequence[:, :, 1]).sum(0), sums)
    assert torch.allclose(model(sequence), model.out(whole(sequence)[0][-1]).squeeze(1), atol=1e-6)


def test_maml_first_order_is_the_gradient_at_the_fast_weights(ran: Run) -> None:
    values = ran("maml").values
    with doubles(), torch.random.fork_rng(devices=[]):
        net = values["make_net"](width=6)
        second, first = (values["gradient_of"](net, order) for order in (True, False))
        weights, inner = values["adapt"](net, dict(net.named_parameters()), *values["wave"](5))
        assert len(inner) == 10
        # A copy of the net, trained by torch's own optimizer.
        copy = values["make_net"](width=6)
        optimizer = torch.optim.SGD(copy.parameters(), lr=values["RATE"])
        for value in inner:
            loss = values["mse"](copy, {}, *values["wave"](5))
            assert loss.item() == pytest.approx(value.item(), rel=1e-12)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        for name, parameter in copy.named_parameters():
            assert torch.allclose(parameter, weights[name], rtol=1e-12)
        after = grad(values["mse"](copy, {}, *values["wave"](10, seed=1)), list(copy.parameters()))
        assert torch.allclose(torch.cat([gradient.flatten() for gradient in after]), first, rtol=1e-9)
    assert (second - first).norm() > 0.1 * second.norm()


def test_wgan_gp_penalty_of_a_linear_critic(ran: Run) -> None:
    values = ran("wgan_gp").values
    critic = nn.Linear(2, 1)
    with torch.no_grad():
        critic.weight.copy_(torch.tensor([[3.0, 4.0]]))
    with torch.random.fork_rng(devices=[]):
        penalty = values["gradient_penalty"](critic, values["ring"](5), torch.zeros(5, 2))
    assert penalty.item() == pytest.approx(16)
    penalty.backward()
    # d/dw (|w| - 1)^2 = 2 (|w| - 1) w / |w|
    assert critic.weight.grad is not None
    assert critic.weight.grad[0].tolist() == pytest.approx([8 * 0.6, 8 * 0.8])
    assert critic.bias.grad is None


def test_kdv_derivatives(ran: Run) -> None:
    values = ran("kdv_pinn").values
    residual, xt, net = values["residual"], values["points"](16), values["net"]
    assert residual(values["soliton"], xt)[0].abs().max() < 1e-13
    # u = x^3 t: u_t + 6 u u_x + u_xxx = x^3 + 18 x^5 t^2 + 6 t
    x, t = xt[:, :1], xt[:, 1:]
    found, _ = residual(lambda at: at[:, :1] ** 3 * at[:, 1:], xt)
    assert torch.allclose(found, x**3 + 18 * x**5 * t**2 + 6 * t, rtol=1e-12)
    # The net's third derivative by central differences.
    with torch.no_grad():
        h = 2e-3
        u = {k: net(torch.cat([x + k * h, t], dim=1)) for k in (-2, -1, 1, 2)}
        third = (u[2] - 2 * u[1] + 2 * u[-1] - u[-2]) / (2 * h**3)
    assert torch.allclose(residual(net, xt)[1][3], third, rtol=1e-3, atol=1e-4)


def test_kdv_has_orders_to_three(ran: Run) -> None:
    values = ran("kdv_pinn").values
    found, (u, u_x, u_xx, _) = values["residual"](values["net"], values["points"](4))
    graph = gradgraph.trace(found.pow(2).mean(), values["net"], lower=[u, u_x, u_xx])
    assert graph.graph["orders"] == [0, 1, 2, 3]
