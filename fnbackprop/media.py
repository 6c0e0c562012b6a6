"""What `evaluate` may return besides numbers: pictures, texts and histograms, for the run's folder and its report."""

import json
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np

from .experiment_checks import ExperimentError
from .extras import needed_for

BETWEEN = 128  # the grey between pictures of a grid


@partial(jax.tree_util.register_dataclass, data_fields=["pixels"], meta_fields=[])
@dataclass(frozen=True, eq=False)
class Image:
    """A picture, or several in a grid; it may be returned by a jitted `evaluate`.

    Args:
      pixels: (height, width), (height, width, channels) with 1, 3 or 4 channels, or (count, height, width, channels):
        integers from 0 to 255, or floating numbers from 0 to 1; what lies outside is clipped.

    Example:
      >>> import fnbackprop as fb, jax.numpy as jnp
      >>> fb.Image(jnp.zeros((5, 8, 8, 1))).grid().shape         # 5 pictures of 8 x 8 in 3 columns, a pixel apart
      (17, 26, 1)
    """

    pixels: Any
    suffix: ClassVar[str] = ".png"

    def grid(self) -> np.ndarray:
        """The picture as (height, width, channels) in uint8; raises ExperimentError for another shape."""
        pixels = np.asarray(self.pixels)
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        pixels = pixels[None] if pixels.ndim == 3 else pixels
        if pixels.ndim != 4 or pixels.shape[-1] not in (1, 3, 4) or not pixels.size:
            raise ExperimentError(
                "fb.Image takes (height, width), (height, width, channels) or (count, height, width, channels) with 1, "
                f"3 or 4 channels, not {np.shape(self.pixels)}."
            )
        if not np.issubdtype(pixels.dtype, np.integer):
            pixels = np.nan_to_num(pixels.astype(np.float32)) * 255
        pixels = np.clip(np.round(pixels), 0, 255).astype(np.uint8)
        count, height, width, channels = pixels.shape
        columns = math.ceil(math.sqrt(count))
        rows, gap = -(-count // columns), max(1, min(height, width) // 16)
        down, across = height + gap, width + gap  # from one picture to the next
        whole = np.full((rows * down - gap, columns * across - gap, channels), BETWEEN, np.uint8)
        for number, picture in enumerate(pixels):
            top, left = number // columns * down, number % columns * across
            whole[top : top + height, left : left + width] = picture
        return whole

    def write(self, path: Path) -> None:
        with needed_for("fb.Image"):
            from PIL import Image as Picture

        grid = self.grid()
        Picture.fromarray(grid[..., 0] if grid.shape[-1] == 1 else grid).save(path)


@partial(jax.tree_util.register_dataclass, data_fields=[], meta_fields=["text"])
@dataclass(frozen=True)
class Text:
    """A text: a sample of a language model, for instance.

    Args:
      text: what is written.

    Example:
      >>> import fnbackprop as fb
      >>> fb.Text("once upon a time").text
      'once upon a time'
    """

    text: str
    suffix: ClassVar[str] = ".txt"

    def write(self, path: Path) -> None:
        path.write_text(self.text, encoding="utf-8")


@partial(jax.tree_util.register_dataclass, data_fields=["values"], meta_fields=["bins"])
@dataclass(frozen=True, eq=False)
class Histogram:
    """How often numbers of each size are among the values, an array of any shape; those not finite are counted apart.

    Args:
      values: an array of any shape.
      bins: the number of intervals of equal width.

    Example:
      >>> import fnbackprop as fb, numpy as np
      >>> fb.Histogram(np.array([0.0, 0.0, 1.0, np.nan]), bins=2).counts()
      {'counts': [2, 1], 'edges': [0.0, 0.5, 1.0], 'not_finite': 1}
    """

    values: Any
    bins: int = 40
    suffix: ClassVar[str] = ".json"

    def counts(self) -> dict[str, Any]:
        values = np.asarray(self.values, np.float64).ravel()
        finite = values[np.isfinite(values)]
        counts, edges = np.histogram(finite, self.bins)
        return {"counts": counts.tolist(), "edges": edges.tolist(), "not_finite": int(values.size - finite.size)}

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(self.counts()), encoding="utf-8")


KINDS = (Image, Text, Histogram)


def divided(values: Any) -> tuple[Any, dict[str, Any]]:
    """(the numbers among what `evaluate` returned, the rest); whatever is no dict is left to be refused."""
    if not isinstance(values, dict):
        return values, {}
    media = {name: value for name, value in values.items() if isinstance(value, KINDS)}
    return {name: value for name, value in values.items() if name not in media}, media
