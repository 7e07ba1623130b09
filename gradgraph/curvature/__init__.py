"""Hessians of a scalar loss: its diagonal, its blocks, its products with vectors, and which operations it is from."""

from gradgraph.curvature.blocks import HessianBlocks, hessian
from gradgraph.curvature.diagonal import hessian_diagonal
from gradgraph.curvature.products import HessianOperator, hvp
from gradgraph.curvature.report import ParameterReport
from gradgraph.curvature.result import HessianDiagonal
from gradgraph.curvature.split import curvature
from gradgraph.curvature.split_result import Curvature

__all__ = [
    "Curvature",
    "HessianBlocks",
    "HessianDiagonal",
    "HessianOperator",
    "ParameterReport",
    "curvature",
    "hessian",
    "hessian_diagonal",
    "hvp",
]
