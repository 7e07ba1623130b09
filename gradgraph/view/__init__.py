"""Views: `fold`, `focus` and `path` make of a graph one that is small enough to look at. Without torch."""

from gradgraph.view.focusing import focus, path
from gradgraph.view.folding import By, fold
from gradgraph.view.views import View

__all__ = ["By", "View", "focus", "fold", "path"]
