"""Every tutorial runs, ends as its head promises, and draws its picture."""

import pathlib
import re
import runpy
import sys

import jax
import matplotlib
import matplotlib.image
import pytest

FOLDER = pathlib.Path(__file__).parents[2] / "experiments" / "tutorials"
TUTORIALS = sorted(FOLDER.glob("[0-9]_*.py"))


def promised(path):
    """The last line, as the head of the file has it: below "its last line:"."""
    return re.search(r"its last line:\n#     (.+)\n", path.read_text())[1]


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_tutorial(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(FOLDER))  # as `python tutorials/...` has it
    monkeypatch.setitem(sys.modules, "drawing", None)
    del sys.modules["drawing"]
    with (
        jax.numpy_rank_promotion("allow"),
        jax.numpy_dtype_promotion("standard"),
        matplotlib.rc_context({"backend": "agg"}),
    ):
        runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out.splitlines()[-1] == promised(path)
    (picture,) = (tmp_path / "pictures").glob("*.png")
    assert matplotlib.image.imread(picture)[..., :3].std() > 0.05, "the picture is empty"
    assert picture.name == f"{path.stem[2:]}.png"
    assert (FOLDER / "pictures" / picture.name).is_file(), "README shows pictures that are kept in the repository"


def test_there_are_nine_and_each_is_in_cells():
    assert [int(path.name[0]) for path in TUTORIALS] == list(range(1, 10))
    for path in TUTORIALS:
        cells = re.findall(r"^# %%(.*)$", path.read_text(), re.MULTILINE)
        assert cells[0] == " [markdown]" and len(cells) > 6 and path.read_text().startswith("# %% [markdown]\n# # ")
