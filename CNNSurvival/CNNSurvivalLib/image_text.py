"""Slices as text, for JSON: bundle.json's self test and the record of a prediction hold their pixels this way."""

from __future__ import annotations

import base64
import zlib

import numpy as np


def encode_images(images: np.ndarray) -> str:
    """The pixels as text: zlib, then base64.

    Parameters
    ----------
    images : ndarray of uint8, shape [n, size, size]
    """
    packed = zlib.compress(np.ascontiguousarray(images, dtype=np.uint8).tobytes(), 9)
    return base64.b64encode(packed).decode("ascii")


def decode_images(text: str, size: int, limit: int = 64) -> np.ndarray:
    """The images that ``encode_images`` was given.

    Parameters
    ----------
    text : str
    size : int
        Rows and columns of an image, in pixels.
    limit : int
        No more images than this are unpacked, so that a small text cannot fill the memory.

    Returns
    -------
    ndarray of uint8, shape [n, size, size]
        Read only.

    Raises
    ------
    ValueError
        For any other text, and for more images than ``limit``.
    """
    unpack = zlib.decompressobj()
    try:
        data = unpack.decompress(base64.b64decode(text, validate=True), limit * size * size)
    except zlib.error as error:
        raise ValueError("not compressed images") from error
    if not data or len(data) % (size * size) or unpack.unconsumed_tail:
        raise ValueError("not a whole number of images")
    return np.frombuffer(data, dtype=np.uint8).reshape(-1, size, size)
