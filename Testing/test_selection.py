"""Which contour and which CT: the rules of collections.toml on the real index of Imaging Data Commons, offline."""

import pandas as pd
import pytest

from CNNSurvivalLib.errors import UsageError
from training_cli.cohort import download, selection
from training_cli.cohort.collections import Collection, known_collection, read_collections
from training_cli.cohort.contour_file import Contour

# Of the inventory of public CPTAC-PDA contours: patient, the CT series that a "Pre-Dose, PANCREAS" contour refers to,
# by the first digits of the last part of their UIDs. These are facts of the RTSTRUCT files. The first of each patient
# is the one that the inventory's authors took, by the order venous, arterial, contrast.
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


def by_inventory(patient):
    """What the contours of one of the inventory's patients say: each refers to one of the CT, and others are empty."""
    tails = dict((name, rest) for name, *rest in (item.split() for item in INVENTORY.split(", ")))[patient.patient_id]
    uids = patient.ct["SeriesInstanceUID"]
    found = [next(uid for uid in uids if uid.rsplit(".", 1)[1].startswith(tail)) for tail in tails]
    contours = list(patient.contours["SeriesInstanceUID"])
    read = {uid: Contour(None, None) for uid in contours}
    return read | {uid: Contour("PANCREAS  - 1", ct) for uid, ct in zip(contours, found)}, found[0]


def test_the_ct_of_the_inventory(pancreas):
    """Of its 46 patients, 38 are decided, and as its authors did; the rest has series that are alike, and is listed."""
    listed = [item.split()[0] for item in INVENTORY.split(", ")]
    patients = [patient for patient in pancreas.patients if patient.patient_id in listed]
    assert len(patients) == len(listed) == 46
    decided, open_ = {}, set()
    for patient in patients:
        read, theirs = by_inventory(patient)
        choice = selection.choose(patient, read, pancreas.known)
        if set(choice.doubts) == set(patient.doubts):
            decided[patient.patient_id] = choice.ct["SeriesInstanceUID"] == theirs
        else:
            open_.add(patient.patient_id)
            assert "the one with most slices is taken" in choice.doubts[-1] and len(choice.candidates) > 1
    assert len(decided) == 38 and all(decided.values())
    assert open_ == {"C3N-00198", "C3N-00511", "C3N-00512", "C3N-01166", "C3N-01167", "C3N-01715", "C3N-03430",
                     "C3N-03670"}  # fmt: skip


def test_the_centre_is_read_from_the_uid(pancreas):
    found = pd.Series([
        selection.centre(selection.Choice(patient, None, patient.ct.iloc[0], "", (), (), ""), pancreas.known)
        for patient in pancreas.patients
    ])  # fmt: skip
    assert found.value_counts().to_dict() == {"1078": 36, "3320": 25, "1427": 6, "7085": 6, "2857": 1, "4801": 1}


# --- Made-up rows -----------------------------------------------------------------------------------------------------


def series(patient, study, uid, modality, description="", analysis=None, count=3):
    return {
        "collection_id": "made_up", "analysis_result_id": analysis, "PatientID": patient, "StudyInstanceUID": study,
        "StudyDate": "2020-01-0" + study[-1], "SeriesInstanceUID": uid, "SeriesDescription": description,
        "Modality": modality, "series_size_MB": 10.0, "instanceCount": count, "license_short_name": "CC BY 4.0",
        "bytes": 10_000_000, "series_aws_url": f"s3://bucket/{uid}/*",
    }  # fmt: skip


ROWS = pd.DataFrame([
    series("a", "s1", "a.ct", "CT", "portal venous"),
    series("a", "s1", "a.ct2", "CT", "arterial", count=9),
    series("a", "s1", "a.seg", "SEG"),
    series("a", "s1", "a.rt", "RTSTRUCT"),
    series("a", "s2", "a.late", "RTSTRUCT"),
    series("a", "s2", "a.ct3", "CT"),
    series("a", "s1", "a.robot", "RTSTRUCT", analysis="somebodys_network"),
    series("b", "s1", "b.ct", "CT"),
    series("b", "s2", "b.seg", "SEG"),  # in a study without a CT
    series("c", "s1", "c.seg", "SEG"),
    series("c", "s1", "c.ct", "CT"),
])  # fmt: skip


def uids(table):
    return list(table["SeriesInstanceUID"])


def test_the_general_rule():
    plan = selection.plan(ROWS, "made_up", Collection())
    assert [patient.patient_id for patient in plan.patients] == ["a", "c"] and plan.without == ["b"]
    assert uids(plan.contours) == ["a.rt", "c.seg"] and uids(plan.ct) == ["a.ct", "a.ct2", "c.ct"]
    assert len(selection.plan(ROWS, "made_up", Collection(), patients=1).patients) == 1
    assert uids(selection.plan(ROWS, "made_up", Collection(), without=["a"]).contours) == ["c.seg"]
    assert uids(selection.plan(ROWS, "made_up", Collection(analysis="somebodys_network")).contours) == ["a.robot"]
    named = selection.plan(ROWS, "made_up", Collection(contours={"a": "a.late"}))
    assert uids(named.patients[0].contours) == ["a.late"] and uids(named.patients[0].ct) == ["a.ct3"]


