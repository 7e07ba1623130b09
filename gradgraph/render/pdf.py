"""PDF from the SVG that Graphviz writes.

Graphviz's SVG speaks a small language: groups with one transform, polygons, polylines, paths of M, L, C and Z,
ellipses, and one-line texts. This module says the same in PDF operators (ISO 32000-1, sections 8 and 9), with the
shipped font embedded, so that text can be selected and searched. General converters were 20 times slower on 5,000
boxes. What is outside that language is refused by name, never dropped.
"""

import functools
import hashlib
import math
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from xml.etree import ElementTree

from gradgraph.errors import RenderError
from gradgraph.render.font import Face, face

__all__ = ["svg_to_pdf"]

# Viewers refuse pages beyond 200 inches; PDF 1.6 enlarges the unit instead (ISO 32000-1, table 30, UserUnit).
_LONGEST_SIDE = 14_400.0
# A quarter circle as a Bezier curve.
_KAPPA = 0.5522847498
_SKIPPED = frozenset({"title", "desc"})
_GROUPS = frozenset({"svg", "g", "a"})
_ITEM = re.compile(r"([A-Za-z])|(-?[0-9.]+(?:[eE][-+]?[0-9]+)?)")
_TRANSFORM = re.compile(r"(\w+)\(([^)]*)\)")


def svg_to_pdf(svg: bytes) -> bytes:
    """One page of the size of the SVG, the same bytes for the same SVG.

    Raises:
        RenderError: the SVG is not one of Graphviz's, or uses what this writer does not know (images, gradients).
    """
    try:
        root = ElementTree.fromstring(svg)  # noqa: S314  # our engine's, and clean_svg took out any DOCTYPE
    except ElementTree.ParseError as error:
        raise RenderError(
            "The PDF cannot be made: expected a well-formed SVG from Graphviz, got one with "
            f"{error}. Write .svg instead."
        ) from error
    width, height = _points(root.get("width")), _points(root.get("height"))
    left, top, across, down = (float(part) for part in (root.get("viewBox") or f"0 0 {width} {height}").split())
    unit = max(1.0, max(width, height) / _LONGEST_SIDE)
    page = _Page()
    # From points down from the top left corner to units up from the bottom left one.
    sx, sy = width / across / unit, height / down / unit
    # Joins as SVG cuts them off by default: 4 times the pen, where PDF takes 10.
    page.say(f"4 M {_n(sx)} 0 0 {_n(-sy)} {_n(-left * sx)} {_n(height / unit + top * sy)} cm")
    page.draw(root)
    return _write(page, width / unit, height / unit, unit)


@dataclass
class _Page:
    """The page's operators, and the fonts and opacities that they name."""

    operators: list[str] = field(default_factory=list)
    used: dict[bool, dict[int, str]] = field(default_factory=lambda: {False: {}, True: {}})
    """Per weight: the glyphs shown, and the character of each."""
    opacities: dict[tuple[float, float], str] = field(default_factory=dict)
    pen: str = ""

    def say(self, operator: str) -> None:
        self.operators.append(operator)

    def draw(self, element: ElementTree.Element) -> None:
        """Draw an element and what it contains."""
        tag = element.tag.rpartition("}")[2]
        if tag in _GROUPS:
            moved = element.get("transform")
            if moved:
                self.say(f"q {_transform(moved)}")
            for child in element:
                self.draw(child)
            if moved:
                self.say("Q")
                self.pen = ""  # Q also brings back the colours and dashes of before q
        elif tag in _SHAPES:
            self._shape(element, _SHAPES[tag](element), closed=tag in ("polygon", "ellipse"))
        elif tag == "text":
            self._text(element)
        elif tag not in _SKIPPED:
            raise _unknown(f"<{tag}>")

    def _shape(self, element: ElementTree.Element, outline: str, *, closed: bool) -> None:
        fill, stroke = element.get("fill", "black"), element.get("stroke", "none")
        filled, stroked = fill not in ("none", "transparent"), stroke not in ("none", "transparent")
        pen = [self._opacity(element)]
        if filled:
            pen.append(f"{_colour(fill)} rg")
        if stroked:
            dashes = element.get("stroke-dasharray", "none").replace(",", " ")
            pen.append(f"{_colour(stroke)} RG {element.get('stroke-width', '1')} w")
            pen.append("[] 0 d" if dashes == "none" else f"[{dashes}] 0 d")
        if filled or stroked:
            self._take(" ".join(pen))
            paint = "B" if filled and stroked else "f" if filled else "S"
            self.say(f"{outline} h {paint}" if closed else f"{outline} {paint}")

    def _text(self, element: ElementTree.Element) -> None:
        text = "".join(element.itertext())
        if not text.strip():
            return
        bold = element.get("font-weight") == "bold"
        chosen, size = face(bold), float(element.get("font-size", "14"))
        glyphs = [chosen.glyph(char) for char in text]
        self.used[bold].update(zip(glyphs, text, strict=True))
        length = sum(chosen.advances[glyph] for glyph in glyphs) * size / chosen.units_per_em
        x = float(element.get("x", "0")) - length * {"middle": 0.5, "end": 1.0}.get(element.get("text-anchor", ""), 0.0)
        self._take(f"{self._opacity(element)} {_colour(element.get('fill', 'black'))} rg")
        shown = "".join(f"{glyph:04X}" for glyph in glyphs)
        turned = element.get("transform")
        place = f"1 0 0 -1 {_n(x)} {element.get('y', '0')} Tm"
        line = f"BT /{'B' if bold else 'R'} {_n(size)} Tf {place} <{shown}> Tj ET"
        self.say(f"q {_transform(turned)} {line} Q" if turned else line)

    def _take(self, pen: str) -> None:
        if pen != self.pen:
            self.say(pen)
            self.pen = pen

    def _opacity(self, element: ElementTree.Element) -> str:
        key = (float(element.get("fill-opacity", "1")), float(element.get("stroke-opacity", "1")))
        return f"/{self.opacities.setdefault(key, f'G{len(self.opacities)}')} gs"


