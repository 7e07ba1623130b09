"""The program that `engines` starts to lay out or rasterise in a process of its own, which can be killed.

Run as a script (`engines` imports it for the exit statuses alone): `python -I -S _worker.py JOB < input > output`, JOB
being a JSON object with `op` and its arguments. It imports nothing of gradgraph. Exit status: 0, or one of the numbers
below, with the reason on stderr.
"""

import hashlib
import json
import os
import platform
import stat
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

MISSING, REFUSED, TRAPPED = 3, 4, 5

# The default of 512 KiB traps on deep graphs; wasmtime refuses more than its async stack, 2 MiB.
_WASM_STACK = 2 << 20
# The wasm frames live on the thread's own stack: the main thread of Windows has too little.
_THREAD_STACK = 16 << 20


class JobError(Exception):
    """An expected end of the job: an exit status and its reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def layout(source: bytes, *, wasm: str, version: str, layout: str, cache: str | None) -> bytes:
    """DOT to SVG by Graphviz compiled to WebAssembly; `version` tells the caches of different releases apart."""
    try:
        import wasmtime
    except Exception as error:  # a broken wheel raises OSError or worse
        raise JobError(MISSING, f"wasmtime cannot be imported: {error}") from error
    config = wasmtime.Config()
    config.max_wasm_stack = _WASM_STACK
    engine = wasmtime.Engine(config)
    module = _load(wasmtime, engine, Path(wasm).read_bytes(), version, Path(cache) if cache else None)
    store = wasmtime.Store(engine)
    linker = wasmtime.Linker(engine)
    linker.define_wasi()
    store.set_wasi(wasmtime.WasiConfig())  # no files, no environment, no output
    exports: Any = linker.instantiate(store, module).exports(store)
    memory = exports["memory"]

    def put(data: bytes) -> int:
        address: int = exports["malloc"](store, len(data))
        memory.write(store, data, address)
        return address

    length_at = put(bytes(4))
    try:
        result = exports["graphviz_render"](
            store, put(source + b"\0"), put(b"svg\0"), put(layout.encode("ascii") + b"\0"), length_at
        )
    except (wasmtime.Trap, wasmtime.WasmtimeError) as error:
        raise JobError(TRAPPED, f"the WebAssembly program trapped: {str(error).splitlines()[-1]}") from error
    if not result:
        at = exports["graphviz_last_error"](store)
        text = bytes(memory.read(store, at, at + 4096)).split(b"\0")[0].decode("utf-8", "replace")
        raise JobError(REFUSED, text or "graphviz gave no reason")
    length = int.from_bytes(memory.read(store, length_at, length_at + 4), "little")
    return bytes(memory.read(store, result, result + length))


def raster(svg: bytes, *, dpi: float, fonts: list[str], system_fonts: bool, family: str) -> bytes:
    """SVG to PNG by resvg."""
    try:
        import resvg_py
    except Exception as error:
        raise JobError(MISSING, f"resvg_py cannot be imported: {error}") from error
    try:
        return resvg_py.svg_to_bytes(
            svg_string=svg.decode("utf-8"),
            dpi=dpi,
            font_files=fonts,
            skip_system_fonts=not system_fonts,
            font_family=family,
            sans_serif_family=family,
        )
    except ValueError as error:
        raise JobError(REFUSED, str(error)) from error


def _load(wasmtime: Any, engine: Any, wasm: bytes, version: str, cache: Path | None) -> Any:
    """The compiled module, from the cache if what lies there can be trusted; it is machine code."""
    if cache is None or not _private(cache):
        return wasmtime.Module(engine, wasm)
    key = hashlib.sha256(wasm)
    for part in (version, sys.platform, platform.machine(), str(_WASM_STACK)):
        key.update(b"\0" + part.encode())
    path = cache / f"graphviz-{key.hexdigest()[:32]}.cwasm"
    code = _read_own(path)
    if code is not None:
        try:
            return wasmtime.Module.deserialize(engine, code)
        except wasmtime.WasmtimeError:
            pass  # compiled for another processor: a home directory shared by several machines
    module = wasmtime.Module(engine, wasm)
    _write(path, bytes(module.serialize()))
    return module


def _private(folder: Path) -> bool:
    """Make the folder if need be; whether only this user can write there."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return False
    if not stat.S_ISDIR(found.st_mode):
        return False
    if sys.platform == "win32":  # the user's own profile, guarded by its access list
        return True
    return found.st_uid == os.geteuid() and not found.st_mode & 0o077


def _read_own(path: Path) -> bytes | None:
    """The cached code, or None if there is none, it is not ours, or it was cut short."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(handle, "rb") as file:
            found = os.fstat(file.fileno())
            if sys.platform != "win32" and (found.st_uid != os.geteuid() or found.st_mode & 0o022):
                return None
            data = file.read()
    except OSError:
        return None
    digest, code = data[:32], data[32:]
    return code if hashlib.sha256(code).digest() == digest else None


def _write(path: Path, code: bytes) -> None:
    """Put the code in place in one step, behind its checksum; a cache that cannot be written is no error."""
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".graphviz-")
        with os.fdopen(handle, "wb") as file:
            file.write(hashlib.sha256(code).digest() + code)
        os.replace(temporary, path)
    except OSError:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def main() -> int:
    """Do the job named in argv; return the exit status."""
    job: dict[str, Any] = json.loads(sys.argv[1])
    sys.path[:] = job.pop("path")
    operations: dict[str, Callable[..., bytes]] = {"layout": layout, "raster": raster}
    work = operations[job.pop("op")]
    data = sys.stdin.buffer.read()
    outcome: list[bytes | BaseException] = []

    def run() -> None:
        try:
            outcome.append(work(data, **job))
        except BaseException as error:
            outcome.append(error)

    threading.stack_size(_THREAD_STACK)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    result = outcome[0]
    if isinstance(result, bytes):
        sys.stdout.buffer.write(result)
        sys.stdout.buffer.flush()
        return 0
    sys.stderr.write(str(result) if isinstance(result, JobError) else f"{type(result).__name__}: {result}")
    return result.status if isinstance(result, JobError) else 1


if __name__ == "__main__":
    sys.exit(main())
