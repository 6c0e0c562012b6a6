"""The convnet on the digits and on a folder, in a short form; what moves an image, and what does not."""

import jax
import numpy as np
import pytest
from PIL import Image

from .loading import load_module, promised_numbers


@pytest.fixture(scope="module")
def vision():
    return load_module("vision")


def test_a_short_run(vision, in_memory, capsys):
    vision.train_and_test(vision.Config(steps=3, channels=(4,), batch_size=8))
    [accuracy] = promised_numbers(vision, capsys.readouterr().out)
    assert 0 <= accuracy <= 1


def test_a_folder(vision, tmp_path):
    for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        (tmp_path / name).mkdir()
        for number in range(5):
            Image.new("RGB", (20, 16), colour).save(tmp_path / name / f"{number}.png")
    made = vision.experiment(vision.Config(folder=tmp_path, size=16, channels=(4,)))
    batch = made.batch(0)
    assert batch["images"].shape == (8, 16, 16, 3) and made.name == f"vision-{tmp_path.name}"
    np.testing.assert_array_equal(batch["images"][:, 0, 0, 0] > 0.5, batch["labels"] == 1)  # blue is 0, red is 1


def test_moved(vision):
    images = np.arange(4 * 8 * 8, dtype=np.float32).reshape(4, 8, 8, 1)
    shifted = np.asarray(vision.moved(jax.random.key(0), images, mirror=False))
    inner = [image[2:6, 2:6, 0] for image in shifted]
    for found, image in zip(inner, images[..., 0], strict=True):  # the middle is there, a pixel away at most
        cuts = [image[i : i + 4, j : j + 4] for i in (1, 2, 3) for j in (1, 2, 3)]
        assert any(np.array_equal(found, cut) for cut in cuts)
    turned = np.asarray(vision.moved(jax.random.key(0), images, mirror=True))
    same = [np.array_equal(one, other) for one, other in zip(turned, shifted, strict=True)]
    mirrored = [np.array_equal(one, other[:, ::-1]) for one, other in zip(turned, shifted, strict=True)]
    assert all(a != b for a, b in zip(same, mirrored, strict=True)) and any(mirrored)
