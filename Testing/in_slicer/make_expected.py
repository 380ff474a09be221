"""Writes expected.json: what the command line says of the sample case, with the model that ships as default."""

import json
import sys
import tempfile
from pathlib import Path

import SimpleITK

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / "CNNSurvival"), str(HERE.parents[1])]

from CNNSurvivalLib.mrml import sample  # noqa: E402
from training_cli.cli import main  # noqa: E402

with tempfile.TemporaryDirectory() as folder:
    hu, tumour, _lung = sample.chest_ct()
    for name, array in (("ct", hu), ("mask", tumour)):
        image = SimpleITK.GetImageFromArray(array)
        image.SetSpacing(sample.SPACING_MM[::-1])
        SimpleITK.WriteImage(image, f"{folder}/{name}.nrrd")
    main(["predict", "--image", f"{folder}/ct.nrrd", "--mask", f"{folder}/mask.nrrd", "--output", f"{folder}/out"])
    found = json.loads(Path(folder, "out", "prediction.json").read_text(encoding="utf-8"))
kept = {
    "model_weights_sha256": found["provenance"]["model_weights_sha256"],
    "risk": found["risk"],
    "curve": [row["survival"] for row in found["curve"]],
}
(HERE / "expected.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
