"""A folder's manifest: the size and SHA-256 of every file in it, written last and in one piece.

A folder without a manifest was never finished. One whose files are not what the manifest says is damaged: a bit that
flipped, a file that was cut off, lost or added.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

MANIFEST_FILE = "manifest.json"


def write_manifest(folder: Path) -> None:
    """Describe the files that are in the folder now; from here on it counts as finished."""
    files = {name: _describe(folder / name) for name in _files_in(folder)}
    write_json(folder / MANIFEST_FILE, {"files": files})


def is_finished(folder: Path) -> bool:
    return (folder / MANIFEST_FILE).is_file()


def damage(folder: Path) -> str | None:
    """What is wrong with a finished folder, in a few words; None if every file is what it was."""
    try:
        files = read_json(folder / MANIFEST_FILE)["files"]
        found = _files_in(folder)
        for name in sorted({*files, *found}):
            if name not in found:
                return f"{name} is missing"
            if name not in files:
                return f"{name} does not belong to it"
            if (problem := _difference(files[name], folder / name)) is not None:
                return f"{name} {problem}"
    except (OSError, ValueError, TypeError, KeyError) as error:
        return f"{MANIFEST_FILE} cannot be read: {error}"
    return None


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that the file is there whole or not at all, also after a power cut."""
    unfinished = path.with_name(path.name + ".tmp")
    with open(unfinished, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _files_in(folder: Path) -> list[str]:
    """The names of all files but the manifest, relative to the folder."""
    names = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if not path.is_dir())
    return [name for name in names if name != MANIFEST_FILE]


def _describe(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _difference(expected: dict[str, Any], path: Path) -> str | None:
    if path.stat().st_size != expected["size"]:
        return f"has {path.stat().st_size} bytes instead of {expected['size']}"
    if _describe(path) != expected:
        return "has other content than was written (its SHA-256 differs)"
    return None
