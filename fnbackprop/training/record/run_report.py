"""The report of a run, or of several side by side: one HTML page that needs no other file."""

import datetime
import html
import itertools
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fnbackprop.balancing.progress import progress_in_words

from ...pages import document
from ..run_folder import MetricsRow, Records, RunFolder, flat, read_json
from ..step.step_metrics import LAYER_PREFIX, WATCHED
from .balance_gauges import gauges
from .curve_controls import STYLE as CONTROL_STYLE
from .curve_controls import curves_section
from .layer_map import layers_svg
from .media_files import media_sections
from .metrics import curve
from .plots import EVALUATED, PANELS, label_of
from .progress_line import clock_time
from .throughput import Amount, short
from .times import read_times, speed_curves

WRONG = ("FAIL", "NON-FINITE")
DIFFERS = ' class="differs"'

STYLE = """
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(400px, 100%), 1fr)); gap: 1em; }
.scroll svg { min-width: 900px; }
"""


def write_run_report(folders: Sequence[RunFolder], path: Path, found: Sequence[Records] | None = None) -> Path:
    """Write the page of one run, or of several side by side; returns its path. found: their records, if they have been
    read."""
    labels = _labels(folders)
    runs = {label: folder.read_description() for label, folder in zip(labels, folders, strict=True)}
    records = dict(zip(labels, found or [folder.read_records() for folder in folders], strict=True))
    metrics, bad = ({label: both[which] for label, both in records.items()} for which in (0, 1))
    times = {label: read_times(folder) for label, folder in zip(labels, folders, strict=True)}
    title = " and ".join(filter(None, [", ".join(labels[:-1]), labels[-1]]))
    sections = [
        f"<h1>{html.escape(title)}</h1>",
        _table(({"": labels} if len(labels) > 1 else {}) | _summary(runs, metrics, times, bad), headed=len(labels) > 1),
        *gauges(metrics),
        *_curves(metrics, times),
        *speed_curves(times),
        *_layers(metrics),
        *_watched(metrics),
        *(
            section
            for label, folder in zip(labels, folders, strict=True)
            for section in media_sections(label if len(labels) > 1 else "", folder)
        ),
        "<h2>Config</h2>",
        _config(runs),
        "<h2>Is the gradient right?</h2>",
        *(
            _comparison_section(label, folder, runs[label], len(labels) > 1)
            for label, folder in zip(labels, folders, strict=True)
        ),
        "<h2>Environment</h2>",
        _table(_rows([run.get("environment", {}) for run in runs.values()])),
        "<h2>To reproduce</h2>",
        *(f"<pre>{html.escape(run['command'])}</pre>" for run in runs.values() if "command" in run),
    ]
    path.write_text(document(title, "\n".join(sections), STYLE + CONTROL_STYLE), encoding="utf-8")
    return path


