"""Products of the Hessian with many vectors, several in one pass where vmap can."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gradgraph.curvature.budget import chunk_for
from gradgraph.curvature.first_order import FirstOrder
from gradgraph.curvature.rows import Plan, products_of

__all__ = ["ManyProducts"]


class ManyProducts:
    """Products of the Hessian over some parameters, seen as one vector: their entries flattened, one after the other.

    Attributes:
        size: how many entries there are.
        dtype: of the products; float32 at least, whatever the parameters are.
        device: where the products are; the first parameter's.
        plan: vectors per pass, why so many, and the passes that were run.
        curved: per parameter whether anything depended on it.
    """

    def __init__(
        self, order: FirstOrder, names: Sequence[str], *, chunk_size: int | None = None, memory: int | None = None
    ) -> None:
        self._order = order
        self._tensors = [order.tensors[name] for name in names]
        gradients = [order.gradients[name].reshape(-1) for name in names]
        self._sizes = [one.numel() for one in gradients]
        self.size = sum(self._sizes)
        self.device = gradients[0].device
        with torch.enable_grad():
            self._gradient = torch.cat([one.to(self.device) for one in gradients])
        self.dtype = torch.promote_types(self._gradient.dtype, torch.float32)
        self.plan = Plan(*chunk_for(self._gradient, chunk_size, memory))
        self.curved = dict.fromkeys(names, False)

    def of(self, vectors: Tensor) -> Tensor:
        """The products with the rows of `vectors`, `[k, size]`, as rows."""
        products = torch.zeros(len(vectors), self.size, dtype=self.dtype, device=self.device)
        columns = torch.split(products, self._sizes, 1)
        chunks = products_of(
            self._gradient, self._tensors, vectors.to(self._gradient.dtype), self.plan, self._order.reset
        )
        for start, rows in chunks:
            for name, column, row in zip(self.curved, columns, rows, strict=True):
                if row is not None:
                    self.curved[name] = True
                    column[start : start + len(row)] = row.detach().reshape(len(row), -1)
        return products

    def split(self, vector: Tensor) -> dict[str, Tensor]:
        """One vector `[size]` by parameter: shapes, dtypes and devices are theirs."""
        return {
            name: part.to(tensor.device, tensor.dtype).view(tensor.shape)
            for name, tensor, part in zip(self.curved, self._tensors, torch.split(vector, self._sizes), strict=True)
        }
