"""A folder's manifest notices every kind of damage, and names the file."""

import json
import os

import pytest

from fnbackprop.training.checkpoints.manifest import MANIFEST_FILE, damage, is_finished, write_manifest


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "weights").write_bytes(bytes(range(256)))
    (tmp_path / "info.json").write_text('{"step": 3}')
    write_manifest(tmp_path)
    return tmp_path


def test_an_undamaged_folder(folder):
    assert is_finished(folder) and damage(folder) is None


def test_a_folder_without_a_manifest_is_not_finished(folder):
    (folder / MANIFEST_FILE).unlink()
    assert not is_finished(folder)


def test_every_flipped_bit_is_noticed(folder):
    path = folder / "deep" / "weights"
    content = path.read_bytes()
    for bit in range(0, 8 * len(content), 37):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        assert damage(folder) == "deep/weights has other content than was written (its SHA-256 differs)"
    path.write_bytes(content)
    assert damage(folder) is None


@pytest.mark.parametrize(
    "harm, message",
    [
        (lambda folder: os.truncate(folder / "deep" / "weights", 100), "deep/weights has 100 bytes instead of 256"),
        (lambda folder: (folder / "info.json").unlink(), "info.json is missing"),
        (lambda folder: (folder / "deep" / "more").touch(), "deep/more does not belong to it"),
        (lambda folder: os.truncate(folder / MANIFEST_FILE, 60), "manifest.json cannot be read"),
        (lambda folder: (folder / MANIFEST_FILE).write_text("[]"), "manifest.json cannot be read"),
        (lambda folder: (folder / MANIFEST_FILE).write_bytes(b"\xff{}"), "manifest.json cannot be read"),
    ],
)
def test_damage_is_named(folder, harm, message):
    harm(folder)
    assert damage(folder).startswith(message)


def test_every_change_of_the_manifest_is_noticed_or_changes_nothing(folder):
    path = folder / MANIFEST_FILE
    content = path.read_bytes()
    meaning = json.loads(content)
    for position in range(len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        assert damage(folder) is not None or json.loads(path.read_bytes()) == meaning
