"""The shipped font: which glyphs it has and how wide they are, read from the TrueType file with the standard library.

The same two files measure text for the DOT emitter, draw it into PNGs and are embedded into PDFs, so that a box that
was sized here fits its text whatever fonts a machine has. They carry no kerning and no ligatures: a width is a sum.
"""

import functools
import struct
import unicodedata
from dataclasses import dataclass
from pathlib import Path

__all__ = ["FONT_FAMILY", "FONT_FAMILY_BOLD", "Face", "face", "font_files", "text_width"]

# Verdana and Geneva (Windows, macOS) have nearly the widths of DejaVu Sans: all descend from or imitate one design.
FONT_FAMILY = "DejaVu Sans,Verdana,Geneva,sans-serif"
# Pango reads the trailing word as a weight; `image.clean_svg` turns it into font-weight, which browsers understand.
FONT_FAMILY_BOLD = f"{FONT_FAMILY} bold"

_FOLDER = Path(__file__).parent / "fonts"


@dataclass(frozen=True)
class Face:
    """One weight of the font. Lengths are in font units, `units_per_em` to the font's size."""

    name: str
    data: bytes
    units_per_em: int
    ascent: int
    descent: int
    bounds: tuple[int, int, int, int]
    glyphs: dict[int, int]
    """Code point to glyph number."""
    advances: tuple[int, ...]
    """Advance width by glyph number."""

    def glyph(self, char: str) -> int:
        """The glyph of one character; 0, an empty box, where the font has none."""
        return self.glyphs.get(ord(char), 0)

    def width(self, char: str) -> int:
        """The advance of one character; where the font has none, the usual width of its script."""
        glyph = self.glyph(char)
        if glyph:
            return self.advances[glyph]
        if unicodedata.category(char) in ("Mn", "Me"):
            return 0
        return self.units_per_em if unicodedata.east_asian_width(char) in "WF" else self.advances[0]


@functools.lru_cache(maxsize=8192)
def text_width(text: str, size_pt: float, bold: bool = False) -> float:
    """The width in points of one line of text, set in the shipped font.

    >>> round(text_width("AddmmBackward0", 10), 1)
    94.4
    """
    chosen = face(bold)
    return sum(map(chosen.width, text)) * size_pt / chosen.units_per_em


def font_files() -> list[str]:
    """Paths of the shipped font files."""
    return [str(_path(False)), str(_path(True))]


@functools.cache
def face(bold: bool = False) -> Face:
    """Read one weight of the shipped font, once."""
    data = _path(bold).read_bytes()
    tables = {
        tag.decode("ascii"): (offset, length)
        for tag, _, offset, length in struct.iter_unpack(
            ">4sIII", data[12 : 12 + 16 * struct.unpack_from(">H", data, 4)[0]]
        )
    }
    head, hhea, hmtx = tables["head"][0], tables["hhea"][0], tables["hmtx"][0]
    measured = struct.unpack_from(">H", data, hhea + 34)[0]
    advances = struct.unpack_from(">" + "Hh" * measured, data, hmtx)[::2]
    total = struct.unpack_from(">H", data, tables["maxp"][0] + 4)[0]
    return Face(
        name="DejaVuSans-Bold" if bold else "DejaVuSans",
        data=data,
        units_per_em=struct.unpack_from(">H", data, head + 18)[0],
        ascent=struct.unpack_from(">h", data, hhea + 4)[0],
        descent=struct.unpack_from(">h", data, hhea + 6)[0],
        bounds=struct.unpack_from(">hhhh", data, head + 36),
        glyphs=_character_map(data, tables["cmap"][0]),
        advances=advances + advances[-1:] * (total - measured),
    )


def _path(bold: bool) -> Path:
    return _FOLDER / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")


def _character_map(data: bytes, cmap: int) -> dict[int, int]:
    """Decode the cmap subtable of format 4 (OpenType 1.9, "cmap"): segments of code points with a delta or an index."""
    count = struct.unpack_from(">H", data, cmap + 2)[0]
    offsets = [struct.unpack_from(">HHI", data, cmap + 4 + 8 * i)[2] for i in range(count)]
    start = next(cmap + offset for offset in offsets if struct.unpack_from(">H", data, cmap + offset)[0] == 4)
    doubled = struct.unpack_from(">H", data, start + 6)[0]
    segments = doubled // 2
    ends = struct.unpack_from(f">{segments}H", data, start + 14)
    begins = struct.unpack_from(f">{segments}H", data, start + 16 + doubled)
    deltas = struct.unpack_from(f">{segments}H", data, start + 16 + 2 * doubled)
    ranges_at = start + 16 + 3 * doubled
    ranges = struct.unpack_from(f">{segments}H", data, ranges_at)
    glyphs = {}
    for i, (begin, end, delta, reach) in enumerate(zip(begins, ends, deltas, ranges, strict=True)):
        for code in range(begin, min(end, 0xFFFE) + 1):
            if reach:
                found = struct.unpack_from(">H", data, ranges_at + 2 * i + reach + 2 * (code - begin))[0]
                glyph = (found + delta) & 0xFFFF if found else 0
            else:
                glyph = (code + delta) & 0xFFFF
            if glyph:
                glyphs[code] = glyph
    return glyphs
