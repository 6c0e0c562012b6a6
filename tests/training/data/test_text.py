"""Bytes of files: what stands where, which windows are drawn, which files are held out."""

import numpy as np
import pytest

from fnbackprop.experiment import ExperimentError
from fnbackprop.training import data


@pytest.fixture
def files(tmp_path):
    """Three files, one of them empty."""
    for name, content in (("a.txt", b"hello"), ("b.txt", b""), ("c.txt", b"wide world")):
        (tmp_path / name).write_bytes(content)
    return [tmp_path / name for name in ("a.txt", "b.txt", "c.txt")]


def test_files_are_one_sequence(files):
    text, whole = data.ByteText(files), b"hello\0wide world\0"
    assert len(text) == len(whole)
    for start in range(len(whole)):
        for count in range(len(whole) - start + 1):
            assert text.read(start, count).tobytes() == whole[start : start + count]
    with pytest.raises(IndexError, match="bytes 10 to 18 of a text of 17"):
        text.read(10, 8)


def test_every_window_is_drawn_once_in_an_epoch(files):
    batch = data.windows(data.ByteText(files), length=5, batch_size=4, seed=2)
    drawn = [batch(step) for step in range(3)]  # there are 12 windows
    rows = {row.tobytes() for found in drawn for row in found["inputs"]}
    assert len(rows) == 12 and all(found["targets"].shape == (4, 5) for found in drawn)
    whole = np.frombuffer(b"hello\0wide world\0", np.uint8).astype(np.int32)
    assert rows == {whole[i : i + 5].tobytes() for i in range(12)}
    for found in drawn:
        np.testing.assert_array_equal(found["inputs"][:, 1:], found["targets"][:, :-1])
    assert drawn[0]["inputs"].dtype == np.int32
    assert not np.array_equal(drawn[0]["inputs"], batch(3)["inputs"])


def test_evenly_spaced_windows_begin_and_end_with_the_text(files):
    found = data.evenly_spaced(data.ByteText(files), length=4, count=3)
    assert bytes(found["inputs"][0].astype(np.uint8)) == b"hell"
    assert bytes(found["targets"][-1].astype(np.uint8)) == b"rld\0"


def test_find_and_split(tmp_path):
    for number in range(40):
        (tmp_path / ("test" if number < 5 else "lib")).mkdir(exist_ok=True)
        (tmp_path / ("test" if number < 5 else "lib") / f"{number}.py").write_text("x")
    files = data.find_files(tmp_path, "*.py", leave_out=["test"])
    assert len(files) == 35 and files == sorted(files)
    train, held = data.split_files(files, held_out=0.3)
    assert sorted(train + held) == files and 3 <= len(held) <= 18
    fewer = data.split_files(files[10:], held_out=0.3)  # the others stay where they were
    assert set(fewer[0]) <= set(train) and set(fewer[1]) <= set(held)


def test_mistakes_are_named(files, tmp_path):
    with pytest.raises(ExperimentError, match="there is no text file nowhere.txt"):
        data.ByteText("nowhere.txt")
    with pytest.raises(ExperimentError, match="every file is empty"):
        data.ByteText(files[1])
    with pytest.raises(ExperimentError, match="the text has 6 bytes, but a window takes 7"):
        data.windows(data.ByteText(files[0]), length=6, batch_size=1)
    with pytest.raises(ExperimentError, match="there is no file .* below"):
        data.find_files(tmp_path, "*.rst")
    with pytest.raises(ExperimentError, match="of 3 files, 0 would be held out"):
        data.split_files(files, held_out=0.0)


def test_a_file_that_shrinks_is_named(files):
    text = data.ByteText(files)
    files[2].write_bytes(b"wide")
    with pytest.raises(ExperimentError, match="c.txt had 10 bytes when the run began and now has 4"):
        text.read(8, 3)
