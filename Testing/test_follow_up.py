"""Follow-up from published clinical tables: the declared mappings, and what no mapping may guess."""

import pandas as pd
import pytest

from CNNSurvivalLib.errors import UsageError
from training_cli.cohort.follow_up import clinical_files, find_follow_up, read_mappings

TCIA_LUNG = """PatientID,age,clinical.T.Stage,Clinical.N.Stage,Clinical.M.Stage,Overall.Stage,Histology,gender,\
Survival.time,deadstatus.event
LUNG1-001,78.7515,2,3,0,IIIb,large cell,male,2165,1
LUNG1-002,NA,2,0,0,I,squamous cell carcinoma,male,155,0
"""
# Death before the "last follow-up", as in the real tables; a control sample; nothing known.
PDC = """Case Submitter ID,Vital Status,Days to Death,Days to Last Follow Up,Age at Diagnosis,AJCC Pathologic T,Sex
C3N-1,Dead,143.00,396.00,25895,T3,female
C3N-2,Alive, ,271.00,26268,T2,male
C3N-3,Not Reported, , ,,,
C3N-4,Dead, ,500.00,20000,T1,male
C3N-5,Alive, ,0.00,20000,T1c,male
QC1, , , ,,,
"""
GDC = """cases.submitter_id\tdemographic.vital_status\tdemographic.days_to_death\t\
diagnoses.days_to_last_follow_up\tdiagnoses.age_at_diagnosis\tdiagnoses.ajcc_pathologic_t
C3N-1\tDead\t143\t396\t25895\tT3
C3N-1\tDead\t143\t'--\t'--\tT3
C3N-2\tAlive\t'--\t200\t26268\tT2
C3N-2\tAlive\t'--\t271\t26268\tT4
C3N-6\tAlive\t'--\t10\t1\tT1
C3N-6\tDead\t11\t10\t1\tT1
"""


def found(tmp_path, text, collection, patients, name="table.csv", own=None):
    (tmp_path / name).write_text(text)
    return find_follow_up([tmp_path / name], collection, patients, read_mappings(own))


def test_the_table_of_nsclc_radiomics(tmp_path):
    result = found(tmp_path, TCIA_LUNG, "nsclc_radiomics", ["LUNG1-001", "LUNG1-002", "LUNG1-003"])
    table = result.table.set_index("patient_id")
    assert list(table["time_days"]) == [2165, 155] and list(table["event"]) == [1, 0]
    first, second = table.iloc[0], table.iloc[1]
    assert (first["t_stage"], first["n_stage"], first["m_stage"], first["overall_stage"]) == ("2", "3", "0", "IIIb")
    assert first["age_years"] == "78.7515" and second["age_years"] == "" and first["histology"] == "large cell"
    assert result.missing == [("LUNG1-003", "The clinical table has no row of this patient.")]
    assert "start of radiotherapy" in result.time_origin


def test_the_same_table_at_imaging_data_commons(tmp_path):
    """A folder of Parquet files; its names are without dots, and some numbers are numbers."""
    folder = tmp_path / "clinical" / "nsclc_radiomics_clinical"
    folder.mkdir(parents=True)
    rows = {"dicom_patient_id": ["LUNG1-001"], "survivaltime": [2165], "deadstatusevent": [1.0], "age": [None],
            "clinicaltstage": ["2"]}  # fmt: skip
    pd.DataFrame(rows).to_parquet(folder / "000000000000.parquet")
    result = find_follow_up(clinical_files(tmp_path / "clinical"), "nsclc_radiomics", ["LUNG1-001"], read_mappings())
    assert result.table.iloc[0][["time_days", "event", "t_stage"]].tolist() == [2165, 1, "2"]


def test_the_dead_count_to_death_even_where_the_last_follow_up_is_later(tmp_path):
    result = found(tmp_path, PDC, "cptac_pda", ["C3N-1", "C3N-2", "C3N-3", "C3N-4", "C3N-5"])
    table = result.table.set_index("patient_id")
    assert list(table.index) == ["C3N-1", "C3N-2", "C3N-5"]
    assert list(table["time_days"]) == [143, 271, 0] and list(table["event"]) == [1, 0, 0]
    assert list(table["age_years"]) == ["70.9", "71.9", "54.8"]
    assert result.time_origin == "the date of diagnosis"
    reasons = dict(result.missing)
    assert "does not say whether" in reasons["C3N-3"] and "Not Reported" not in reasons["C3N-3"]
    assert reasons["C3N-4"] == "The patient died, but the time is not a number of days (empty)."


