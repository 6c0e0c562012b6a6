"""The curves of a report, with controls: smoothing, scale, steps or time. Without scripts the drawings stand as they
are, and the controls are hidden."""

import html
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..run_folder import MetricsRow
from .curve_drawing import curves_svg
from .metrics import curve
from .plots import COLOURS, POINTS, Runs, is_logarithmic, summarise

CODE = Path(__file__).with_name("curves.js")
STYLE = """
#curve-controls { display: flex; flex-wrap: wrap; gap: .4em 1.6em; margin: .5em 0 1em; align-items: center; }
#curve-controls[hidden] { display: none; } #curve-controls output { display: inline-block; min-width: 2.6em; }
.curves svg text { paint-order: stroke; stroke: var(--page); stroke-width: 3px; }
"""
CONTROLS = """<form id="curve-controls" hidden>
<label>smoothing <input name="smooth" type="range" min="0" max="0.99" step="0.01" value="0"/></label>
<output name="weight"></output>
<label>scale <select name="scale"><option value="fit">as it fits</option><option value="linear">linear</option>\
<option value="log">logarithmic</option></select></label>
<label>over <select name="axis"><option value="step">steps</option><option value="time">time</option></select></label>
</form>"""


def curves_section(runs: Runs, words: Mapping[str, str], times: Mapping[str, Sequence[MetricsRow]]) -> list[str]:
    """A panel for each metric, and what the script needs to draw them otherwise.

    Args:
      runs: the metrics of each run by its label, "" if it is alone.
      words: the metrics that are drawn, and their labels.
      times: of each run, when steps were done: `times.jsonl`.
    """
    panels = [
        f'<div data-metric="{html.escape(name)}">{curves_svg(runs, name, label)}</div>' for name, label in words.items()
    ]
    data = {
        "metrics": {name: _metric(runs, name, label) for name, label in words.items()},
        "times": {label: _thinned(rows) for label, rows in times.items() if len(rows) > 1},
    }
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")  # no end of the element
    script = f'<script id="curve-data" type="application/json">{text}</script>'
    code = f'<script id="curve-code">{CODE.read_text(encoding="utf-8")}</script>'
    return ["<h2>Curves</h2>", CONTROLS, '<div class="curves">', *panels, "</div>", script, code]


def _metric(runs: Runs, name: str, label: str) -> dict[str, Any]:
    found = {run: curve(rows, name) for run, rows in runs.items()}
    lines = []
    for (run, (steps, values)), colour in zip(found.items(), COLOURS * len(found), strict=False):
        parts = summarise(steps, values)
        step, mean, low, high = ([_number(value) for value in part] for part in parts)
        line = {"run": run, "title": html.escape(run), "colour": colour, "binned": len(step) < len(steps)}
        lines.append(line | {"step": step, "mean": mean, "low": low, "high": high})
    log = is_logarithmic([value for _, values in found.values() for value in values])
    return {"words": html.escape(label), "log": log, "lines": lines}


def _number(value: float) -> float | None:
    return float(f"{value:.5g}") if math.isfinite(value) else None


def _thinned(rows: Sequence[MetricsRow]) -> list[list[float]]:
    """[steps, seconds] of some of the rows, the first and the last among them."""
    places = sorted({round(i * (len(rows) - 1) / (POINTS - 1)) for i in range(POINTS)})
    return [[rows[i][name] for i in places] for name in ("step", "seconds")]
