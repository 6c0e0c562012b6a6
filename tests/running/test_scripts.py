"""Six scripts in the ways of their ecosystems, unchanged: the same output and status, and every place compared."""

import pathlib

import pytest

from .running import check_equal, rows, start, start_ours

SCRIPTS = pathlib.Path(__file__).parent / "scripts"


@pytest.mark.parametrize("script", sorted(path.name for path in SCRIPTS.glob("*.py")))
def test_a_script_unchanged(script):
    plain, ours = start(SCRIPTS, script), start_ours(SCRIPTS, "--compare", script)
    check_equal(plain, ours)
    assert plain.status == 0 and "loss" in plain.stdout.lower() or "density" in plain.stdout
    found = rows(ours.table)
    assert found and {row["verdict"] for row in found.values()} == {"PASS"}, ours.table
