"""The map of the layers of a run."""

import base64
import io
import math
import re
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from fnbackprop.training.record.layer_map import _png, layers_svg


def pictures(svg):
    found = re.findall('data:image/png;base64,([^"]+)', svg)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) for text in found]


def test_the_map_of_layers_is_light_where_the_gradient_is_large():
    found = [{"step": i, "gradient_norm/first": 1.0, "gradient_norm/second": 1e-3} for i in range(4)]
    svg = layers_svg([{"step": 9}, *found], "norm")
    assert svg.count(">first<") == svg.count(">second<") == 1
    image, scale = pictures(svg)
    assert image.shape == (2, 4, 4) and scale.shape == (64, 1, 4) and ">norm<" in svg
    light = image[..., :3].mean(axis=(1, 2))
    assert light[0] - light[1] > 50 and scale[0, :, :3].mean() - scale[-1, :, :3].mean() > 50
    assert all(f">{tick}<" in svg for tick in ("0.001", "0.01", "0.1", "1"))


def test_what_is_not_known_is_clear_and_nothing_is_fine():
    rows = [{"step": 0, "gradient_norm/a": math.nan, "gradient_norm/b": 0.0}, {"step": 5, "gradient_norm/a": 2.0}]
    image, _ = pictures(layers_svg(rows, ""))
    np.testing.assert_array_equal(image[..., 3] > 0, [[False, True], [True, False]])


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf, 1.0])
def test_whatever_the_numbers(value):
    name = "gradient_norm/" + "a<" * 20
    svg = layers_svg([{"step": 3, name: value}], "a & b")
    assert "…<" not in svg and "a &amp; b" in svg
    ElementTree.fromstring(svg)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (70, 200)])
def test_a_picture_has_the_pixels_it_was_given(shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 4)).astype(np.uint8)
    picture = Image.open(io.BytesIO(_png(pixels)))
    picture.verify()
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(_png(pixels)))), pixels)


def test_a_map_needs_no_library_for_pictures():
    code = "import sys; from fnbackprop.training.record.layer_map import layers_svg as svg; "
    code += "svg([{'step': 0, 'gradient_norm/a': 1.0}], ''); assert 'PIL' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
