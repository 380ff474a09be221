"""Engines: ranked slices in, hazards out.

``numpy`` is built in and needs nothing that Slicer does not ship. ``torch`` runs the plain network of
``network.py`` on CPU or GPU. They agree to 1e-5.

The NumPy engine is exact and does less: a masked slice is zero outside its ROI, so every feature map has one
constant value per channel outside the ROI grown by the receptive field. It computes only the window that
differs, and carries that background value through each layer beside it.
"""

from __future__ import annotations

from functools import partial, reduce
from typing import Callable, NamedTuple, Optional, Sequence

import numpy as np

from .bundle import Bundle
from .errors import CNNSurvivalError, UsageError
from .hazards import hazards_from_logits
from .network import BATCH_NORM_EPSILON, GREY_SCALE, POOLS, import_torch, network_from_weights, network_input

ENGINES = ("numpy", "torch")
# Matrix products of this width stay below the size from which OpenBLAS spreads one over all processors: these are so
# small that the threads wait for one another longer than they compute, and their number would change the last bits.
_COLUMNS = 80


def create_engine(name: str, bundle: Bundle, device: Optional[str] = None) -> Engine:
    """The engine of that name with the weights of the bundle's population, whose name it carries.

    Parameters
    ----------
    name : str
        One of `ENGINES`: "numpy" or "torch".
    bundle : Bundle
        The model.
    device : str, optional
        For torch only: "cpu", "cuda", ...; the default is a GPU where there is one.

    Returns
    -------
    Engine

    Raises
    ------
    CNNSurvivalError
        For an unknown name, or where PyTorch or the device is missing.
    """
    if name not in ENGINES:
        raise CNNSurvivalError(f"There is no engine '{name}'; choose one of {', '.join(ENGINES)}.")
    weights = bundle.network_weights
    engine = NumpyEngine(weights) if name == "numpy" else TorchEngine(weights, device)
    engine.population = bundle.population.name
    return engine


def check_population(engine: Engine, bundle: Bundle) -> None:
    """Raise CNNSurvivalError for an engine that was created for another population than the bundle's.

    Each population has its own last layer, so such an engine would give the hazards of other patients. An engine that
    carries no population is accepted.
    """
    made_for = getattr(engine, "population", None)
    if made_for not in (None, bundle.population.name):
        raise CNNSurvivalError(
            f"The engine was created for the population '{made_for}', and the prediction is for "
            f"'{bundle.population.name}'; create the engine with the same bundle."
        )


class Engine:
    """What runs the network.

    Attributes
    ----------
    name : str
        As in `ENGINES`.
    description : str
        The name with the library's version and the device.
    population : str or None
        The name of the population that it was created for; None where it was not made by `create_engine`.
    """

    name: str
    description: str
    population: Optional[str] = None

    def hazards(self, images: np.ndarray, progress: Optional[Callable[[float], None]] = None) -> np.ndarray:
        """The hazards of slices.

        Parameters
        ----------
        images : numpy.ndarray
            uint8 [n, crop, crop], as in ``RankedSlices.images``.
        progress : callable, optional
            ``progress(fraction)`` is called as slices are done. It may raise `Cancelled`.

        Returns
        -------
        numpy.ndarray
            float64 [n, intervals], in [0, 1].
        """
        raise NotImplementedError

    def hazards_without(
        self, image: np.ndarray, patches: Sequence, progress: Optional[Callable[[float], None]] = None
    ) -> np.ndarray:
        """The hazards of one slice with parts of it hidden.

        Parameters
        ----------
        image : numpy.ndarray
            uint8 [crop, crop].
        patches : sequence of (slice, slice)
            n patches, each as a slice of rows and a slice of columns.
        progress : callable, optional
            As in `hazards`.

        Returns
        -------
        numpy.ndarray
            float64 [1 + n, intervals]: of the slice as it is, and with each of the patches set to 0.
        """
        hidden = np.repeat(image[np.newaxis], 1 + len(patches), axis=0)
        for occluded, patch in zip(hidden[1:], patches):
            occluded[patch] = 0
        return self.hazards(hidden, progress)


