"""The pictures, texts and histograms of a run's evaluations: `runs/<name>/media/step_00000040/samples.png`."""

import base64
import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..run_folder import RunFolder, has_step, read_json, step_name, step_of

LARGEST_SHOWN = 2_000_000  # bytes of a picture in a report, which is one file
WIDTH, HEIGHT = 400, 120  # of a histogram


def write_media(folder: RunFolder, updates: int, media: Mapping[str, Any]) -> None:
    """Write what an evaluation returned besides numbers; a "/" in a name becomes "_"."""
    place = folder.media / step_name(updates)
    if media:
        place.mkdir(parents=True, exist_ok=True)
    for name, value in media.items():
        value.write(place / f"{name.replace('/', '_')}{value.suffix}")


def media_sections(label: str, folder: RunFolder) -> list[str]:
    """The last evaluation's media as HTML; nothing if there are none."""
    files = last_media(folder)
    if not files:
        return []
    head = " ".join(filter(None, [label, f"after {step_of(files[0].parent)} steps"]))
    return [f"<h2>What evaluate shows, {html.escape(head)}</h2>", *map(_figure, files)]


def last_media(folder: RunFolder) -> list[Path]:
    """The files of the last evaluation that had any."""
    places = sorted(path for path in folder.media.glob("*") if has_step(path))
    return sorted(places[-1].iterdir()) if places else []


def _figure(path: Path) -> str:
    caption = f"<figcaption>{html.escape(path.stem)}</figcaption>"
    return f"<figure>{_body(path)}{caption}</figure>"


def _body(path: Path) -> str:
    if path.suffix == ".txt":
        return f"<pre>{html.escape(path.read_text(encoding='utf-8'))}</pre>"
    if path.suffix == ".json":
        return _bars(read_json(path))
    if path.stat().st_size > LARGEST_SHOWN:
        return f'<p class="note">{html.escape(str(path))} is too large to be shown here.</p>'
    data = base64.b64encode(path.read_bytes()).decode()
    style = "image-rendering: pixelated; width: min(100%, 480px)"
    return f'<img alt="{html.escape(path.stem)}" style="{style}" src="data:image/png;base64,{data}">'


def _bars(found: Mapping[str, Any]) -> str:
    counts, edges = found["counts"], found["edges"]
    width, highest = WIDTH / len(counts), max(1, *counts)
    bars = [
        f'<rect x="{i * width:.1f}" y="{HEIGHT * (1 - count / highest):.1f}" width="{max(1, width - 1):.1f}" '
        f'height="{HEIGHT * count / highest:.1f}" fill="currentColor"><title>{low:.4g}: {count}</title></rect>'
        for i, (count, low) in enumerate(zip(counts, edges, strict=False))
    ]
    ends = f"{edges[0]:.4g} to {edges[-1]:.4g}" + f", {found['not_finite']} not finite" * bool(found["not_finite"])
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" style="max-width: {WIDTH}px">{"".join(bars)}</svg>'
    return f'{svg}<p class="note">{ends}</p>'