def _points(length: str | None) -> float:
    found = re.fullmatch(r"([0-9.]+)(pt|px|)", length or "")
    if not found or float(found[1]) <= 0:
        raise RenderError(
            f"The PDF cannot be made: expected an SVG with a size in pt, got {length!r}. Write .svg instead."
        )
    return float(found[1])


def _unknown(what: str) -> RenderError:
    return RenderError(
        f"The PDF writer does not know {what}, which is in this graph's SVG. Write .svg or .png instead."
    )


def _n(number: float) -> str:
    return f"{number:.6f}".rstrip("0").rstrip(".") if number else "0"


def _transform(text: str) -> str:
    operators = []
    for name, arguments in _TRANSFORM.findall(text):
        numbers = [float(part) for part in arguments.replace(",", " ").split()]
        if name == "translate":
            operators.append(f"1 0 0 1 {_n(numbers[0])} {_n(numbers[1] if len(numbers) > 1 else 0)} cm")
        elif name == "scale":
            operators.append(f"{_n(numbers[0])} 0 0 {_n(numbers[-1])} 0 0 cm")
        elif name == "rotate" and len(numbers) in (1, 3):
            sin, cos = math.sin(math.radians(numbers[0])), math.cos(math.radians(numbers[0]))
            about = numbers[1:] or [0.0, 0.0]
            dx, dy = about[0] - cos * about[0] + sin * about[1], about[1] - sin * about[0] - cos * about[1]
            operators.append(f"{_n(cos)} {_n(sin)} {_n(-sin)} {_n(cos)} {_n(dx)} {_n(dy)} cm")
        else:
            raise _unknown(f"the transform {name}({arguments})")
    return " ".join(operators)


def _poly(element: ElementTree.Element) -> str:
    numbers = element.get("points", "").replace(",", " ").split()
    pairs = [f"{x} {y}" for x, y in zip(numbers[::2], numbers[1::2], strict=True)]
    return " ".join([f"{pairs[0]} m", *(f"{pair} l" for pair in pairs[1:])])


def _path(element: ElementTree.Element) -> str:
    steps: list[str] = []
    command, numbers = "", list[str]()
    for letter, number in _ITEM.findall(element.get("d", "")):
        if letter:
            command = letter
            if letter in "Zz":
                steps.append("h")
            elif letter not in "MLC":
                raise _unknown(f"the path command {letter}")
        else:
            numbers.append(number)
            if len(numbers) == (6 if command == "C" else 2):
                steps.append(" ".join(numbers) + {"M": " m", "L": " l", "C": " c"}[command])
                numbers = []
                command = "L" if command == "M" else command
    return " ".join(steps)


def _ellipse(element: ElementTree.Element) -> str:
    cx, cy, rx, ry = (float(element.get(name, "0")) for name in ("cx", "cy", "rx", "ry"))
    kx, ky = rx * _KAPPA, ry * _KAPPA
    curves = [
        (cx + rx, cy + ky, cx + kx, cy + ry, cx, cy + ry),
        (cx - kx, cy + ry, cx - rx, cy + ky, cx - rx, cy),
        (cx - rx, cy - ky, cx - kx, cy - ry, cx, cy - ry),
        (cx + kx, cy - ry, cx + rx, cy - ky, cx + rx, cy),
    ]
    return f"{_n(cx + rx)} {_n(cy)} m " + " ".join(f"{' '.join(map(_n, curve))} c" for curve in curves)


