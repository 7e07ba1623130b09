"""A vision transformer made smooth in its input: double backpropagation through 12 blocks of attention.

Drucker and LeCun's double backpropagation adds the squared gradient of the loss by the *input* to the loss, so that a
small change of the picture changes little. ViT-Tiny: 12 blocks, width 192, 3 heads, patches of 16 x 16 pixels.
torch's fast attention kernels have no second derivative ("derivative for aten::_scaled_dot_product_flash_attention_...
is not implemented"); under `sdpa_kernel(SDPBackend.MATH)` it is made of operations that have.

    gradgraph render examples/vit.py --depth 2 --expand model.blocks -o vit.svg
"""

import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.nn.attention import SDPBackend, sdpa_kernel


class Attention(nn.Module):
    """Self-attention over all patches."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        with sdpa_kernel(SDPBackend.MATH):
            mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).reshape(batch, length, width))


class Block(nn.Module):
    """Attention and an MLP, each behind a norm and beside a residual connection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Images [batch, 3, size, size] to scores [batch, classes]."""

    def __init__(self, size: int = 96, depth: int = 12, width: int = 192, heads: int = 3, classes: int = 10) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, width, 16, stride=16)
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 1 + (size // 16) ** 2, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch_embed(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(images), -1, -1), patches], dim=1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])


def make_model(**sizes: int) -> ViT:
    torch.manual_seed(0)
    return ViT(**sizes)


def batch(size: int = 96) -> tuple[Tensor, Tensor]:
    """Two noisy pictures and their labels."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, size, size, generator=generator), torch.tensor([3, 7])


def double_backpropagation(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The loss, and the squared norm of its gradient by the images."""
    images = images.requires_grad_()
    loss = nn.functional.cross_entropy(model(images), labels)
    (gradient,) = grad(loss, images, create_graph=True)
    return loss, gradient.pow(2).sum()


if __name__ == "__main__":
    model = make_model()
    loss, penalty = double_backpropagation(model, *batch())
    print(f"{sum(parameter.numel() for parameter in model.parameters()):,} parameters")
    print(f"loss {loss.item():.4f}, squared norm of its gradient by the images {penalty.item():.4f}")

    (loss + penalty).backward()
    norms = torch.stack([block.attn.qkv.weight.grad.norm() for block in model.blocks])
    print("gradient norm at each block's qkv.weight:", [round(norm, 3) for norm in norms.tolist()])
