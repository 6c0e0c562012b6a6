"""A folder of images as arrays."""

import numpy as np
import pytest
from PIL import Image

from fnbackprop.experiment import ExperimentError
from fnbackprop.training import data


def test_image_folder(tmp_path):
    for name, colour, shape in (("red", (255, 0, 0), (40, 20)), ("blue", (0, 0, 255), (16, 16))):
        (tmp_path / name).mkdir()
        for number in range(2):
            Image.new("RGB", shape, colour).save(tmp_path / name / f"{number}.png")
    (tmp_path / "red" / "notes.txt").write_text("no image")
    images, labels, classes = data.image_folder(tmp_path, size=8)
    assert images.shape == (4, 8, 8, 3) and images.dtype == np.float32 and classes == ["blue", "red"]
    np.testing.assert_array_equal(labels, [0, 0, 1, 1])
    np.testing.assert_array_equal(images[labels == 1], np.broadcast_to(np.float32([1, 0, 0]), (2, 8, 8, 3)))


def test_mistakes_are_named(tmp_path):
    with pytest.raises(ExperimentError, match="images were found for none"):
        data.image_folder(tmp_path, size=8)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "broken.png").write_bytes(b"no image")
    with pytest.raises(ExperimentError, match="broken.png cannot be read as an image"):
        data.image_folder(tmp_path, size=8)