_SHAPES: dict[str, Callable[[ElementTree.Element], str]] = {
    "polygon": _poly,
    "polyline": _poly,
    "path": _path,
    "ellipse": _ellipse,
}


@functools.lru_cache(maxsize=4096)
def _colour(text: str) -> str:
    """An SVG colour as three numbers from 0 to 1."""
    digits = _named_colours().get(text.lower(), text.removeprefix("#"))
    if len(digits) == 3:
        digits = "".join(digit * 2 for digit in digits)
    if not re.fullmatch("[0-9a-fA-F]{6}", digits):
        raise _unknown(f"the colour {text!r}")
    return " ".join(_n(int(digits[i : i + 2], 16) / 255) for i in (0, 2, 4))


def _write(page: _Page, width: float, height: float, unit: float) -> bytes:
    """Number the objects and put them into a file (ISO 32000-1, section 7.5)."""
    objects: list[bytes] = [b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>", b""]

    def add(body: str | bytes) -> int:
        objects.append(body.encode("ascii") if isinstance(body, str) else body)
        return len(objects)

    contents = add(_stream("\n".join(page.operators).encode("ascii")))
    fonts = [
        f"/{'B' if bold else 'R'} {_add_font(face(bold), shown, add)} 0 R" for bold, shown in page.used.items() if shown
    ]
    states = [f"/{name} << /ca {_n(fill)} /CA {_n(line)} >>" for (fill, line), name in page.opacities.items()]
    objects[2] = (
        f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {_n(width)} {_n(height)}] /UserUnit {_n(unit)} "
        f"/Contents {contents} 0 R /Resources << /Font << {' '.join(fonts)} >> "
        f"/ExtGState << {' '.join(states)} >> >> >>"
    ).encode("ascii")
    file = bytearray(b"%PDF-1.6\n%\xe2\xe3\xcf\xd3\n")
    places = []
    for number, body in enumerate(objects, start=1):
        places.append(len(file))
        file += b"%d 0 obj\n%b\nendobj\n" % (number, body)
    start, mark = len(file), hashlib.sha256(file).hexdigest()[:32]
    file += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    file += b"".join(b"%010d 00000 n \n" % place for place in places)
    file += b"trailer\n<< /Size %d /Root 1 0 R /ID [<%b> <%b>] >>\n" % (len(objects) + 1, mark.encode(), mark.encode())
    file += b"startxref\n%d\n%%%%EOF\n" % start
    return bytes(file)


def _stream(data: bytes, extra: str = "") -> bytes:
    packed = zlib.compress(data, 6)
    return f"<< /Length {len(packed)} /Filter /FlateDecode {extra}>>\nstream\n".encode() + packed + b"\nendstream"


def _add_font(chosen: Face, shown: dict[int, str], add: Callable[[str | bytes], int]) -> int:
    """Embed one weight as a composite font whose codes are glyph numbers; give the object's number."""
    scale = 1000 / chosen.units_per_em
    file = add(_stream(chosen.data, f"/Length1 {len(chosen.data)} "))
    box = " ".join(_n(round(side * scale)) for side in chosen.bounds)
    descriptor = add(
        f"<< /Type /FontDescriptor /FontName /{chosen.name} /Flags 4 /FontBBox [{box}] /ItalicAngle 0 "
        f"/Ascent {_n(round(chosen.ascent * scale))} /Descent {_n(round(chosen.descent * scale))} /CapHeight 729 "
        f"/StemV {140 if chosen.name.endswith('Bold') else 90} /FontFile2 {file} 0 R >>"
    )
    widths = " ".join(f"{glyph} [{_n(chosen.advances[glyph] * scale)}]" for glyph in sorted(shown))
    descendant = add(
        f"<< /Type /Font /Subtype /CIDFontType2 /BaseFont /{chosen.name} /CIDToGIDMap /Identity /W [{widths}] "
        f"/CIDSystemInfo << /Registry (Adobe) /Ordering (Identity) /Supplement 0 >> /FontDescriptor {descriptor} 0 R >>"
    )
    meanings = [f"<{glyph:04X}> <{char.encode('utf-16-be').hex().upper()}>" for glyph, char in sorted(shown.items())]
    blocks = [meanings[i : i + 100] for i in range(0, len(meanings), 100)]
    unicode = add(
        _stream(
            b"/CIDInit /ProcSet findresource begin 12 dict begin begincmap\n"
            b"/CIDSystemInfo << /Registry (Adobe) /Ordering (UCS) /Supplement 0 >> def\n"
            b"/CMapName /Adobe-Identity-UCS def /CMapType 2 def\n"
            b"1 begincodespacerange <0000> <FFFF> endcodespacerange\n"
            + "".join(f"{len(block)} beginbfchar\n{chr(10).join(block)}\nendbfchar\n" for block in blocks).encode()
            + b"endcmap CMapName currentdict /CMap defineresource pop end end"
        )
    )
    return add(
        f"<< /Type /Font /Subtype /Type0 /BaseFont /{chosen.name} /Encoding /Identity-H "
        f"/DescendantFonts [{descendant} 0 R] /ToUnicode {unicode} 0 R >>"
    )


