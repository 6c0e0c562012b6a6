"""A folder of images, as arrays."""

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


def _read_image(path: Path, size: int) -> np.ndarray:
    with needed_for("image_folder"):
        from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            square = ImageOps.fit(ImageOps.exif_transpose(image).convert("RGB"), (size, size))
    except OSError as error:
        raise ExperimentError(f"{path} cannot be read as an image: {error}.") from None
    return np.asarray(square, np.float32) / 255