class NumpyEngine(Engine):
    """The network in NumPy, on the window of each slice that its ROI can influence."""

    name = "numpy"

    def __init__(self, weights: dict):
        self.description = f"numpy {np.__version__}"
        layers = [_Layer.of(weights, layer) for layer in range(1, 7)]
        self._steps: list = []  # from maps to maps: two convolutions and a pooling, three times
        for block, pool in enumerate(POOLS):
            self._steps += [partial(_convolve, layer=layer) for layer in layers[2 * block : 2 * block + 2]]
            self._steps.append(partial(_max_pool, pool=pool))
        self._dense = [
            (np.asarray(weights[f"{name}.weight"], np.float32), np.asarray(weights[f"{name}.bias"], np.float32))
            for name in ("hidden", "output")
        ]

    def hazards(self, images: np.ndarray, progress: Optional[Callable[[float], None]] = None) -> np.ndarray:
        features = []
        for number, image in enumerate(images):
            features.append(self._features(image))
            if progress is not None:
                progress((number + 1) / len(images))
        return hazards_from_logits(self.logits(np.array(features)))

    def hazards_without(
        self, image: np.ndarray, patches: Sequence, progress: Optional[Callable[[float], None]] = None
    ) -> np.ndarray:
        """As ``Engine.hazards_without``; what a patch cannot change is not computed again."""
        stages = [_window_of(image)]
        for step in self._steps:
            stages.append(step(stages[-1]))
        features = [self._hidden(stages[-1])]
        as_it_is = [_whole(stage) for stage in stages]
        for number, (rows, columns) in enumerate(patches):
            (top, bottom, _), (left, right, _) = (patch.indices(len(image)) for patch in (rows, columns))
            nothing = np.zeros((bottom - top, 1, right - left), np.float32)
            maps = _Maps(nothing, top, left, len(image), as_it_is[0])
            for step, behind in zip(self._steps, as_it_is[1:]):
                maps = step(maps, background=behind)
            features.append(self._hidden(maps))
            if progress is not None:
                progress((number + 1) / len(patches))
        return hazards_from_logits(self.logits(np.array(features)))

    def features(self, images: np.ndarray) -> np.ndarray:
        """The values before the last layer.

        Parameters
        ----------
        images : numpy.ndarray
            uint8 [n, crop, crop].

        Returns
        -------
        numpy.ndarray
            float32 [n, 32].
        """
        return np.array([self._features(image) for image in images], dtype=np.float32).reshape(len(images), -1)

    def logits(self, features: np.ndarray) -> np.ndarray:
        """The last layer.

        Parameters
        ----------
        features : numpy.ndarray
            float32 [n, 32].

        Returns
        -------
        numpy.ndarray
            float32 [n, intervals].
        """
        output, bias = self._dense[1]
        return features @ output.T + bias

    def _features(self, image: np.ndarray) -> np.ndarray:
        maps = _window_of(image)
        for step in self._steps:
            maps = step(maps)
        return self._hidden(maps)

    def _hidden(self, maps: _Maps) -> np.ndarray:
        hidden, bias = self._dense[0]
        return np.maximum(hidden @ _whole(maps).transpose(1, 0, 2).ravel() + bias, 0)


class TorchEngine(Engine):
    """The plain network in PyTorch. device: where it runs, such as "cpu" or "cuda:0"."""

    name = "torch"
    _BATCH = 16  # slices at once: enough to fill a CPU, little enough to cancel soon

    def __init__(self, weights: dict, device: Optional[str] = None):
        torch = import_torch()
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            self._network = network_from_weights(weights).to(device)
            torch.zeros(1, device=device).cpu()  # a device without memory ("meta") fails here
        except (RuntimeError, AssertionError) as error:
            known = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
            raise UsageError(
                f"PyTorch cannot use the device '{device}' here; choose one of {', '.join(known)}."
            ) from error
        self._torch, self.device = torch, device
        self.description = f"torch {torch.__version__} on {device}"

    def hazards(self, images: np.ndarray, progress: Optional[Callable[[float], None]] = None) -> np.ndarray:
        logits = []
        cudnn = self._torch.backends.cudnn
        # TensorFloat-32, the default on newer GPUs, has 10 bits for a product: too few for the curve of the CPU.
        with self._torch.inference_mode(), cudnn.flags(cudnn.enabled, deterministic=True, allow_tf32=False):
            for start in range(0, len(images), self._BATCH):
                batch = network_input(images[start : start + self._BATCH]).to(self.device)
                logits.append(self._network(batch).cpu().numpy())
                if progress is not None:
                    progress(min(1.0, (start + self._BATCH) / len(images)))
        return hazards_from_logits(np.concatenate(logits))


# --- Feature maps that are constant outside a window ---------------------------------------------------------


class _Maps(NamedTuple):
    """Feature maps of size x size pixels: ``values`` in a window, ``background`` everywhere else.

    The background is one value per channel; or, where only the window differs from maps that are known, those.
    """

    values: np.ndarray  # float32 [rows, channels, columns]
    top: int
    left: int
    size: int
    background: np.ndarray  # float32 [channels] or [size, channels, size]