def _labels(folders: Sequence[RunFolder]) -> list[str]:
    """The runs' names; their paths if these are the same."""
    names = [folder.path.resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else [str(folder.path) for folder in folders]


# ---------------------------------------------------------------- sections


def _summary(
    runs: Mapping[str, dict[str, Any]],
    metrics: Mapping[str, Sequence[MetricsRow]],
    times: Mapping[str, Sequence[MetricsRow]],
    bad: Mapping[str, int],
) -> dict[str, list[str]]:
    """The outcome of each run: a row for each fact, a column for each run."""
    columns = []
    for label, run in runs.items():
        steps = [row for row in metrics[label] if "loss" in row]
        last = {name: value for row in metrics[label] for name, value in row.items()}
        seconds, amount = run.get("seconds", 0.0), run.get("batch") or {"count": 1, "unit": "steps"}
        columns.append(
            {
                "status": ": ".join([run["status"], *run.get("error", "").splitlines()[:1]]),
                "steps": f"{run.get('step', len(steps))} of {run.get('stop', '?')}",
                **{label_of(name): f"{last[name]:.5g}" for name in last if _is_told(name)},
                **({"course": course} if (course := progress_in_words([row["loss"] for row in steps])) else {}),
                **({"lines that are no records": str(bad[label])} if bad[label] else {}),
                "time": clock_time(seconds),
                "speed": _speed(times[label], len(steps), seconds, Amount(**amount)),
                "parameters": f"{run.get('parameters', 0):,}",
                "backward": run.get("backward", ""),
                "began": run.get("began", ""),
            }
        )
    return _rows(columns)


def _is_told(metric: str) -> bool:
    return metric in PANELS or metric.startswith(EVALUATED)


def _speed(times: Sequence[MetricsRow], steps: int, seconds: float, amount: Amount) -> str:
    """What the console shows, since the first metrics came and so without the time to compile; and over all seconds."""
    unit = f"{amount.unit}/s"
    whole = f"{short(steps * amount.count / seconds)} {unit} over the whole time" if seconds else ""
    timed = [row for row in times if "seconds" in row]
    taken = timed[-1]["seconds"] - timed[0]["seconds"] if timed else 0
    if taken <= 0:
        return whole
    steady = (timed[-1]["step"] - timed[0]["step"]) * amount.count / taken
    return f"{short(steady)} {unit} after the first step; {whole}"


def _curves(metrics: Mapping[str, Sequence[MetricsRow]], times: Mapping[str, Sequence[MetricsRow]]) -> list[str]:
    """A panel for every metric that a run has recorded more than once."""
    names = dict.fromkeys(itertools.chain.from_iterable(itertools.chain.from_iterable(metrics.values())))
    shown = [name for name in names if name != "step" and not name.startswith((LAYER_PREFIX, WATCHED))]
    shown = [name for name in shown if max(len(curve(found, name)[0]) for found in metrics.values()) > 1]
    if not shown:
        return []
    runs, timed = ({label if len(metrics) > 1 else "": x for label, x in found.items()} for found in (metrics, times))
    return curves_section(runs, {name: label_of(name) for name in shown}, timed)


def _layers(metrics: Mapping[str, Sequence[MetricsRow]]) -> list[str]:
    found = _having(metrics, LAYER_PREFIX)
    if not found:
        return []
    labels = {label: label if len(metrics) > 1 else "" for label in found}
    maps = [f'<div class="scroll">{layers_svg(run, labels[label])}</div>' for label, run in found.items()]
    return ["<h2>Gradient norm of each layer</h2>", *maps]


def _watched(metrics: Mapping[str, Sequence[MetricsRow]]) -> list[str]:
    """Maps of what was watched, the sizes of values and of cotangents, over depth and time."""
    sections = []
    for kind in ("cotangent", "value"):
        prefix = f"{WATCHED}{kind}/"
        found = _having(metrics, prefix)
        labels = {label: label if len(metrics) > 1 else "" for label in found}
        maps = [f'<div class="scroll">{layers_svg(run, labels[label], prefix)}</div>' for label, run in found.items()]
        sections += [f"<h2>Size (rms) of each watched {kind}</h2>", *maps] if maps else []
    return sections


def _having(metrics: Mapping[str, Sequence[MetricsRow]], prefix: str) -> dict[str, Sequence[MetricsRow]]:
    """The runs that have a metric of this prefix."""
    return {label: run for label, run in metrics.items() if any(name.startswith(prefix) for name in set().union(*run))}


def _config(runs: Mapping[str, dict[str, Any]]) -> str:
    columns = [{"seed": run.get("seed", "")} | flat(run.get("config", {})) for run in runs.values()]
    return _table(_rows(columns))


def _comparison_section(label: str, folder: RunFolder, run: Mapping[str, Any], named: bool) -> str:
    sections = [f"<h3>{html.escape(label)}</h3>"] if named else []
    there = folder.comparisons()
    if not there:
        file, page = run.get("file") or "FILE", folder.comparison_of()
        file = os.path.relpath(file) if Path(file).is_relative_to(Path.cwd()) else file
        compare, report = (
            ["fnbackprop", "compare", file, "--json", str(page)],
            ["fnbackprop", "report", str(folder.path)],
        )
        hint = f"{shlex.join(compare)} && {shlex.join(report)}"
        return "".join([*sections, f'<p class="note">Not compared. To add it: <code>{html.escape(hint)}</code></p>'])
    for update, path in there.items():
        sections += [f"<h3>{html.escape(update)}</h3>"] if update else []
        sections.append(_comparison(path, run.get("began", "")))
    return "".join(sections)


def _comparison(path: Path, began: str) -> str:
    found, made = read_json(path), datetime.datetime.fromtimestamp(path.stat().st_mtime, datetime.UTC)
    earlier = bool(began) and made < datetime.datetime.fromisoformat(began)
    since = {"largest": "largest since"} if len(found.get("steps", ())) > 1 else {}
    columns = {"verdict": "verdict", "norm": "norm", "error": "error"} | since | {"allowed": "allowed"}
    rows = {leaf["path"]: [_number(leaf[name]) for name in columns] for leaf in found["leaves"]}
    table = _table({"leaf": list(columns.values())} | rows, headed=True, marks=False, kind="number")
    return f"{_verdict(found, earlier)}<div class=scroll>{table}</div>"


def _verdict(found: dict[str, Any], earlier: bool) -> str:
    """What was compared when, and what was wrong first."""
    first, *later = found.get("steps") or [None]
    when = ("" if first is None else f" at step {first}") + " before this run began" * earlier
    if later:
        when += f", and held to that at {len(later)} later step{'s' * (len(later) > 1)}, the last {later[-1]}"
    said = f"{found['verdict']}, the manual gradient against the automatic one{when}:"
    lines = [f'<p class="{"bad" if found["verdict"] in WRONG else "good"}">{html.escape(said)}</p>']
    for wrong in found.get("equations", [])[:1]:
        where = f"first wrong equation: {wrong['primitive']} {wrong['where']}: {wrong['reason']}"
        lines.append(f"<p>{html.escape(where)}</p>")
    return "".join(lines)


# ---------------------------------------------------------------- tables


def _rows(columns: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Dicts side by side: name -> its value in each, "" where it has none."""
    names = dict.fromkeys(name for column in columns for name in column)
    return {name: [str(column.get(name, "")) for column in columns] for name in names}


def _table(rows: Mapping[str, Sequence[str]], headed: bool = False, marks: bool = True, kind: str = "") -> str:
    """A table with a row for each name; rows whose values differ are marked, except for the head."""
    lines = []
    for number, (name, values) in enumerate(rows.items()):
        is_head = headed and number == 0
        cell = "th" if is_head else "td"
        cells = "".join(f"<{cell}>{html.escape(value)}</{cell}>" for value in (name, *values))
        lines.append(f"<tr{DIFFERS if marks and not is_head and len(set(values)) > 1 else ''}>{cells}</tr>")
    return f'<table class="{kind}">' + "\n".join(lines) + "</table>"


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "-" if value is None else str(value)
