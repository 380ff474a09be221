"""The network's training pass on the tumour's window alone: several times as fast, and exact.

A masked slice is 0 outside the ROI. Up to the first element-wise dropout, therefore, every feature map is one
constant per channel outside the ROI grown by the receptive field. Each block is evaluated on that window only.
Outside, one background value per channel is carried through convolution, ReLU and batch norm, whose batch mean and
variance get the background's share by its number of pixels. Between blocks a map is held as its difference from the
background, so that what lies outside the window is 0 and a wider window is the same with zeros around it. Outputs,
gradients and running statistics are those of ``network(images)`` up to rounding.

Element-wise dropout leaves no background: from there on the window is the whole map.

Batch norm's statistics are those of all processes together where training is distributed (PyTorch's own
SyncBatchNorm needs GPUs).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from CNNSurvivalLib.network import CROP_PX, GREY_SCALE, POOLS

# A batch's slices are sorted by the size of their window into this number of groups; each group has its largest window.
GROUPS = 8


def find_windows(images: np.ndarray) -> np.ndarray:
    """Where each slice is not 0: uint8 [n, 140, 140] -> int16 [n, 4], first row and column, last row and column + 1."""
    windows = np.zeros((len(images), 4), dtype=np.int16)
    for number, image in enumerate(images):
        inside = image != 0
        for axis in (0, 1):
            hit = np.flatnonzero(inside.any(axis=1 - axis))
            first, last = (hit[0], hit[-1]) if hit.size else (CROP_PX // 2, CROP_PX // 2)
            windows[number, axis], windows[number, axis + 2] = first, last + 1
    return windows


def training_logits(
    network,
    images: np.ndarray,
    windows: np.ndarray,
    dropout: float = 0.0,
    random: np.random.Generator | None = None,
    dropout_from: int = 1,
) -> Tensor:
    """What ``network(network_input(images))`` gives in training mode: logits [n, intervals].

    images: uint8 [n, 140, 140]; windows: their ``find_windows``. Updates the running statistics, as training mode does.
    dropout: the probability, drawn from ``random``; applied after the blocks from this one (1 to 3) on.
    """
    return network.output(training_features(network, images, windows, dropout, random, dropout_from))


def training_features(network, images, windows, dropout=0.0, random=None, dropout_from=1) -> Tensor:
    """As ``training_logits``, the 32 values before the last layer: [n, 32]."""
    order = np.argsort(np.prod(windows[:, 2:] - windows[:, :2], axis=1, dtype=int), kind="stable")
    back = torch.from_numpy(np.argsort(order))
    weight = network.conv1.weight
    groups = [_of_slices(images[part], windows[part], weight) for part in np.array_split(order, GROUPS) if len(part)]
    size, background = CROP_PX, torch.zeros_like(weight[0, :, 0, 0])
    for block, pool in enumerate(POOLS, 1):
        groups, background = _block(network, block, groups, background, size)
        size = (size - 4) // pool
        dropped = dropout > 0 and block >= dropout_from
        if dropped or block == len(POOLS):
            # In the caller's order before the first random number is drawn.
            whole = _whole(groups, background, size)[back.to(weight.device)]
            whole = _dropout(whole, dropout if dropped else 0.0, random)
            back = torch.arange(len(whole))
            groups, background = [_whole_maps(whole)], torch.zeros_like(background)
    return network.hidden(whole.flatten(1)).relu()


# --- Maps on windows ------------------------------------------------------------------------------------------------


class _Maps(NamedTuple):
    """Feature maps of a group of slices, as differences from the background.

    values: [n, channels, rows, columns], of a window whose first row and column are ``corner``, int [n, 2].
    windows: int [n, 4], what differs from the background; inside the former.
    """

    values: Tensor
    corner: np.ndarray
    windows: np.ndarray

    def seen(self, corner: np.ndarray, rows: int, columns: int) -> Tensor:
        """Windows of that size at these corners, with zeros where ``values`` ends."""
        height, width = self.values.shape[2:]
        if (rows, columns) == (height, width) and (corner == self.corner).all():
            return self.values
        before = self.corner - corner
        after = (rows, columns) - before - (height, width)
        pads = np.stack([before[:, 1], after[:, 1], before[:, 0], after[:, 0]], axis=1).tolist()  # negative: cut off
        return torch.cat([functional.pad(x, pad) for x, pad in zip(self.values.split(1), pads)])


def _of_slices(images: np.ndarray, windows: np.ndarray, like: Tensor) -> _Maps:
    values = torch.from_numpy(images[:, None]).to(like.device).float() * GREY_SCALE
    return _Maps(values.to(like.dtype), np.zeros((len(images), 2), int), windows.astype(int))


def _whole_maps(x: Tensor) -> _Maps:
    return _Maps(x, np.zeros((len(x), 2), int), np.tile([0, 0, *x.shape[2:]], (len(x), 1)))


def _whole(groups: list[_Maps], background: Tensor, size: int) -> Tensor:
    """The maps as they are, [n, channels, size, size]."""
    whole = torch.cat([group.seen(np.zeros_like(group.corner), size, size) for group in groups])
    return whole + background[:, None, None]


# --- A block: two convolutions, each with ReLU and batch norm, and a pooling ------------------------------------------


def _block(network, block: int, groups: list[_Maps], background: Tensor, size: int) -> tuple[list[_Maps], Tensor]:
    """(the next maps, their background); ``size`` is the width of the maps that come in."""
    pool, layer = POOLS[block - 1], 2 * block - 1
    first, second = getattr(network, f"conv{layer}"), getattr(network, f"conv{layer + 1}")
    placed = [_pooled_windows(group.windows, size, pool) for group in groups]
    # The rows and columns that fill no last cell of the pooling count in batch norm: a window takes as many more.
    more = (size - 4) % pool + 4
    maps = [group.seen(pool * corner, *(pool * cells + more)) for group, (corner, cells, _) in zip(groups, placed)]
    bias = first.bias + first.weight.sum((2, 3)) @ background
    maps = _convolved(maps, first.weight, bias)
    background = bias.relu()
    scale, shift = _norm(network, layer, maps, background, (size - 2) ** 2)
    # The second convolution of normalised maps is one of the maps with scaled weights: a pass less over large arrays.
    weight, bias = second.weight * scale[:, None, None], second.bias + second.weight.sum((2, 3)) @ shift
    maps = _convolved(maps, weight, bias)
    background = (weight.sum((2, 3)) @ background + bias).relu()
    scale, shift = _norm(network, layer + 1, maps, background, (size - 4) ** 2)
    pooled = [_affine(_max_pool(x, scale, pool), scale, -scale * background) for x in maps]
    following = [_Maps(x, corner, windows) for x, (corner, _, windows) in zip(pooled, placed)]
    return following, scale * background + shift


def _pooled_windows(windows: np.ndarray, size: int, pool: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where maps differ from the background after a block: (corners [n, 2], rows and columns, windows [n, 4]).

    All windows have the size of the largest. Pooled pixel p sees the incoming pixels pool * p to pool * p + pool + 3.
    """
    cells = (size - 4) // pool
    start = np.clip((windows[:, :2] - 4) // pool, 0, cells - 1)
    stop = np.minimum((windows[:, 2:] - 1) // pool, cells - 1) + 1
    largest = (stop - start).max(axis=0)
    return np.minimum(start, cells - largest), largest, np.concatenate([start, stop], axis=1)


# --- Layers ---------------------------------------------------------------------------------------------------------


def _convolved(maps: list[Tensor], weight: Tensor, bias: Tensor) -> list[Tensor]:
    """Convolution and ReLU. With the channels of a pixel side by side in memory, a CPU takes half the time."""
    weight = weight.contiguous(memory_format=torch.channels_last)
    return [functional.conv2d(x.contiguous(memory_format=torch.channels_last), weight, bias).relu() for x in maps]


def _max_pool(x: Tensor, scale: Tensor, pool: int) -> Tensor:
    """What of each cell is largest once multiplied by ``scale``: so the larger arrays need not be multiplied."""
    sign = torch.where(scale < 0, -1.0, 1.0).detach().to(x.dtype)[:, None, None]
    return functional.max_pool2d(x * sign, pool) * sign


def _affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return x * scale[:, None, None] + shift[:, None, None]


def _dropout(x: Tensor, probability: float, random: np.random.Generator | None) -> Tensor:
    """As torch's; NumPy draws the numbers eight times faster on a CPU, and alike on every device."""
    if probability == 0:
        return x
    keep = torch.from_numpy(random.random(x.shape, dtype=np.float32) >= probability).to(x.device)
    return x * (keep / (1 - probability))


def _norm(network, layer: int, maps: list[Tensor], background: Tensor, pixels: int) -> tuple[Tensor, Tensor]:
    """Batch norm in training mode as (scale, shift) per channel, after updating the running statistics.

    maps: tensors [n_g, filters, rows_g, columns_g], parts of feature maps of ``pixels`` pixels each, which hold
    ``background`` [filters] elsewhere. Chan, Golub & LeVeque 1983: variances of parts, merged.
    """
    norm = getattr(network, f"norm{layer}")
    variances, means = zip(*(_Moments.apply(x) for x in maps))
    counts = [x.numel() // x.shape[1] for x in maps]
    counts.append(sum(len(x) for x in maps) * pixels - sum(counts))
    count = torch.tensor(counts, dtype=background.dtype, device=background.device)[:, None]
    means, variances = torch.stack([*means, background]), torch.stack([*variances, torch.zeros_like(background)])
    total = _sum_of_all(count.sum())
    mean = _sum_of_all((count * means).sum(0)) / total
    variance = _sum_of_all((count * (variances + (means - mean) ** 2)).sum(0)) / total
    _update_running_statistics(norm, mean.detach(), variance.detach() * total / (total - 1))
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    return scale, norm.bias - mean * scale


class _Moments(torch.autograd.Function):
    """(variance, mean) per channel: torch.var_mean, which takes fifteen times as long on a CPU."""

    @staticmethod
    def forward(context, x):
        mean = x.mean((0, 2, 3))
        context.save_for_backward(x, mean)
        return (x - mean[:, None, None]).square_().mean((0, 2, 3)), mean

    @staticmethod
    def backward(context, of_variance, of_mean):
        x, mean = context.saved_tensors
        count = x.numel() // x.shape[1]
        slope = 2 * of_variance / count
        return torch.addcmul((of_mean / count - slope * mean)[:, None, None], x, slope[:, None, None])


def _update_running_statistics(norm, mean: Tensor, unbiased_variance: Tensor) -> None:
    with torch.no_grad():
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(unbiased_variance, norm.momentum)
        norm.num_batches_tracked += 1


def _world_size() -> int:
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if ready else 1


def _sum_of_all(x: Tensor) -> Tensor:
    """The sum over all processes, through which gradients flow."""
    if _world_size() == 1:
        return x
    from torch.distributed.nn.functional import all_reduce

    return all_reduce(x)
