"""Scripts run by `python` and by `fnbackprop run`, as programs of their own."""

import os
import pathlib
import re
import subprocess
import sys
import textwrap
from typing import NamedTuple

import fnbackprop

ROOT = pathlib.Path(fnbackprop.__file__).parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


class Ended(NamedTuple):
    """How a program ended, and what it wrote; `table` is what we wrote to stderr, `stderr` the rest."""

    stdout: str
    stderr: str
    status: int
    table: str


def start(folder, *command):
    """Run `python COMMAND ...`."""
    done = subprocess.run([sys.executable, *command], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
    stderr, mark, table = done.stderr.partition("fnbackprop run: ")
    return Ended(done.stdout, stderr, done.returncode, mark + table)


def start_ours(folder, *command):
    return start(folder, "-m", "fnbackprop", "run", *command)


def both_ways(folder, source, *arguments, options=()):
    """A script run by python and by us, which print and end the same: our end."""
    (folder / "script.py").write_text(textwrap.dedent(source))
    command = ["script.py", *arguments]
    plain, ours = start(folder, *command), start_ours(folder, *options, *command)
    check_equal(plain, ours)
    return plain, ours


def check_equal(plain, ours):
    assert (ours.stdout, ours.status) == (plain.stdout, plain.status), ours.stderr + ours.table


def rows(table):
    """The table's rows, by their place: a dict of what stands under each title."""
    lines = table.splitlines()
    titles = re.split(r" {2,}", lines[1])
    found = (re.split(r" {2,}", line) for line in lines[2:])
    return {row[0]: dict(zip(titles, row, strict=True)) for row in found if len(row) == len(titles)}