@functools.cache
def _named_colours() -> dict[str, str]:
    """The names of SVG 1.1, section 4.4, which Graphviz passes on as they are."""
    words = _COLOURS.split()
    return dict(zip(words[::2], words[1::2], strict=True))


_COLOURS = """
    aliceblue f0f8ff antiquewhite faebd7 aqua 00ffff aquamarine 7fffd4 azure f0ffff beige f5f5dc bisque ffe4c4 black
    000000 blanchedalmond ffebcd blue 0000ff blueviolet 8a2be2 brown a52a2a burlywood deb887 cadetblue 5f9ea0
    chartreuse 7fff00 chocolate d2691e coral ff7f50 cornflowerblue 6495ed cornsilk fff8dc crimson dc143c cyan 00ffff
    darkblue 00008b darkcyan 008b8b darkgoldenrod b8860b darkgray a9a9a9 darkgreen 006400 darkgrey a9a9a9 darkkhaki
    bdb76b darkmagenta 8b008b darkolivegreen 556b2f darkorange ff8c00 darkorchid 9932cc darkred 8b0000 darksalmon
    e9967a darkseagreen 8fbc8f darkslateblue 483d8b darkslategray 2f4f4f darkslategrey 2f4f4f darkturquoise 00ced1
    darkviolet 9400d3 deeppink ff1493 deepskyblue 00bfff dimgray 696969 dimgrey 696969 dodgerblue 1e90ff firebrick
    b22222 floralwhite fffaf0 forestgreen 228b22 fuchsia ff00ff gainsboro dcdcdc ghostwhite f8f8ff gold ffd700
    goldenrod daa520 gray 808080 green 008000 greenyellow adff2f grey 808080 honeydew f0fff0 hotpink ff69b4
    indianred cd5c5c indigo 4b0082 ivory fffff0 khaki f0e68c lavender e6e6fa lavenderblush fff0f5 lawngreen 7cfc00
    lemonchiffon fffacd lightblue add8e6 lightcoral f08080 lightcyan e0ffff lightgoldenrodyellow fafad2 lightgray
    d3d3d3 lightgreen 90ee90 lightgrey d3d3d3 lightpink ffb6c1 lightsalmon ffa07a lightseagreen 20b2aa lightskyblue
    87cefa lightslategray 778899 lightslategrey 778899 lightsteelblue b0c4de lightyellow ffffe0 lime 00ff00
    limegreen 32cd32 linen faf0e6 magenta ff00ff maroon 800000 mediumaquamarine 66cdaa mediumblue 0000cd
    mediumorchid ba55d3 mediumpurple 9370db mediumseagreen 3cb371 mediumslateblue 7b68ee mediumspringgreen 00fa9a
    mediumturquoise 48d1cc mediumvioletred c71585 midnightblue 191970 mintcream f5fffa mistyrose ffe4e1 moccasin
    ffe4b5 navajowhite ffdead navy 000080 oldlace fdf5e6 olive 808000 olivedrab 6b8e23 orange ffa500 orangered
    ff4500 orchid da70d6 palegoldenrod eee8aa palegreen 98fb98 paleturquoise afeeee palevioletred db7093 papayawhip
    ffefd5 peachpuff ffdab9 peru cd853f pink ffc0cb plum dda0dd powderblue b0e0e6 purple 800080 rebeccapurple 663399
    red ff0000 rosybrown bc8f8f royalblue 4169e1 saddlebrown 8b4513 salmon fa8072 sandybrown f4a460 seagreen 2e8b57
    seashell fff5ee sienna a0522d silver c0c0c0 skyblue 87ceeb slateblue 6a5acd slategray 708090 slategrey 708090
    snow fffafa springgreen 00ff7f steelblue 4682b4 tan d2b48c teal 008080 thistle d8bfd8 tomato ff6347 turquoise
    40e0d0 violet ee82ee wheat f5deb3 white ffffff whitesmoke f5f5f5 yellow ffff00 yellowgreen 9acd32
"""
