"""Images as arrays: of a folder, or small ones to try things out with."""

from pathlib import Path

import numpy as np

from fnbackprop.experiment import ExperimentError
from fnbackprop.extras import needed_for

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")


def image_folder(folder: str | Path, *, size: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """`folder/<class>/<image>`: every image cut to its middle square, scaled, and held in memory.

    Args:
      folder: holds one folder of images for each class.
      size: height and width of the result, in pixels.

    Returns:
      The images, float32 of (examples, size, size, 3) from 0 to 1; their labels, int32; and the names of the classes,
      sorted. Examples are in the order of their file names.

    Raises:
      ExperimentError: there is no image, only one class, or a file cannot be read as an image.
    """
    files = sorted(path for path in Path(folder).glob("*/*") if path.suffix.lower() in SUFFIXES)
    classes = sorted({path.parent.name for path in files})
    if len(classes) < 2:
        raise ExperimentError(
            f"{folder} must hold a folder of images for each class, but images were found for {classes or 'none'}."
        )
    images = np.stack([_read_image(path, size) for path in files])
    labels = np.array([classes.index(path.parent.name) for path in files], np.int32)
    return images, labels, classes


def digits() -> tuple[np.ndarray, np.ndarray]:
    """The 1797 handwritten digits that come with scikit-learn, in its order.

    Returns:
      The images, float32 of (1797, 8, 8) from 0 (paper) to 1 (ink), and their labels 0 to 9, int32 of (1797,).

    Raises:
      MissingExtra: scikit-learn, of the extra "examples", is not installed.
    """
    with needed_for("data.digits()"):
        from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return (pixels.reshape(-1, 8, 8) / 16).astype(np.float32), labels.astype(np.int32)


def _read_image(path: Path, size: int) -> np.ndarray:
    with needed_for("image_folder"):
        from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            square = ImageOps.fit(ImageOps.exif_transpose(image).convert("RGB"), (size, size))
    except OSError as error:
        raise ExperimentError(f"{path} cannot be read as an image: {error}.") from None
    return np.asarray(square, np.float32) / 255
