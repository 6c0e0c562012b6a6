"""Data: `batch(step)`, the pure function that an experiment needs, from arrays, text, images or an iterator.

    data.shuffled({"x": x, "y": y}, batch_size=64)    arrays, every epoch in another order
    data.windows(data.ByteText(files), length=256, batch_size=32)     bytes of files, as inputs and targets
    data.image_folder("photos/", size=32)             arrays from a folder of images, a class in each subfolder
    data.digits()                                     scikit-learn's 1797 images of 8x8 pixels
    data.from_iterator(lambda: iter(loader))          an iterator, which is not a function of the step
    data.from_grain(dataset)                          a Grain dataset or loader

What is drawn depends on `(seed, step)` alone: it is the same on every host and with every version of numpy.
"""

from .arrays import shuffled
from .images import digits, image_folder
from .streams import Stream, from_grain, from_iterator
from .text import VOCABULARY, ByteText, evenly_spaced, find_files, split_files, windows

__all__ = [
    "VOCABULARY",
    "ByteText",
    "Stream",
    "digits",
    "evenly_spaced",
    "find_files",
    "from_grain",
    "from_iterator",
    "image_folder",
    "shuffled",
    "split_files",
    "windows",
]
