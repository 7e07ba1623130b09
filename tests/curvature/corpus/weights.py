"""How a parameter can come into a loss: shared, sliced, packed, parametrized, elementwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, parametrize

from tests.curvature.corpus.build import Build, Built, Params, named, of_module, randn


def siamese() -> Built:
    module = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    a, b = randn(4, 2), randn(4, 2)
    return of_module(module, lambda call: (call(a) - call(b)).square().sum(1).neg().exp().mean())


def two_losses_of_one_net() -> Built:
    """Two batches of different sizes through the same layers."""
    module = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    a, b = randn(4, 2), randn(2, 2)
    return of_module(module, lambda call: call(a).exp().mean() + call(b).square().mean())


def twice_in_a_row() -> Built:
    module = nn.Linear(3, 3)
    x = randn(4, 3)
    return of_module(module, lambda call: call(call(x).tanh()).exp().mean())


def twice_without_anything_between() -> Built:
    params = {"w": randn(3, 3)}
    x = randn(4, 3)
    return lambda p: (x @ p["w"] @ p["w"]).square().mean(), params


def weight_and_its_transpose() -> Built:
    """A tied autoencoder."""
    params = {"w": randn(2, 3), "b": randn(2), "c": randn(3)}
    x = randn(4, 3)

    def loss(p: Params) -> Tensor:
        hidden = functional.linear(x, p["w"], p["b"]).tanh()
        return functional.mse_loss(functional.linear(hidden, p["w"].t(), p["c"]), x)

    return loss, params


def weight_in_a_penalty_of_another() -> Built:
    """The penalty couples weights of different layers."""
    params = {"a": randn(3, 2), "b": randn(2, 3)}
    x = randn(4, 2)

    def loss(p: Params) -> Tensor:
        out = functional.linear(functional.linear(x, p["a"]).tanh(), p["b"])
        return out.exp().mean() + (p["a"] * p["b"].t()).square().sum()

    return loss, params


def input_that_depends_on_the_weight() -> Built:
    """The input of the layer is computed from its own weight."""
    params = {"w": randn(3, 3)}
    x = randn(4, 3)
    return lambda p: functional.linear(x * p["w"].sum(0).sin(), p["w"]).exp().mean(), params


def scale_and_shift() -> Built:
    params = {"scale": randn(3), "shift": randn(3)}
    x = randn(4, 3)
    return lambda p: (p["scale"] * x + p["shift"]).tanh().exp().mean(), params


def scale_of_every_entry() -> Built:
    """As large as the data: no broadcast."""
    params = {"scale": randn(3, 2)}
    x = randn(3, 2)
    return lambda p: (p["scale"] * x).sin().sum() ** 2, params


def scale_of_samples() -> Built:
    params = {"scale": randn(4, 1), "w": randn(2, 3)}
    x = randn(4, 3)
    return lambda p: (p["scale"] * functional.linear(x, p["w"])).exp().mean(), params


def divided_and_raised() -> Built:
    params = {"divisor": 2 + randn(3).square(), "exponent": 1 + randn(3).square()}
    x = randn(4, 3).abs() + 0.1
    return lambda p: ((x / p["divisor"]) ** p["exponent"]).sum(), params


def prelu() -> Built:
    module = nn.Sequential(nn.Linear(2, 3), nn.PReLU(3), nn.Linear(3, 3), nn.PReLU(), nn.Linear(3, 1))
    x = randn(4, 2)
    return of_module(module, lambda call: call(x).exp().sum())


def temperature() -> Built:
    class Calibrated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 3)
            self.log_temperature = nn.Parameter(torch.tensor(0.3))

        def forward(self, x: Tensor) -> Any:
            return self.linear(x) * self.log_temperature.exp()

    x = randn(4, 2)
    return of_module(Calibrated(), lambda call: functional.cross_entropy(call(x), torch.tensor([0, 1, 2, 1])))


def layer_scale() -> Built:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)
            self.gamma = nn.Parameter(0.1 * torch.ones(3))

        def forward(self, x: Tensor) -> Any:
            return x + self.gamma * self.linear(x).tanh()

    x = randn(2, 3, 3)
    return of_module(Block(), lambda call: call(x).exp().mean())


def bilinear() -> Built:
    a, b = randn(4, 2), randn(4, 3)
    return of_module(nn.Bilinear(2, 3, 2), lambda call: call(a, b).exp().mean())


def products() -> Built:
    """addmm with factors, mm, mv, dot, bmm, outer."""
    params = {"a": randn(2, 3), "b": randn(3, 2), "c": randn(3), "v": randn(2), "s": randn(3, 2, 2)}
    x = randn(4, 2)

    def loss(p: Params) -> Tensor:
        z = torch.addmm(p["c"], x, p["a"], beta=0.5, alpha=2.0)
        z = z.mm(p["b"]).tanh()
        y = z.mv(p["v"])
        batched = torch.bmm(z.expand(3, 4, 2), p["s"])
        return (y.dot(y) + batched.exp().mean() + torch.outer(p["v"], y).sin().sum()).tanh()

    return loss, params


def broadcast_matmul() -> Built:
    params = {"w": randn(2, 3, 2), "one": randn(2, 2)}
    x = randn(4, 1, 2, 3)
    return lambda p: (x @ p["w"] @ p["one"]).tanh().exp().mean(), params


def tokens_mixed_by_a_weight() -> Built:
    """As in an MLP-Mixer: weights on the left, too."""
    params = {"scale": randn(3), "shift": randn(3), "mix": randn(3, 2), "weight": randn(2, 3)}
    x = randn(3, 2, 3)

    def loss(p: Params) -> Tensor:
        normal = functional.layer_norm(x, (3,), p["scale"], p["shift"])
        return functional.linear(p["mix"] @ normal, p["weight"]).softmax(-1).log().square().sum()

    return loss, params


def einsum() -> Built:
    params = {"q": randn(2, 3, 2), "core": randn(2, 2, 2)}
    x = randn(4, 3)

    def loss(p: Params) -> Tensor:
        heads = torch.einsum("nd,hdk->nhk", x, p["q"])
        return torch.einsum("nhk,hkj,nhj->n", heads, p["core"], heads).tanh().exp().sum()

    return loss, params


class Directions(nn.Module):
    """Rows of norm 1."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight / weight.square().sum(dim=1, keepdim=True).sqrt()


