"""Mistakes in arguments are answered before anything slow is imported. Modules are asserted on, not times."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

sitk = pytest.importorskip("SimpleITK")
pytest.importorskip("pandas")

import dicom_maker  # noqa: E402
from cohort_maker import make_store  # noqa: E402

SLOW = ("torch", "lightning", "sklearn", "sksurv", "scipy.stats", "scipy.optimize", "scipy.ndimage", "matplotlib",
        "SimpleITK", "pydicom", "joblib", "idc_index")  # fmt: skip
RUN = """
import json, sys
from training_cli.cli import main
code = main(sys.argv[1:])
print(json.dumps([code, sorted(sys.modules)]))
"""
# pandas is slow, too, but needed for what stands in a table.
IN_TABLES = {"column", "risks", "cut"}
MISTAKES = {
    "image": "predict --image nope --mask {table} --output out",
    "mask": "predict --image {table} --mask nope --output out",
    "model": "predict --model nope --image {table} --mask {table} --output out",
    "population": "predict --population nope --image {table} --mask {table} --output out",
    "manifest": "predict --manifest nope --output out",
    "no output": "predict --image {table} --mask {table}",
    "cases": "prepare nope.csv --output out",
    "follow-up": "prepare {table} --clinical nope.csv --output out",
    "like": "prepare {table} --like nope --output out",
    "column": "prepare {table} --where nope=1 --output out",
    "pretrain": "pretrain nope --output out",
    "patients": "pretrain {store} --patients nope.csv --output out",
    "crossvalidate": "crossvalidate nope --output out",
    "network": "finetune nope {store} --output out",
    "store": "finetune lung-head-neck nope --output out",
    "cut": "finetune lung-head-neck {store} --output out",
    "taken": "finetune lung-head-neck {store} --output {taken}",
    "train": "baselines --train nope --test {store} --output out",
    "test": "baselines --train {store} --test nope --output out",
    "outputs of": "baselines --train {store} --test {store} --network nope --output out",
    "predictions": "evaluate --predictions nope.csv --output out",
    "risks": "evaluate --predictions {table} --output out",
    "evaluated model": "evaluate --model nope --store {store} --output out",
    "evaluated store": "evaluate --model lung-head-neck --store nope --output out",
    "evaluated population": "evaluate --model lung-head-neck --population nope --store {store} --output out",
    "recalibrated model": "recalibrate nope {store} --name a --title A --output out",
    "recalibrated store": "recalibrate lung-head-neck nope --name a --title A --output out",
    "study": "reproduce nope.toml --output out",
    "exported": "export nope --format onnx --output out",
    "exported store": "export lung-head-neck --store nope --name a --title A --output out",
    "download": "download nsclc_radiomics",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checks")
    table = folder / "cases.csv"
    table.write_text("patient_id,image,mask,time_days,event\np1,a,b,100,1\n")
    (folder / "taken").mkdir()
    (folder / "taken" / "run.json").write_text('{"kind": "finetune", "learn": "shift"}')
    return {"table": table, "store": make_store(folder / "store", patients=4), "taken": folder / "taken"}


def started(folder, arguments):
    """(exit code, modules that were imported, standard error) of a process of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", RUN, *arguments], capture_output=True, text=True, env=environment,
                          cwd=folder)  # fmt: skip
    assert done.returncode == 0, done.stderr
    code, modules = json.loads(done.stdout.splitlines()[-1])
    return code, set(modules), done.stderr


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_before_the_slow_imports(mistake, files, tmp_path):
    code, modules, said = started(tmp_path, MISTAKES[mistake].format(**files).split())
    assert code == 2 and "rror: " in said, said
    assert not modules & {*SLOW, *(() if mistake in IN_TABLES else ("pandas",))}
    assert not (tmp_path / "out").exists() or mistake in IN_TABLES
    assert mistake != "taken" or "holds a training with other settings (learn shift, not auto)" in said


def test_one_case_of_dicom_loads_no_more_than_it_needs(tmp_path, sphere, tiny_bundle):
    hu, mask = sphere(shape=(16, 70, 75), spacing=dicom_maker.SPACING, radius_mm=17)
    dicom_maker.write_ct(tmp_path / "ct", hu)
    image = sitk.GetImageFromArray(mask)
    image.SetSpacing(dicom_maker.SPACING[::-1])
    image.SetOrigin(dicom_maker.ORIGIN)
    sitk.WriteImage(image, str(tmp_path / "mask.nrrd"))
    arguments = ["predict", "--image", "ct", "--mask", "mask.nrrd", "--model", str(tiny_bundle.folder), "--output", "o"]
    code, modules, said = started(tmp_path, arguments)
    assert code == 0, said
    assert {"SimpleITK", "pydicom"} <= modules
    assert not modules & {"matplotlib", "scipy.ndimage", "scipy.optimize", "pandas", "torch", "highdicom"}


def test_the_picture_is_a_png_that_others_read(tmp_path):
    image = pytest.importorskip("PIL.Image")
    from training_cli.figures.canvas import Canvas

    canvas = Canvas(200, 100)
    canvas.polyline([(20, 50), (180, 50)], "#ff0000", 4.8)
    canvas.polyline([(20, 80), (180, 80)], "#0000ff", 2.4, (20, 20))
    canvas.box(96, 24, 144, 36, "#000000", 0.5)
    canvas.image(0, 0, 48, 24, np.array([[0, 255], [255, 0]], np.uint8))
    canvas.text(150, 20, "37%", 12)
    path = tmp_path / "a.png"
    path.write_bytes(canvas.png())
    with image.open(path) as opened:
        pixels = np.asarray(opened.convert("RGB")).astype(int)
    assert np.array_equal(pixels, sitk.GetArrayFromImage(sitk.ReadImage(str(path))))
    assert pixels.shape == (208, 417, 3)
    assert pixels[104, 200].tolist() == [255, 0, 0] and pixels[104, 30].tolist() == [255] * 3
    assert (255 - pixels[90:120, 200, 1]).sum() / 255 == pytest.approx(10, abs=0.3)  # 4.8 points
    blue = pixels[167, :, 0] < 128
    assert blue.sum() == pytest.approx(4 * 20 * 150 / 72, abs=4) and np.diff(blue.astype(int)).clip(0).sum() == 4
    assert pixels[62, 250].tolist() == [pytest.approx(127, abs=1)] * 3
    assert pixels[10, 20].tolist() == [0] * 3 and pixels[10, 80].tolist() == [255] * 3
    (text,) = canvas.texts
    ink = np.argwhere(pixels[:60, 305:].min(axis=2) < 128) + [0, 305]
    left, top, right, bottom = (value * 150 / 72 for value in text[1:])
    assert left - 1 <= ink[:, 1].min() and ink[:, 1].max() <= right + 1
    assert top - 1 <= ink[:, 0].min() and ink[:, 0].max() <= bottom + 1
