"""Writing files so that nobody ever reads half of one."""

import os
from pathlib import Path


def replace(path, content: str | bytes) -> Path:
    """Put `content` in the place of the file `path`, whole or not at all; folders are made if need be."""
    path = Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        half.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(half, path)
    finally:
        half.unlink(missing_ok=True)
    return path
