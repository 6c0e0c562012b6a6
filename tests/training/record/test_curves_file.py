"""The picture of a run: a file of its own that shows the curves, in colours of its own."""

import math
import re
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np

from fnbackprop.training.record.curve_drawing import BOTTOM, LEFT, RIGHT, TOP
from fnbackprop.training.record.curves_file import INK, PAPER, plot_curves
from fnbackprop.training.record.plots import COLOURS

SVG = "{http://www.w3.org/2000/svg}"


def records(losses):
    return [{"step": i, "loss": loss, "gradient_norm": 2 * loss} for i, loss in enumerate(losses)]


def drawn(rows, path, title=""):
    return ElementTree.parse(plot_curves(rows, path, title)).getroot()


def panels(picture):
    return picture.findall(f"{SVG}g")


def texts(element):
    return [text.text for text in element.iter(f"{SVG}text")]


def points(panel, colour=COLOURS[0]):
    """The points of the line of this colour."""
    [line] = [part for part in panel if part.get("stroke") == colour and part.get("stroke-width")]
    return np.array([list(map(float, pair)) for pair in re.findall(r"[ML]([\d.]+) ([\d.]+)", line.get("d"))])


def test_the_given_losses_and_the_title(tmp_path):
    falling = drawn(records(np.geomspace(1, 1e-3, 50)), tmp_path / "a.svg", "falls & <falls>")
    rising = drawn(records(np.geomspace(1e-3, 1, 50)), tmp_path / "b.svg")
    down, up = (points(panels(picture)[0]) for picture in (falling, rising))
    np.testing.assert_allclose(down[:, 1], np.linspace(TOP, BOTTOM, 50), atol=0.1)  # a logarithmic scale
    np.testing.assert_allclose(up[:, 1], down[::-1, 1], atol=0.1)
    np.testing.assert_allclose(down[:, 0], np.linspace(LEFT, RIGHT, 50), atol=0.1)
    assert texts(falling)[0] == "falls & <falls>"
    assert [texts(panel)[-1] for panel in panels(falling)] == ["loss", "gradient norm"]


def test_paper_and_ink_are_its_own_and_all_lies_on_the_paper(tmp_path):
    """A viewer that shows a file has no colours to lend, and a page that embeds it may be dark."""
    rows = [row | {f"own{n}": row["loss"] for n in range(5)} for row in records([3.0, 2.0, 1.0])]
    picture = drawn(rows, tmp_path / "x.svg")
    paper, width, height = picture[0], float(picture.get("width")), float(picture.get("height"))
    assert picture.get("color") == INK and picture.get("fill") == "currentColor" and paper.get("fill") == PAPER
    assert (float(paper.get("width")), float(paper.get("height"))) == (width, height)
    places = [tuple(map(int, re.findall(r"\d+", panel.get("transform")))) for panel in panels(picture)]
    assert len(set(places)) == 7 and all(x + RIGHT < width and y + BOTTOM < height for x, y in places)


def test_where_the_loss_broke_is_marked(tmp_path):
    for panel in panels(drawn(records([1.0, 0.5, math.nan]), tmp_path / "nan.svg")):
        assert "not finite from step 2" in texts(panel)


def test_a_zero_curve(tmp_path):
    assert len(points(panels(drawn(records([0.0, 0.0]), tmp_path / "zero.svg"))[0])) == 2


def test_several_runs_have_one_legend_above_all_panels(tmp_path):
    runs = {f"run {n}": records(np.geomspace(1, 0.5 + n, 50)) for n in range(len(COLOURS) + 1)}
    picture = drawn(runs, tmp_path / "both.svg", "title")
    labels = [part for part in picture if part.tag == f"{SVG}text"][1:]
    assert [label.text for label in labels] == list(runs)
    assert [label.get("fill") for label in labels] == [*COLOURS, COLOURS[0]]
    first = min(int(panel.get("transform").split()[1][:-1]) for panel in panels(picture))
    assert max(float(label.get("y")) for label in labels) < first
    assert not any("run" in text for panel in panels(picture) for text in texts(panel))
    assert all(len(points(panel, COLOURS[2])) == 50 for panel in panels(picture))


def test_a_run_imports_no_library_that_draws(tmp_path):
    """That takes longer than a small network trains."""
    program = f"""
import sys, jax.numpy as jnp, optax, fnbackprop as fb
experiment = fb.Experiment(name="line", init=lambda key: jnp.zeros(3), batch=lambda step: jnp.float32(3), steps=50,
                           loss=lambda w, batch, key: jnp.sum((w - batch) ** 2), optimizer=optax.sgd(0.25))
fb.train(experiment, directory={str(tmp_path)!r}, progress=False)
print([name for name in ("matplotlib", "scipy.special", "PIL.ImageFont") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
    assert {"curves.svg", "report.html"} <= {path.name for path in (tmp_path / "line").iterdir()}
