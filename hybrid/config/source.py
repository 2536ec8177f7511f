"""Reads the bytes of a YAML file, with a sentence for everything that can be wrong with a file before its first key.

Does not: interpret what it read (`yaml_strict` does).
"""

from __future__ import annotations

from pathlib import Path

from hybrid.config.suggest import nearest
from hybrid.config.yaml_strict import MAX_BYTES, Document, read_document
from hybrid.errors import Problem


def read_file(path: Path) -> Document:
    """Read one document from a file of at most 1 MB of UTF-8. What goes wrong is in the document's problems."""
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return _unread(path, "there is no such file", _nearest_file(path))
    except IsADirectoryError:
        return _unread(path, "this is a folder", "name the YAML file in it")
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        reason = (error.strerror or type(error).__name__).lower() if isinstance(error, OSError) else str(error)
        return _unread(path, f"the file cannot be read ({reason})", "correct the path or the rights of the file")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        if len(raw) <= MAX_BYTES:
            line = raw.count(b"\n", 0, error.start) + 1
            return _unread(path, "the file is not UTF-8 text", "save it as UTF-8", line)
        text = raw.decode("latin-1")  # only to be measured: a character may be cut in half at the limit
    return read_document(text, str(path))


def _unread(path: Path, message: str, fix: str, line: int = 0) -> Document:
    return Document(None, {(): 1}, (Problem(str(path), line, "", message, fix),), complete=False)


def _nearest_file(path: Path) -> str:
    try:
        names = [p.name for p in path.parent.iterdir()]
    except (OSError, ValueError):
        return "check the folder"
    near = nearest(path.name, names)
    return f"did you mean {(path.parent / near).as_posix()!r}?" if near else "check the name"
