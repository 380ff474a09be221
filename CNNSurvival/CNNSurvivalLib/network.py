"""The paper's CNN in PyTorch, and the likelihood it is trained with.

Zhang et al. 2020, Fig. 1: six unpadded 3 x 3 convolutions with 32 filters, each followed by ReLU and batch
normalisation; max-pooling of 2, 3 and 3 and dropout of 0.5 after every second; a hidden layer of 32; 19 outputs:

    140 -> 138 -> 136 -pool 2-> 68 -> 66 -> 64 -pool 3-> 21 -> 19 -> 17 -pool 3-> 5,   5 * 5 * 32 = 800 -> 32 -> 19

73,203 trainable parameters and 384 running statistics, 73,587 values in all; 627 in the last layer. An output is
the logit of its interval's hazard (see ``hazards``).

Importing this file needs nothing but NumPy; calling its functions needs ``torch``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .errors import CNNSurvivalError

CROP_PX = 140
FILTERS = 32
HIDDEN = 32
POOLS = (2, 3, 3)  # after convolutions 2, 4 and 6
DROPOUT = 0.5
GREY_SCALE = 1 / 255.0  # the network's input is grey level 0..255 times this
BATCH_NORM_EPSILON = 1e-5  # PyTorch's default; the NumPy engine must use the same


def weight_shapes(n_intervals: int = 19) -> dict[str, tuple[int, ...]]:
    """The arrays of a model.

    Parameters
    ----------
    n_intervals : int, default 19

    Returns
    -------
    dict of str to tuple of int
        Name to shape, in PyTorch's layout ([out, in, rows, columns]; [out, in]): ``convN`` and ``normN`` with N =
        1..6 in order of use; ``hidden``; ``output``.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(1, 7):
        shapes[f"conv{layer}.weight"] = (FILTERS, 1 if layer == 1 else FILTERS, 3, 3)
        shapes[f"conv{layer}.bias"] = (FILTERS,)
        for name in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"norm{layer}.{name}"] = (FILTERS,)
    shapes["hidden.weight"] = (HIDDEN, _final_size() ** 2 * FILTERS)
    shapes["hidden.bias"] = (HIDDEN,)
    shapes["output.weight"] = (n_intervals, HIDDEN)
    shapes["output.bias"] = (n_intervals,)
    return shapes


def build_network(n_intervals: int = 19) -> Any:
    """The network, with random weights.

    Parameters
    ----------
    n_intervals : int, default 19
        Number of outputs.

    Returns
    -------
    torch.nn.Module
        Takes float [batch, 1, 140, 140], grey levels times `GREY_SCALE`, to logits [batch, n_intervals]. Its state
        dict has the names of `weight_shapes` (and batch norm's batch counters).

    Raises
    ------
    CNNSurvivalError
        Where PyTorch is missing.
    """
    nn = import_torch().nn

    class CNNSurvivalNetwork(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            for layer in range(1, 7):
                self.add_module(f"conv{layer}", nn.Conv2d(1 if layer == 1 else FILTERS, FILTERS, 3))
                self.add_module(f"norm{layer}", nn.BatchNorm2d(FILTERS, eps=BATCH_NORM_EPSILON))
            self.dropout = nn.Dropout(DROPOUT)
            self.hidden = nn.Linear(_final_size() ** 2 * FILTERS, HIDDEN)
            self.output = nn.Linear(HIDDEN, n_intervals)

        def features(self, x: Any) -> Any:
            """The 32 values before the last layer, [batch, 32]."""
            for block, pool in enumerate(POOLS):
                for layer in (2 * block + 1, 2 * block + 2):
                    x = getattr(self, f"norm{layer}")(getattr(self, f"conv{layer}")(x).relu())
                x = self.dropout(nn.functional.max_pool2d(x, pool))
            return self.hidden(x.flatten(1)).relu()

        def forward(self, x: Any) -> Any:
            return self.output(self.features(x))

    return CNNSurvivalNetwork()


def network_input(images: np.ndarray) -> Any:
    """Slices as the network's input.

    Parameters
    ----------
    images : numpy.ndarray
        uint8 [n, 140, 140].

    Returns
    -------
    torch.Tensor
        float32 [n, 1, 140, 140], grey levels times `GREY_SCALE`.
    """
    torch = import_torch()
    return torch.from_numpy(np.array(images)[:, np.newaxis]).to(torch.float32) * GREY_SCALE


def negative_log_likelihood(logits: Any, survived: Any, died: Any) -> Any:
    """The same as ``hazards.negative_log_likelihood``, in PyTorch.

    Parameters
    ----------
    logits, survived, died : torch.Tensor
        [n, m].

    Returns
    -------
    torch.Tensor
        [n].
    """
    softplus = import_torch().nn.functional.softplus
    return (died * softplus(-logits) + survived * softplus(logits)).sum(dim=-1)


def network_weights(network: Any) -> dict[str, np.ndarray]:
    """The network's values.

    Parameters
    ----------
    network : torch.nn.Module
        From `build_network`.

    Returns
    -------
    dict of str to numpy.ndarray
        float32 arrays under the names of `weight_shapes`. They are copies: further training does not change them.
    """
    state = network.state_dict()
    return {name: np.array(state[name].detach().cpu().numpy()) for name in weight_shapes(network.output.out_features)}


def network_from_weights(weights: dict) -> Any:
    """A network with given values.

    Parameters
    ----------
    weights : dict of str to array-like
        Names and shapes of `weight_shapes`.

    Returns
    -------
    torch.nn.Module
        In evaluation mode.
    """
    torch = import_torch()
    network = build_network(len(weights["output.bias"]))
    tensors = {name: torch.from_numpy(np.array(value, dtype=np.float32)) for name, value in weights.items()}
    network.load_state_dict(tensors, strict=False)  # not strict: batch norm's batch counters are not kept
    return network.eval()


def import_torch() -> Any:
    """The torch module.

    Returns
    -------
    module

    Raises
    ------
    CNNSurvivalError
        Where PyTorch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise CNNSurvivalError(
            "PyTorch is not installed here; choose the built-in engine ('numpy'), which gives the same result, "
            "or install PyTorch."
        ) from error
    return torch


def _final_size() -> int:
    size = CROP_PX
    for pool in POOLS:
        size = (size - 4) // pool
    return size
