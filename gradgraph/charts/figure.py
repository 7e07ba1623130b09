"""A figure that a notebook shows as it is, without pyplot and without `%matplotlib inline`."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from gradgraph.charts.canvas import bytes_of, drawing

__all__ = ["Chart"]

_CSS_DPI = 96  # pixels to an inch in a browser; what is drawn has more, for screens that show more


class Chart(Figure):
    """A `matplotlib.figure.Figure` with a picture of itself for notebooks."""

    def _repr_png_(self) -> tuple[bytes, dict[str, Any]]:
        width, height = self.get_size_inches()
        with drawing("a chart"):
            return bytes_of(self, "png"), {"width": round(width * _CSS_DPI), "height": round(height * _CSS_DPI)}
