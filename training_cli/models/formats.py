"""The network in formats that other software reads: ONNX, safetensors, TorchScript.

Each file says how to use it, is read back and compared with the built-in engine before it is written, and holds no
path of the machine that made it.
"""

from __future__ import annotations

import importlib
import io
import json
import logging
import warnings
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from CNNSurvivalLib.engines import NumpyEngine
from CNNSurvivalLib.errors import CNNSurvivalError
from CNNSurvivalLib.files import atomic_write, ensure_output_folder
from CNNSurvivalLib.network import CROP_PX, GREY_SCALE, import_torch, network_from_weights
from CNNSurvivalLib.prediction import RESEARCH_USE_ONLY

from ..cohort.store_files import preprocessing_info
from ..options import install_command
from ..training.runs import Run
from .self_test import largest_difference

TOLERANCE = 1e-5  # by how much an exported network's hazards may differ from the built-in engine's
FILE_NAMES = {"onnx": "model.onnx", "safetensors": "model.safetensors", "torchscript": "model.torchscript.pt"}
PACKAGES = {
    "onnx": ("torch", "onnx", "onnxscript", "onnxruntime"),
    "safetensors": ("safetensors",),
    "torchscript": ("torch",),
}


class Exported(NamedTuple):
    """path: the file. difference: the largest difference of any hazard from the built-in engine's."""

    path: Path
    difference: float


def export_network(network: Run, file_format: str, output) -> Exported:
    """Write the network in another format.

    The content is read back by onnxruntime, safetensors.numpy or torch.jit and compared before it is written. How to
    use the network is in the file: ONNX metadata_props, safetensors metadata "info" (JSON), TorchScript's extra file
    "info.json".

    Parameters
    ----------
    network : Run
        See ``load_network``.
    file_format : {"onnx", "safetensors", "torchscript"}
        onnx and torchscript: input "slices", float32 [n, 1, 140, 140], grey levels 0..255, 0 outside the contour;
        output "hazards", float32 [n, m]; any n. safetensors: the arrays under the names of ``weight_shapes``.
    output : str or Path
        The folder for the file, which has the name that FILE_NAMES gives.

    Returns
    -------
    Exported

    Raises
    ------
    CNNSurvivalError
        Where a package is missing, or the hazards differ from the built-in engine's by more than TOLERANCE.
    """
    _need_packages(file_format)
    to_bytes, read_back = _WRITERS[file_format]
    content = to_bytes(network.weights, network_facts(network))
    difference = largest_difference(read_back(content), network.weights)
    if not difference <= TOLERANCE:
        raise CNNSurvivalError(
            f"The {file_format} file was not written: its hazards differ from the network's by {difference:.2g}, more "
            f"than {TOLERANCE:g}; update {PACKAGES[file_format][-1]}, or choose another format."
        )
    path = ensure_output_folder(output) / FILE_NAMES[file_format]
    with atomic_write(path, "wb") as stream:
        stream.write(content)
    return Exported(path, difference)


def network_facts(network: Run) -> dict:
    """How to use the network, as texts (numbers and lists as JSON)."""
    facts = {
        "what": "CNNSurvival network (Zhang et al. 2020, doi 10.1186/s12880-020-0418-1)",
        "intended_use": RESEARCH_USE_ONLY,
        "input": f"slices: [n, 1, {CROP_PX}, {CROP_PX}], grey levels 0..255, 0 outside the contour",
        "input_scale": "onnx, torchscript: none (inside). safetensors: multiply the grey levels by 1/255",
        "output": "onnx, torchscript: hazards, [n, m]. safetensors: logits; the hazard is their sigmoid",
        "survival": "S(edge k) = product of (1 - hazard j) over j < k; a patient's S is the mean over slices",
        "edges_days": json.dumps(network.edges_days.tolist()),
        "preprocessing": json.dumps(preprocessing_info(network.preprocessing)),
    }
    if network.bundle is not None:
        bundle, card = network.bundle, network.bundle.info["card"]
        facts |= {"model": bundle.id, "title": bundle.info["title"], "weights_sha256": bundle.sha256,
                  "licence": card["licence"], "disease": card["disease"]}  # fmt: skip
    return facts


def _need_packages(file_format: str) -> None:
    for package in PACKAGES[file_format]:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise CNNSurvivalError(
                f"The format {file_format} needs the package {package}, which is not installed here; run "
                f"{install_command('train' if package == 'torch' else 'export')}."
            ) from error


def _hazard_network(weights: dict):
    """The network from grey levels to hazards, a torch.nn.Module in evaluation mode."""
    torch = import_torch()

    class HazardNetwork(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network_from_weights(weights)

        def forward(self, slices):
            return torch.sigmoid(self.network(slices * GREY_SCALE))

    return HazardNetwork().eval()


def _network_input(images: np.ndarray) -> np.ndarray:
    return images[:, np.newaxis].astype(np.float32)


def _onnx_bytes(weights: dict, facts: dict) -> bytes:
    import onnx
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the exporter's own code
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # about packages that this network does not use
        exported = torch.onnx.export(
            _hazard_network(weights), (torch.zeros(2, 1, CROP_PX, CROP_PX),), input_names=["slices"],
            output_names=["hazards"], dynamic_shapes={"slices": {0: torch.export.Dim("n", min=1)}}, dynamo=True,
            verbose=False,
        )  # fmt: skip
    model = exported.model_proto
    # The exporter writes the path of the Python source beside every node.
    for part in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output,
                 *model.graph.initializer):  # fmt: skip
        del part.metadata_props[:]
    onnx.helper.set_model_props(model, facts)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def _read_onnx(content: bytes):
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["hazards"], {"slices": _network_input(images)})[0]


def _safetensors_bytes(weights: dict, facts: dict) -> bytes:
    import safetensors.numpy

    # All facts under one name: safetensors writes several in an order that differs from run to run.
    about = {"info": json.dumps(facts)}
    return safetensors.numpy.save({name: np.ascontiguousarray(value) for name, value in weights.items()}, about)


def _read_safetensors(content: bytes):
    import safetensors.numpy

    return NumpyEngine(safetensors.numpy.load(content)).hazards


def _torchscript_bytes(weights: dict, facts: dict) -> bytes:
    import torch

    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # that TorchScript is deprecated
        traced = torch.jit.trace(_hazard_network(weights), torch.zeros(2, 1, CROP_PX, CROP_PX))
        torch.jit.save(torch.jit.freeze(traced), buffer, _extra_files={"info.json": json.dumps(facts, indent=2)})
    return _without_debug_records(buffer.getvalue())


def _without_debug_records(content: bytes) -> bytes:
    """A TorchScript archive without the records that hold the paths of the Python source."""
    cleaned = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(cleaned, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            if not name.endswith(".debug_pkl"):
                new.writestr(zipfile.ZipInfo(name), old.read(name))
    return cleaned.getvalue()


def _read_torchscript(content: bytes):
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = torch.jit.load(io.BytesIO(content), map_location="cpu")

    def hazards_of(images):
        with torch.inference_mode():
            return network(torch.from_numpy(_network_input(images))).numpy()

    return hazards_of


_WRITERS = {
    "onnx": (_onnx_bytes, _read_onnx),
    "safetensors": (_safetensors_bytes, _read_safetensors),
    "torchscript": (_torchscript_bytes, _read_torchscript),
}
