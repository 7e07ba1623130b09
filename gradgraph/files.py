"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from gradgraph.errors import InputError

__all__ = ["write_whole"]


def write_whole(path: str | os.PathLike[str], content: bytes) -> Path:
    """Put `content` in place in one step: a reader sees the old file or the whole new one.

    Links keep pointing where they do, and a replaced file keeps its mode.

    Raises:
        InputError: `path` cannot be written; whatever was there before is still there.
    """
    final = Path(os.path.realpath(path))
    temporary = final.with_name(f".{final.name[:64]}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        # Made with the permissions that any new file of this user has, unlike those of tempfile.
        with open(temporary, "xb") as file:
            file.write(content)
        if final.exists():
            os.chmod(temporary, final.stat().st_mode & 0o777)
        os.replace(temporary, final)
    except OSError as error:
        raise InputError(
            f"cannot write {os.fspath(path)!r}: {error.strerror or error}. Expected a path in an existing folder that "
            "you may write to, with room."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return Path(path)
