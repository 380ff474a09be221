"""Which contour and which CT: the rules of collections.toml on the real index of Imaging Data Commons, offline."""

import re

import pandas as pd
import pytest

from CNNSurvivalLib.errors import UsageError
from training_cli.cli import main
from training_cli.cohort import download, idc_index, selection
from training_cli.cohort.collections import Collection, known_collection, read_collections
from training_cli.cohort.contour_file import Contour

# Of the inventory of public CPTAC-PDA contours: patient, the CT series that a "Pre-Dose, PANCREAS" contour refers to,
# by the first digits of the last part of their UIDs. These are facts of the RTSTRUCT files. The first of each patient is
# the one that the inventory's authors took, by the order venous, arterial, contrast.
INVENTORY = (
    "C3L-00401 11522233 20480813, C3L-00599 52896290, C3L-00625 28443415 30706544, C3L-02112 50919419 10069579, "
    "C3L-02115 70466839 11468736, C3L-02118 28210499, C3L-02606 12149703, C3L-02613 31839038 28918476, "
    "C3L-02890 27114120 26066785, C3L-03123 25365925 87869380, C3L-03628 14314912 13954402, "
    "C3L-03632 13559321 15597152, C3L-03639 14787406, C3L-03743 76387360 10634571, C3L-04475 26663700, "
    "C3L-04479 14734005, C3L-04495 84767589, C3L-04848 28742233, C3L-04853 74519158, C3N-00198 16848084 11940352, "
    "C3N-00249 17652010, C3N-00302 15340261, C3N-00303 22847645, C3N-00511 62236170 15653744 28225648, "
    "C3N-00512 14185182 25214950, C3N-00513 84074214, C3N-00518 10438665, C3N-00957 98436130 84440702, "
    "C3N-01165 24639546 23397357, C3N-01166 31534301 33055180, C3N-01167 25725643 14596070 48333406, "
    "C3N-01375 13802034, C3N-01381 19570705, C3N-01382 16195681, C3N-01383 32494768, C3N-01502 21590660, "
    "C3N-01714 11029082, C3N-01715 26941935 24514991, C3N-02010 16985214, C3N-02592 87961107, "
    "C3N-02971 18095408 19398840, C3N-02998 15662911, C3N-03000 18189043 19641787, C3N-03426 27030802, "
    "C3N-03430 36981572 19101044 72175185, C3N-03670 16798721 32800108"
)


def test_the_papers_cohort_is_whole():
    pytest.importorskip("idc_index_data")
    plan = download.make_plan("NSCLC-Radiomics")
    assert len(plan.patients) == 422 and not plan.without
    assert len(plan.contours) == len(plan.ct) == 422
    assert set(plan.contours["Modality"]) == {"RTSTRUCT"}
    assert set(plan.contours["analysis_result_id"].isna()) == {True}
    numbers = download.estimate(plan)
    assert numbers.exact and not numbers.ambiguous and numbers.licences == ("CC BY-NC 3.0",)
    assert numbers.bytes == pytest.approx(27.54e9, rel=1e-3)


@pytest.fixture(scope="module")
def pancreas():
    pytest.importorskip("idc_index_data")
    return download.make_plan("cptac_pda")


def test_pancreas_contours_before_treatment(pancreas):
    """75 patients: 68 whose lesion has the number 1, and 7 with another numbering."""
    assert len(pancreas.patients) == 75
    descriptions = pancreas.contours["SeriesDescription"]
    assert all(text.startswith("Pre-Dose, PANCREAS - ") and "SEED" not in text for text in descriptions)
    first = pancreas.contours[descriptions == "Pre-Dose, PANCREAS - 1"]
    assert first["PatientID"].nunique() == 68
    assert pancreas.contours.groupby("PatientID")["StudyInstanceUID"].nunique().max() == 1
    # Annotated on MR alone: not among them.
    assert not {"C3L-02610", "C3N-00514", "C3N-01716"} & {patient.patient_id for patient in pancreas.patients}


def test_what_the_index_leaves_open_is_listed(pancreas):
    doubts = {patient.patient_id: patient.doubts for patient in pancreas.patients if patient.doubts}
    two = {"C3L-03350", "C3L-05053", "C3L-05752", "C3L-05754"}
    numbered_2 = {"C3L-02112", "C3L-02118", "C3L-03622", "C3L-03624", "C3L-04475", "C3L-05708"}
    assert set(doubts) == two | numbered_2 | {"C3N-01907"}
    assert all("lesions 1, 2 are drawn" in doubts[patient][0] for patient in two)
    assert all("has the number 2" in doubts[patient][0] for patient in numbered_2)
    assert "'Pre-Dose, PANCREAS - 1 - 2'" in doubts["C3N-01907"][0]
    lesions = {patient.patient_id: patient.lesion for patient in pancreas.patients}
    assert {lesions[patient] for patient in two} == {"1"} and {lesions[patient] for patient in numbered_2} == {"2"}