class WeightNorm(nn.Module):
    """Length times direction, out of ordinary operations: torch's own is wrong when it is differentiated twice."""

    def __init__(self) -> None:
        super().__init__()
        self.length = nn.Parameter(torch.randn(3, 1))
        self.linear = nn.Linear(2, 3)
        parametrize.register_parametrization(self.linear, "weight", Directions())

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.length * self.linear.weight, self.linear.bias)


def weight_norm() -> Built:
    module = nn.Sequential(WeightNorm(), nn.Tanh(), nn.Linear(3, 1))
    x = randn(4, 2)
    return of_module(module, lambda call: call(x).exp().sum())


def spectral_norm() -> Built:
    """In eval mode, where no power iteration changes the buffers."""
    module = nn.Sequential(parametrizations.spectral_norm(nn.Linear(2, 3)), nn.Tanh(), nn.Linear(3, 1)).eval()
    x = randn(4, 2)
    return of_module(module, lambda call: call(x).exp().sum())


def low_rank_adapter() -> Built:
    params = {"w": randn(3, 3), "a": randn(1, 3), "b": randn(3, 1)}
    x = randn(4, 3)
    return lambda p: functional.linear(x, p["w"] + 0.5 * p["b"] @ p["a"]).tanh().exp().mean(), params


def hypernetwork() -> Built:
    """The weight is the output of a Linear."""
    params = {"code": randn(2), "generator": randn(6, 2), "bias": randn(6)}
    x = randn(4, 3)

    def loss(p: Params) -> Tensor:
        weight = functional.linear(p["code"], p["generator"], p["bias"]).tanh().view(2, 3)
        return functional.linear(x, weight).exp().mean()

    return loss, params


def masked_weight() -> Built:
    params = {"w": randn(3, 3)}
    x, mask = randn(4, 3), torch.ones(3, 3, dtype=torch.float64).tril()
    return lambda p: functional.linear(x, p["w"] * mask).tanh().exp().mean(), params


def symmetric_weight() -> Built:
    params = {"w": randn(3, 3)}
    x = randn(4, 3)
    return lambda p: (x @ (p["w"] + p["w"].t())).tanh().exp().mean(), params


def softmax_mixture() -> Built:
    """Experts mixed by a gate that is learned, and by weights that are."""
    params = {"gate": randn(3, 2), "experts": randn(3, 2, 2), "mix": randn(3)}
    x = randn(4, 2)

    def loss(p: Params) -> Tensor:
        gates = functional.linear(x, p["gate"]).softmax(1) * p["mix"].softmax(0)
        return (torch.einsum("nd,edk->nek", x, p["experts"]).tanh() * gates[..., None]).sum(1).exp().mean()

    return loss, params


def packed_slices() -> Built:
    """All weights of an MLP in one vector."""
    params = {"theta": randn(17)}
    x = randn(4, 2)

    def loss(p: Params) -> Tensor:
        theta = p["theta"]
        hidden = functional.linear(x, theta[:6].view(3, 2), theta[6:9]).tanh()
        return functional.linear(hidden, theta[9:15].view(2, 3), theta[15:]).exp().mean()

    return loss, params


def packed_chunks() -> Built:
    """Three projections in one matrix."""
    params = {"qkv": randn(9, 3)}
    x = randn(2, 3, 3)

    def loss(p: Params) -> Tensor:
        q, k, v = functional.linear(x, p["qkv"]).chunk(3, dim=-1)
        return ((q @ k.transpose(1, 2)).softmax(-1) @ v).square().sum()

    return loss, params


