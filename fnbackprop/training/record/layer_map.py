"""Metrics of many layers over the steps as a map: a row for each layer, light where it is large."""

import base64
import html
import itertools
import math
import struct
import zlib
from collections.abc import Sequence

import numpy as np

from ..run_folder import MetricsRow
from ..step.step_metrics import LAYER_PREFIX
from .curve_drawing import ticks

# Nine colours of viridis, by S. van der Walt and N. Smith; between two of them, a mixture.
VIRIDIS = ["440154", "472d7b", "3b528b", "2c728e", "21918c", "28ae80", "5ec962", "addc30", "fde725"]
WIDTH, LEFT, RIGHT, ROW = 1180, 150, 1090, 14
BAR = 12  # the width of the scale


def layers_svg(rows: Sequence[MetricsRow], label: str, prefix: str = LAYER_PREFIX) -> str:
    """The metrics of this prefix, the gradient norm of each layer, over the steps; the label stands above."""
    names = [name for name in dict.fromkeys(itertools.chain.from_iterable(rows)) if name.startswith(prefix)]
    kept = [row for row in rows if not row.keys().isdisjoint(names)]
    values = np.array([[row.get(name, math.nan) for row in kept] for name in names], float)  # (layers, steps)
    usable = values[np.isfinite(values) & (values > 0)]
    low, high = (float(usable.min()), float(usable.max()) * 1.001) if usable.size else (0.1, 1.0)
    top = 24 if label else 6
    bottom = top + ROW * max(len(names), 4)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.log(values / low) / np.log(high / low)
    steps, row = [row["step"] for row in kept], (bottom - top) / len(names)
    span = f'y="{top}" height="{bottom - top}" preserveAspectRatio="none" style="image-rendering: pixelated"'
    parts = [f'<image x="{LEFT}" width="{RIGHT - LEFT}" {span} href="{_picture(shares)}"/>']
    parts += [f'<text x="{LEFT}" y="14">{html.escape(label)}</text>'] if label else []
    for number, name in enumerate(names):
        place = f'x="{LEFT - 6}" y="{top + row * (number + 0.5) + 4:.1f}" text-anchor="end"'
        parts.append(f"<text {place}>{html.escape(_shortened(name.removeprefix(prefix)))}</text>")
    width = (RIGHT - LEFT) / len(steps)
    for step in ticks(steps[0], steps[-1], False) if len(steps) > 1 else steps:
        x = LEFT + width * (np.interp(step, steps, np.arange(len(steps))) + 0.5)
        parts.append(f'<text x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">{step:.6g}</text>')
    scale = _picture(np.linspace(1, 0, 64)[:, None])
    parts.append(f'<image x="{RIGHT + 12}" width="{BAR}" {span} href="{scale}"/>')
    for value in ticks(low, high, True):
        y = bottom - (bottom - top) * math.log(value / low) / math.log(high / low)
        parts.append(f'<text x="{RIGHT + BAR + 18}" y="{y + 4:.1f}">{value:.6g}</text>')
    parts.append(f'<text x="{(LEFT + RIGHT) / 2}" y="{bottom + 33}" text-anchor="middle">step</text>')
    font = 'font-family="system-ui, sans-serif" font-size="11" fill="currentColor"'
    return f'<svg viewBox="0 0 {WIDTH} {bottom + 40}" {font} role="img">{"".join(parts)}</svg>'


def _picture(shares: np.ndarray) -> str:
    """Numbers from 0 to 1 as colours, an address of a picture with a pixel for each; what is not finite is clear."""
    colours = np.array([[int(colour[i : i + 2], 16) for i in (0, 2, 4)] for colour in VIRIDIS], float)
    place = np.clip(np.nan_to_num(shares, posinf=1, neginf=0), 0, 1) * (len(VIRIDIS) - 1)
    mixed = [np.interp(place, range(len(VIRIDIS)), channel) for channel in colours.T]
    clear = np.where(np.isnan(shares), 0, 255)
    pixels = np.stack([*mixed, clear], axis=-1).round().astype(np.uint8)
    return f"data:image/png;base64,{base64.b64encode(_png(pixels)).decode()}"


def _png(pixels: np.ndarray) -> bytes:
    """The file of a picture, (height, width, 4) of bytes. Written here, as to import a library for it takes longer than
    the whole map.

    Source: Portable Network Graphics (PNG) Specification, W3C, 2003.
    """
    height, width, _ = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)  # 8 bits of each of red, green, blue, opacity
    lines = np.pad(pixels.reshape(height, -1), ((0, 0), (1, 0)))  # each begins with its filter, 0: none
    chunks = {b"IHDR": header, b"IDAT": zlib.compress(lines.tobytes()), b"IEND": b""}
    written = (
        struct.pack(">I", len(x)) + name + x + struct.pack(">I", zlib.crc32(name + x)) for name, x in chunks.items()
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


def _shortened(name: str, most: int = 24) -> str:
    """The end of a long name, which tells it from the others."""
    return name if len(name) <= most else f"…{name[1 - most :]}"
