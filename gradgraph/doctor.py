"""What this installation can do, found out by doing it."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from gradgraph import __version__
from gradgraph.errors import GradGraphError

__all__ = ["Check", "Report", "examine"]

_SAMPLE = 'digraph { a [label="AddBackward0"]; b [label="leaf"]; a -> b }'
_SECONDS = 20.0

#: Packages that a few commands need: the extra that has each, and what for.
_OPTIONAL = {
    "matplotlib": ("plot", "charts, as of gradgraph hessian --plot and --heat-map"),
    "safetensors": ("save", "gradgraph hessian --save"),
}


@dataclass(frozen=True)
class Check:
    """One finding: `ok` is None where it only informs."""

    name: str
    ok: bool | None
    detail: str


@dataclass(frozen=True)
class Report:
    """All checks, and whether any picture can be made here."""

    checks: tuple[Check, ...]
    can_draw: bool

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {"can_draw": self.can_draw, "checks": [asdict(check) for check in self.checks]}

    def to_text(self) -> str:
        """One line a check, and a verdict."""
        width = max(len(check.name) for check in self.checks)
        marks = {True: "ok", False: "NO", None: "--"}
        lines = [f"{marks[check.ok]:2}  {check.name:{width}}  {check.detail}" for check in self.checks]
        verdict = (
            "Pictures can be drawn."
            if self.can_draw
            else "Nothing here can draw a picture: see the lines marked NO. `gradgraph render -o graph.dot`, `trace`, "
            "`summary` and `memory` work without."
        )
        return "\n".join([*lines, "", verdict])


def examine() -> Report:
    """Look at versions, draw a small picture with every engine, look for a GPU. Takes a few seconds; never raises."""
    from gradgraph.render.engines import engines

    checks = [
        Check("gradgraph", None, __version__),
        Check("python", None, f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        *_torch(),
    ]
    drawing = []
    for engine in engines():
        found = " ".join(part for part in (engine.version, engine.path and f"at {engine.path}") if part)
        if not engine.available:
            # One engine is enough: a missing dot is nothing to repair.
            checks.append(Check(engine.name, None if engine.name == "dot" else False, str(engine.reason)))
        elif engine.makes == "svg":
            check = _tried(engine.name, found, partial(_draw, "svg", engine.name))
            drawing.append(check.ok)
            checks.append(check)
        else:
            checks.append(Check(engine.name, True, found))
    checks += [_tried(name, f"made a {name.upper()}", partial(_draw, name, "auto")) for name in ("png", "pdf")]
    checks.append(_tried("fonts", "the shipped DejaVu Sans is complete", _read_fonts))
    checks += [_optional(package, extra, use) for package, (extra, use) in _OPTIONAL.items()]
    return Report(tuple(checks), any(drawing))


def _torch() -> list[Check]:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library that it needs is missing
        reason = f"cannot be imported ({error}); only saved graphs can be shown. pip install torch"
        return [Check("torch", False, " ".join(reason.split()))]
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return [
        Check("torch", True, torch.__version__),
        Check("cuda", None, ", ".join(devices) if devices else "no CUDA device (none is needed)"),
    ]


def _optional(package: str, extra: str, use: str) -> Check:
    """Whether it is there; a missing one is nothing to repair unless its use is wanted."""
    try:
        return Check(package, True, f"{version(package)}, for {use}")
    except PackageNotFoundError:
        return Check(package, None, f"not installed; for {use}: pip install 'gradgraph[{extra}]'")


def _tried(name: str, detail: str, attempt: Callable[[], None]) -> Check:
    try:
        attempt()
    except (GradGraphError, OSError, ImportError, ValueError) as error:
        return Check(name, False, " ".join(str(error).split()))
    return Check(name, True, detail)


def _draw(suffix: str, engine: str) -> None:
    import warnings

    from gradgraph.render.image import draw

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # a fallback to the other engine is not what was asked
        try:
            picture = draw(_SAMPLE, suffix, engine=engine, timeout=_SECONDS)
        except UserWarning as warning:
            raise ValueError(str(warning)) from warning
    start = {"svg": (b"<?xml", b"<svg"), "png": (b"\x89PNG",), "pdf": (b"%PDF",)}[suffix]
    if not picture.startswith(start):
        raise ValueError(f"expected a {suffix.upper()}, got {len(picture)} bytes that begin with {picture[:8]!r}")


def _read_fonts() -> None:
    from gradgraph.render.font import face

    for bold in (False, True):
        missing = [char for char in "AZaz09.,:;()[]×−∂" if not face(bold).glyph(char)]
        if missing:
            raise ValueError(f"the shipped font lacks {''.join(missing)}; reinstall gradgraph")
