"""The slices as pictures: which part of them is shown."""

from __future__ import annotations

import numpy as np

MARGIN_PX = 4


def tumour_window(images: np.ndarray) -> slice:
    """The rows, and also the columns, of a square around the middle that holds every tumour pixel.

    The square is the same for all images, so that their pictures are to one scale.

    Parameters
    ----------
    images : ndarray of uint8, shape [..., size, size]
        Slices as the network gets them, 0 outside the tumour.

    Returns
    -------
    slice
        All of the image where there is no tumour pixel.
    """
    size = images.shape[-1]
    *_numbers, rows, columns = np.nonzero(images)
    if rows.size == 0:
        return slice(0, size)
    first, last = min(rows.min(), columns.min()), max(rows.max(), columns.max())
    reach = max(size / 2 - first, last + 1 - size / 2)
    half = int(min(np.ceil(reach) + MARGIN_PX, size // 2))
    return slice(size // 2 - half, size // 2 + half)


def thumbnail(image: np.ndarray) -> bytes:
    """The part of a slice (uint8 [size, size]) that holds the tumour, as a PGM file."""
    window = tumour_window(image)
    part = image[window, window]
    return b"P5 %d %d 255\n" % part.shape[::-1] + part.tobytes()