def packed_weight_chunks() -> Built:
    """The matrix is taken apart before it is used."""
    params = {"w": randn(3, 6)}
    x = randn(4, 3)

    def loss(p: Params) -> Tensor:
        a, b = p["w"].chunk(2, dim=1)
        return (x @ a).tanh().mm(b).exp().mean()

    return loss, params


def joined() -> Built:
    """One matrix made of several parameters."""
    params = {"top": randn(1, 3), "rows": randn(2, 3), "column": randn(3)}
    x = randn(4, 4)

    def loss(p: Params) -> Tensor:
        weight = torch.cat([torch.cat([p["top"], p["rows"]]), torch.stack([p["column"]]).t()], dim=1)
        return functional.linear(x, weight).tanh().exp().mean()

    return loss, params


def transposed_and_viewed() -> Built:
    params = {"w": randn(2, 3, 2), "u": randn(6)}
    x = randn(4, 3)

    def loss(p: Params) -> Tensor:
        z = x @ p["w"].permute(1, 2, 0).flatten(1)
        return (z.view(4, 2, 2).transpose(1, 2) @ p["u"].view(3, 2).t()[:, 1:]).exp().mean()

    return loss, params


def only_some_rows() -> Built:
    params = {"w": randn(4, 3)}
    x = randn(4, 3)
    return lambda p: functional.linear(x, p["w"][1:3]).exp().mean(), params


def expanded() -> Built:
    params = {"row": randn(3), "scalar": randn()}
    x = randn(4, 3)
    return lambda p: functional.linear(x, p["row"].expand(2, 3), p["scalar"].expand(2)).exp().mean(), params


def rolled_and_flipped() -> Built:
    """A circulant matrix of one vector."""
    params = {"c": randn(3)}
    x = randn(4, 3)
    return lambda p: (x @ torch.stack([p["c"].roll(i).flip(0) for i in range(3)])).tanh().exp().mean(), params


def triangular() -> Built:
    """A Cholesky factor out of a vector."""
    params = {"l": randn(6)}
    x = randn(4, 3)

    def loss(p: Params) -> Tensor:
        row, column = torch.tril_indices(3, 3)
        factor = torch.zeros(3, 3, dtype=torch.float64).index_put((row, column), p["l"])
        return (x @ factor).square().sum(1).mul(-0.5).exp().sum() - factor.diagonal().square().log().sum()

    return loss, params


def changed_in_place() -> Built:
    params = {"w": randn(2, 3), "b": randn(2)}
    x = randn(4, 3)

    def loss(p: Params) -> Tensor:
        z = functional.linear(x, p["w"])
        z += p["b"]
        z[1:3] *= 2
        return z.tanh().exp().mean()

    return loss, params


def inputs_learned() -> Built:
    """Prompts: the input is a parameter, and so is the weight."""
    module = nn.Linear(2, 3)
    plain: Callable[[Any], Any] = nn.Tanh()
    params = {"prompt": randn(4, 2), "weight": module.weight.detach().double(), "bias": module.bias.detach().double()}
    return lambda p: plain(functional.linear(p["prompt"], p["weight"], p["bias"])).exp().mean(), params


def fourier() -> Built:
    """A filter in frequency space: complex numbers between real ones."""
    params = {"real": randn(3), "imaginary": randn(3)}
    x = randn(2, 4)

    def loss(p: Params) -> Tensor:
        mixed = torch.fft.rfft(x) * torch.complex(p["real"], p["imaginary"])
        back: Tensor = torch.fft.irfft(mixed)
        return back.tanh().exp().mean()

    return loss, params


def triangular_solve() -> Built:
    params = {"a": randn(3, 3) + 3 * torch.eye(3), "b": randn(3, 2)}
    return lambda p: torch.linalg.solve(p["a"], p["b"]).exp().sum() + torch.linalg.inv(p["a"]).square().sum(), params


def no_curvature() -> Built:
    params = {"w": randn(2, 3), "curved": randn(2)}
    x = randn(4, 3)
    return lambda p: (functional.linear(x, p["w"])).sum() + p["curved"].exp().sum(), params


CASES: Mapping[str, Build] = named(
    siamese,
    two_losses_of_one_net,
    twice_in_a_row,
    twice_without_anything_between,
    weight_and_its_transpose,
    weight_in_a_penalty_of_another,
    input_that_depends_on_the_weight,
    scale_and_shift,
    scale_of_every_entry,
    scale_of_samples,
    divided_and_raised,
    prelu,
    temperature,
    layer_scale,
    bilinear,
    products,
    broadcast_matmul,
    tokens_mixed_by_a_weight,
    einsum,
    weight_norm,
    spectral_norm,
    low_rank_adapter,
    hypernetwork,
    masked_weight,
    symmetric_weight,
    softmax_mixture,
    packed_slices,
    packed_chunks,
    packed_weight_chunks,
    joined,
    transposed_and_viewed,
    only_some_rows,
    expanded,
    rolled_and_flipped,
    triangular,
    changed_in_place,
    inputs_learned,
    fourier,
    triangular_solve,
    no_curvature,
)