def test_several_rows_of_a_patient(tmp_path):
    result = found(tmp_path, GDC, "cptac_pda", ["C3N-1", "C3N-2", "C3N-6"], "clinical.tsv")
    table = result.table.set_index("patient_id")
    assert table.loc["C3N-1", ["time_days", "event"]].tolist() == [143, 1]
    assert table.loc["C3N-2", "time_days"] == 271 and table.loc["C3N-2", "t_stage"] == ""  # the rows differ
    assert result.missing == [("C3N-6", "The rows of this patient contradict each other: Alive, Dead.")]


def test_idc_names_and_the_day_that_the_table_counts_from(tmp_path):
    text = ("dicom_patient_id,demo__vital_status,demo__days_to_death,diag__days_to_last_follow_up,"
            "follow__days_to_follow_up,index_date,diag__ajcc_pathologic_n\n"
            "C3N-1,Dead,5,,700,Diagnosis,N1\nC3N-2,Alive,,,300,Diagnosis,N0\n"
            "C3N-2,Alive,,,900,Diagnosis,N0\n")  # fmt: skip
    result = found(tmp_path, text, "cptac_pda", ["C3N-1", "C3N-2"])
    assert list(result.table["time_days"]) == [5, 900] and list(result.table["n_stage"]) == ["N1", "N0"]
    assert result.time_origin == "Diagnosis, says the table"


def test_other_columns_are_listed_and_can_be_declared(tmp_path):
    text = "Patient,OS_months_as_days,died\nC3N-1,33,Y\n"
    with pytest.raises(UsageError, match=r"no known columns of follow-up; it has: Patient, OS_months_as_days, died\. "
                                         r".*vital_status"):  # fmt: skip
        found(tmp_path, text, "cptac_pda", ["C3N-1"])
    own = tmp_path / "own.toml"
    own.write_text('[[clinical]]\nname = "mine"\nid = ["patient"]\nevent = ["died"]\ndead = ["y"]\nalive = ["n"]\n'
                   'time = ["os_months_as_days"]\ntime_origin = "surgery"\n')  # fmt: skip
    result = found(tmp_path, text, "cptac_pda", ["C3N-1"], own=own)
    assert (result.source, result.time_origin) == ("mine", "surgery") and result.table["time_days"].tolist() == [33]


def test_a_table_of_other_patients_is_no_follow_up(tmp_path):
    with pytest.raises(UsageError, match="follow-up of none of the 1 patients"):
        found(tmp_path, PDC, "cptac_pda", ["C3L-9"])


def test_a_mapping_with_a_mistake_is_named(tmp_path):
    own = tmp_path / "own.toml"
    own.write_text('[[clinical]]\nname = "mine"\nid = ["p"]\nevent = ["e"]\ndead = ["1"]\nalive = ["0"]\n'
                   'time_dead = ["t"]\ntime_origin = "surgery"\n')  # fmt: skip
    with pytest.raises(UsageError, match="mapping 'mine' needs columns for id, event, and time"):
        read_mappings(own)


def test_an_id_that_a_spreadsheet_would_take_for_a_formula_is_found_again(tmp_path):
    """``write_csv`` marks it so that a spreadsheet does not run it; our own reading takes the mark off."""
    from CNNSurvivalLib.files import write_csv
    from training_cli.cohort.follow_up import chosen_patients
    from training_cli.cohort.splits import read_patients

    write_csv(tmp_path / "selection.csv", ("patient_id", "image"), [("-A01", "series/1"), ("+B", "series/2")])
    assert list(chosen_patients(tmp_path)["patient_id"]) == ["-A01", "+B"]
    assert read_patients(tmp_path / "selection.csv") == ["-A01", "+B"]
