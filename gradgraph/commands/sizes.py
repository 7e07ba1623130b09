"""Sizes of memory as people write them."""

from __future__ import annotations

import re

import click

__all__ = ["SIZE", "SizeType"]

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {
    f"{prefix}{unit}": 2**power
    for prefix, power in zip("kmgt", (10, 20, 30, 40), strict=True)
    for unit in ("", "i", "ib")
}
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*")


class SizeType(click.ParamType):  # type: ignore[type-arg]  # generic only since click 8.4
    """`512MiB`, `2G`, `1.5GB`, `65536`: a positive number of bytes."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number of bytes. A click.BadParameter says what a size looks like."""
        if isinstance(value, int):
            return value
        found = _SIZE.fullmatch(str(value))
        factor = _UNITS.get(found[2].lower()) if found else None
        size = 0 if found is None or factor is None else int(float(found[1]) * factor)
        if size < 1:
            self.fail(f"{value!r} is no size; expected a positive number of bytes, such as 512MiB or 2GB.", param, ctx)
        return size


SIZE = SizeType()
