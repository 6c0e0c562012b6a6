"""What the script of a report draws from: the same curves as those that stand in the page without it."""

import html.parser
import json
import math

from fnbackprop.training.record.curve_controls import curves_section
from fnbackprop.training.record.plots import POINTS


class Scripts(html.parser.HTMLParser):
    """The text of each script by its id."""

    def __init__(self, text):
        super().__init__()
        self.found, self._id = {}, None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self._id = dict(attributes).get("id") if tag == "script" else None

    def handle_data(self, data):
        if self._id:
            self.found[self._id] = self.found.get(self._id, "") + data

    def handle_endtag(self, tag):
        self._id = None


def test_the_data_are_those_of_the_drawings():
    rows = [{"step": step, "loss": 1 / (1 + step), "lr": 0.1} for step in range(3 * POINTS)]
    rows[7]["loss"] = math.nan
    runs = {"</script>": rows, "two": [{"step": 0, "loss": 2.0}, {"step": 9, "loss": 1.0, "lr": 0.2}]}
    times = {"two": [{"step": step, "seconds": 2.0 * step} for step in range(2 * POINTS)], "other": []}
    page = "\n".join(curves_section(runs, {"loss": "the loss", "lr": "rate <"}, times))
    scripts = Scripts(page).found
    data = json.loads(scripts["curve-data"])
    assert page.count("<svg") == 2 and page.count("data-metric=") == 2 and "curve-data" in scripts["curve-code"]
    assert data["metrics"]["loss"]["log"] and not data["metrics"]["lr"]["log"]
    assert data["metrics"]["lr"]["words"] == "rate &lt;"
    one, two = data["metrics"]["loss"]["lines"]
    assert one["title"] == "&lt;/script&gt;" and one["binned"] and not two["binned"] and one["colour"] == "#1f77b4"
    assert len(one["step"]) == POINTS and one["step"][1] == 4 and one["low"][1] == 0.16667 and one["mean"][2] is None
    assert (two["step"], two["mean"]) == ([0, 9], [2, 1])
    [(name, (steps, seconds))] = data["times"].items()
    assert name == "two" and len(steps) == POINTS and steps[-1] == 2 * POINTS - 1 and seconds[-1] == 2.0 * steps[-1]


def test_a_page_is_read_without_scripts():
    page = "\n".join(curves_section({"": [{"step": 0, "loss": 2.0}, {"step": 1, "loss": 1.0}]}, {"loss": "loss"}, {}))
    assert '<form id="curve-controls" hidden>' in page and page.index("<svg") < page.index("<script")