class _Layer(NamedTuple):
    """A convolution with the ReLU and the batch normalisation after it."""

    kernel: np.ndarray  # float32 [3, 32, 3 * channels]: per column of the 3 x 3, its rows and their channels
    bias: np.ndarray  # float32 [32]
    scale: np.ndarray  # batch norm as scale * x + shift
    shift: np.ndarray

    @classmethod
    def of(cls, weights: dict, layer: int) -> _Layer:
        kernel = np.asarray(weights[f"conv{layer}.weight"], np.float32).transpose(3, 0, 2, 1)  # column, out, row, in
        norm = {
            name: np.asarray(weights[f"norm{layer}.{name}"], np.float64)
            for name in ("weight", "bias", "running_mean", "running_var")
        }
        scale = norm["weight"] / np.sqrt(norm["running_var"] + BATCH_NORM_EPSILON)
        shift = norm["bias"] - norm["running_mean"] * scale
        return cls(
            np.ascontiguousarray(kernel).reshape(3, kernel.shape[1], -1),
            np.asarray(weights[f"conv{layer}.bias"], np.float32),
            scale.astype(np.float32),
            shift.astype(np.float32),
        )

    def activate(self, x: np.ndarray) -> np.ndarray:
        """ReLU and batch norm of [..., 32, n], in place."""
        x += self.bias[:, np.newaxis]
        np.maximum(x, 0, out=x)
        x *= self.scale[:, np.newaxis]
        x += self.shift[:, np.newaxis]
        return x


def _window_of(image: np.ndarray) -> _Maps:
    """A masked slice, uint8 [size, size], as maps with background 0."""
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    top, left = (int(rows[0]), int(columns[0])) if rows.size else (0, 0)
    bottom, right = (int(rows[-1]) + 1, int(columns[-1]) + 1) if rows.size else (0, 0)
    values = image[top:bottom, np.newaxis, left:right] * np.float32(GREY_SCALE)
    return _Maps(values, top, left, image.shape[0], np.zeros(1, np.float32))


def _grow(maps: _Maps, top: int, left: int, bottom: int, right: int) -> np.ndarray:
    """The maps' values on the window [top:bottom, left:right], which begins where their own does or before."""
    if maps.background.ndim == 1:
        grown = np.empty((bottom - top, len(maps.background), right - left), np.float32)
        grown[:] = maps.background[:, np.newaxis]
    else:
        grown = maps.background[top:bottom, :, left:right].copy()
    values = maps.values[: max(bottom - maps.top, 0), :, : max(right - maps.left, 0)]
    row, column = maps.top - top, maps.left - left
    grown[row : row + len(values), :, column : column + values.shape[2]] = values
    return grown


def _convolve(maps: _Maps, layer: _Layer, background: Optional[np.ndarray] = None) -> _Maps:
    """Unpadded 3 x 3 convolution, ReLU, batch norm. ``background`` is that of the result, where it is known.

    Output pixel (y, x) sees input pixels y..y+2, x..x+2, so the window's influence begins two pixels before it.
    """
    rows, _channels, columns = maps.values.shape
    size = maps.size - 2
    top, left = max(maps.top - 2, 0), max(maps.left - 2, 0)
    bottom, right = min(maps.top + rows, size), min(maps.left + columns, size)
    seen = _grow(maps, top, left, bottom + 2, right + 2)
    values = layer.activate(_correlate(seen, layer.kernel))
    if background is None:
        flat = np.tile(maps.background, 3)[:, np.newaxis]
        background = layer.activate(sum(column @ flat for column in layer.kernel))[:, 0]
    return _Maps(values, top, left, size, background)


def _correlate(seen: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """float32 [rows, channels, columns] and [3, 32, 3 * channels] -> [rows - 2, 32, columns - 2].

    In this layout three rows with all their channels lie one after the other in memory, so that they are a matrix
    without being copied.
    """
    rows, channels, columns = seen.shape
    height, width = rows - 2, columns - 2
    triples = np.lib.stride_tricks.as_strided(seen, (height, 3 * channels, columns), seen.strides, writeable=False)
    result = np.empty((height, kernel.shape[1], width), np.float32)
    for first in range(0, width, _COLUMNS):
        last = min(first + _COLUMNS, width)
        part = result[:, :, first:last]
        np.matmul(kernel[0], triples[:, :, first:last], out=part)
        for column in (1, 2):
            part += np.matmul(kernel[column], triples[:, :, first + column : last + column])
    return result


def _max_pool(maps: _Maps, pool: int, background: Optional[np.ndarray] = None) -> _Maps:
    """Max-pooling with stride ``pool``; rows and columns that do not fill a last cell are dropped, as in PyTorch."""
    rows, channels, columns = maps.values.shape
    size = maps.size // pool
    top, left = min(maps.top // pool, size), min(maps.left // pool, size)
    bottom = max(top, min(-(-(maps.top + rows) // pool), size))
    right = max(left, min(-(-(maps.left + columns) // pool), size))
    cells = _grow(maps, top * pool, left * pool, bottom * pool, right * pool)
    cells = cells.reshape(bottom - top, pool, channels, right - left, pool)
    # One maximum of whole arrays after the other: a reduction over two short axes takes five times as long.
    values = reduce(np.maximum, (cells[:, row, :, :, column] for row in range(pool) for column in range(pool)))
    background = maps.background if background is None else background
    return _Maps(np.ascontiguousarray(values), top, left, size, background)


def _whole(maps: _Maps) -> np.ndarray:
    """The maps as one array [size, channels, size]."""
    return _grow(maps, 0, 0, maps.size, maps.size)
