"""A penalty on the gradient of ResNet-50: double backward through 53 convolutions, each with its BatchNorm.

The loss plus 0.01 times the squared norm of its gradient by all parameters, a regulariser that large learning rates
have without being asked (Barrett and Dherin). Bottlenecks [3, 4, 6, 3] of full width, two pictures of 64 x 64 pixels.
ReLU and convolutions add nothing to the curvature of a layer by itself: BatchNorm and the loss do.

    gradgraph render examples/resnet50.py --depth 2 --expand model.layer4 -o resnet50.svg
"""

import torch
from torch import Tensor, nn
from torch.autograd import grad


class Bottleneck(nn.Module):
    """1 x 1 to the inner width, 3 x 3, 1 x 1 to four times that; added to its input."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        nn.init.constant_(self.bn3.weight, 0.2)  # begins near the identity, so that gradients begin tame
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != 4 * width:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn2(self.conv2(y)).relu()
        return (self.bn3(self.conv3(y)) + self.downsample(x)).relu()


def stage(inputs: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    first = Bottleneck(inputs, width, stride)
    return nn.Sequential(first, *(Bottleneck(4 * width, width, 1) for _ in range(blocks - 1)))


class ResNet50(nn.Module):
    """Images [batch, 3, height, width] to scores [batch, classes]; `width` of the first stage's bottlenecks."""

    def __init__(self, width: int = 64, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        self.layer1 = stage(width, width, 3, 1)
        self.layer2 = stage(4 * width, 2 * width, 4, 2)
        self.layer3 = stage(8 * width, 4 * width, 6, 2)
        self.layer4 = stage(16 * width, 8 * width, 3, 2)
        self.fc = nn.Linear(32 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.maxpool(self.bn1(self.conv1(images)).relu())
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


def make_model(**sizes: int) -> ResNet50:
    torch.manual_seed(0)
    return ResNet50(**sizes)


def batch(size: int = 64) -> tuple[Tensor, Tensor]:
    """Two noisy pictures and their labels."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, size, size, generator=generator), torch.tensor([3, 7])


def losses(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The loss, and the squared norm of its gradient by all parameters."""
    loss = nn.functional.cross_entropy(model(images), labels)
    gradients = grad(loss, list(model.parameters()), create_graph=True)
    return loss, sum(gradient.pow(2).sum() for gradient in gradients)


if __name__ == "__main__":
    model = make_model()
    loss, penalty = losses(model, *batch())
    print(f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters")
    print(f"loss {loss.item():.4f}, squared gradient norm {penalty.item():.2f}")

    (loss + 0.01 * penalty).backward()
    for name in ("conv1", "layer1.0.conv2", "layer4.2.conv2", "fc"):
        print(f"gradient norm at {name}.weight: {model.get_submodule(name).weight.grad.norm().item():.3f}")
