"""The Hessian times a vector, without the Hessian.

The net of `curve_fit.py` has 141 parameters, so its Hessian has 19,881 entries. Along one direction v, the product
H v takes one more backward pass: through the gradient's own graph, from the number g · v. The picture is that graph.

    gradgraph render examples/hessian_vector_product.py:slope -o hessian_vector_product.svg
"""

import torch
from curve_fit import data, make_net, mse
from torch import Tensor, nn
from torch.autograd import grad

import gradgraph


def full_hessian(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The whole Hessian of the loss, by torch itself, as one matrix over all parameters."""
    shapes = {name: parameter.shape for name, parameter in net.named_parameters()}
    sizes = [shape.numel() for shape in shapes.values()]

    def loss_of(flat: Tensor) -> Tensor:
        pieces = flat.split(sizes)
        parameters = {name: piece.view(shapes[name]) for name, piece in zip(shapes, pieces, strict=True)}
        return (torch.func.functional_call(net, parameters, (x,)) - y).pow(2).mean()

    return torch.autograd.functional.hessian(loss_of, nn.utils.parameters_to_vector(net.parameters()).detach())


def random_direction(net: nn.Module) -> dict[str, Tensor]:
    """A random vector in the space of the parameters."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(parameter.shape, dtype=parameter.dtype, generator=generator)
        for name, parameter in net.named_parameters()
    }


def flat(by_name: dict[str, Tensor]) -> Tensor:
    """All entries in one vector."""
    return torch.cat([value.flatten() for value in by_name.values()])


if __name__ == "__main__":
    net = make_net(dtype=torch.float64)
    x, y = data(1000, torch.float64)
    vector = random_direction(net)

    loss = mse(net, x, y)
    product = gradgraph.hvp(loss, net, vector)
    for name, value in product.items():
        print(f"{name}: {list(value.shape)}")

    expected = full_hessian(net, x, y) @ flat(vector)
    error = (flat(product) - expected).norm() / expected.norm()
    print("equal to the full Hessian times the vector:", bool(error < 1e-12))

    # H v is also the derivative of the number g · v, whose graph is made here to look at.
    gradient = grad(loss, list(net.parameters()), create_graph=True)
    slope = nn.utils.parameters_to_vector(gradient).dot(flat(vector))
