"""Hessians of a scalar loss: its diagonal, its blocks, its products with vectors."""

from gradgraph.curvature.blocks import HessianBlocks, hessian
from gradgraph.curvature.diagonal import HessianDiagonal, hessian_diagonal
from gradgraph.curvature.products import HessianOperator, hvp
from gradgraph.curvature.report import ParameterReport

__all__ = ["HessianBlocks", "HessianDiagonal", "HessianOperator", "ParameterReport", "hessian", "hessian_diagonal", "hvp"]
