"""The manifest of a folder: the size and SHA-256 of every file in it, written last and atomically.

A folder without a manifest was never finished. One whose files differ from the manifest is damaged: a flipped bit, a
file that was truncated, lost or added.
"""

import hashlib
from pathlib import Path
from typing import Any

from ..run_folder import read_json, write_json

MANIFEST_FILE = "manifest.json"


def write_manifest(folder: Path) -> None:
    """Describe the files in the folder; from then on it counts as finished."""
    files = {name: _describe(folder / name) for name in _files_in(folder)}
    write_json(folder / MANIFEST_FILE, {"files": files})


def is_finished(folder: Path) -> bool:
    return (folder / MANIFEST_FILE).is_file()


def damage(folder: Path) -> str | None:
    """What is wrong with a finished folder, in a few words; None if every file is as it was written."""
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
