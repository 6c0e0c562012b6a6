"""The gradient that is added up in float32 is the better one, and the file says so."""

import pytest

from .loading import expected_last_line, load_module, words


def test_a_short_run(tmp_path, monkeypatch, capsys):
    low_precision = load_module("low_precision")
    monkeypatch.chdir(tmp_path)
    low_precision.show(low_precision.Config(hidden=4, batch_size=2, longest=512))
    lines = capsys.readouterr().out.splitlines()
    assert words(lines[-1]) == words(expected_last_line(low_precision))
    theirs, ours = (float(part.rstrip("%")) for part in lines[4].split()[1:])
    assert ours < 1 and 4 * ours < theirs and (tmp_path / low_precision.PICTURE).exists()
    rows = [line.split()[0] for line in lines[1:5]]
    assert rows == pytest.approx(["8", "32", "128", "512"])