@pytest.mark.parametrize(
    "known, without, words",
    [
        (Collection(), ["d"], "has no patient 'd'"),
        (Collection(contours={"d": "x"}), [], "has no patient 'd'"),
        (Collection(contours={"b": "b.seg"}), [], "'b.seg' that is named for patient 'b' is not in the index, or"),
        (Collection(description="nothing"), [], "no patient with a CT"),
    ],
)
def test_what_does_not_fit_the_index(known, without, words):
    with pytest.raises(UsageError, match=words):
        selection.plan(ROWS, "made_up", known, without=without)


def test_a_pair_that_the_contour_names():
    known = Collection(segment="gtv", prefer="venous")
    a, c = selection.plan(ROWS, "made_up", known).patients
    choice = selection.choose(a, {"a.rt": Contour("GTV", "a.ct2")}, known)
    assert choice.ct["SeriesInstanceUID"] == "a.ct2" and not choice.doubts
    assert choice.candidates == ("a.ct2 (arterial, 9 slices)",)
    for said, reason in (
        (Contour("GTV", "elsewhere"), "refers to no CT series of its study"),
        (Contour("GTV", None), "refers to no CT series of its study"),  # two CT: which one is not guessed
        (Contour(None, "a.ct"), "No contour has a structure that matches 'gtv'"),
    ):
        choice = selection.choose(a, {"a.rt": said}, known)
        assert choice.ct is None and reason in choice.reason
    assert selection.choose(c, {"c.seg": Contour("GTV", None)}, known).ct["SeriesInstanceUID"] == "c.ct"


def test_several_contours_of_one_lesion():
    rows = pd.concat([ROWS, pd.DataFrame([series("a", "s1", "a.rt2", "RTSTRUCT")])])
    known = Collection(prefer="venous")
    patient = selection.plan(rows, "made_up", known).patients[0]
    phase = selection.choose(patient, {"a.rt": Contour("G", "a.ct2"), "a.rt2": Contour("G", "a.ct")}, known)
    assert phase.ct["SeriesInstanceUID"] == "a.ct" and not phase.doubts and "preferred phase" in phase.reason
    same = selection.choose(patient, {"a.rt": Contour("G", "a.ct"), "a.rt2": Contour("G", "a.ct")}, known)
    assert same.contour["SeriesInstanceUID"] == "a.rt" and "several contours are drawn on the same CT" in same.doubts[0]
    alike = selection.choose(patient, {"a.rt": Contour("G", "a.ct2"), "a.rt2": Contour("G", "a.ct")}, Collection())
    assert alike.ct["SeriesInstanceUID"] == "a.ct2" and "do not tell the phase" in alike.doubts[0]


# --- The file of rules ------------------------------------------------------------------------------------------------


def test_own_rules_go_before_ours(tmp_path):
    own = tmp_path / "own.toml"
    own.write_text('[collection.cptac_pda]\nsegment = "tumour"\n[collection.mine]\nabout = "x"\n', encoding="utf-8")
    assert known_collection("CPTAC-PDA", own).segment == "tumour"
    assert known_collection("mine", own).about == "x"
    assert known_collection("nsclc_radiomics", own).segment == "GTV-1"
    assert known_collection("never_heard_of") == Collection()


@pytest.mark.parametrize(
    "text, words",
    [
        ("[collection.x]\nsegmant = 'a'\n", r"\[collection.x\] has an unknown key 'segmant'; allowed are: about"),
        ("[collection.x]\nprefer = '('\n", "'prefer' is no regular expression"),
        ("[collection.x]\ncentre = 'a'\n", "'centre' needs a group"),
        ("[collection.x]\ncontours = 'a'\n", "'contours' must be a table"),
        ("[collections.x]\n", r"must hold tables \[collection.NAME\]"),
    ],
)
def test_mistakes_in_the_rules(tmp_path, text, words):
    file = tmp_path / "own.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=words):
        read_collections(file)


def test_a_rule_may_hold_groups_and_brackets():
    """As a pattern of a user's own file: the number of the lesion is a group, brackets stand for themselves."""
    rows = pd.DataFrame(
        [{"collection_id": "own", "analysis_result_id": None, "PatientID": "P1", "StudyInstanceUID": "1",
          "StudyDate": "2020-01-01", "SeriesInstanceUID": uid, "SeriesDescription": text, "Modality": kind}
         for uid, text, kind in (("1.1", "chest", "CT"), ("1.2", "Tumor (1)", "RTSTRUCT"), ("1.3", "Lung", "RTSTRUCT"))]
    )  # fmt: skip
    found = selection.plan(rows, "own", Collection(description=r"^Tumou?r \((\d+)\)$"))
    assert [list(patient.contours["SeriesInstanceUID"]) for patient in found.patients] == [["1.2"]]
