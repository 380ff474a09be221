"""Files appear whole or not at all."""

import csv
import os
import sys

import pytest

from CNNSurvivalLib.errors import CNNSurvivalError
from CNNSurvivalLib.files import atomic_write, ensure_output_folder, write_csv, write_json


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(path) as stream:
        stream.write("half")
        raise RuntimeError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]
    with atomic_write(path) as stream:
        stream.write("new")
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["a.txt"]


def test_a_file_is_forced_to_disk_unless_it_can_be_made_again(tmp_path, monkeypatch):
    forced = []
    monkeypatch.setattr(os, "fsync", forced.append)
    for to_disk in (True, False):
        with atomic_write(tmp_path / "a", "wb", to_disk=to_disk) as stream:
            stream.write(b"whole")
        assert [path.name for path in tmp_path.iterdir()] == ["a"] and len(forced) == 1


def test_csv_keeps_full_precision_and_disarms_formulas(tmp_path):
    path = tmp_path / "a.csv"
    write_csv(path, ["x", "y"], [[0.1 + 0.2, None], ["=cmd|' /C calc'!A0", -1.5], ["a,\nb", True]])
    with open(path, newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    assert rows == [["x", "y"], ["0.30000000000000004", ""], ["'=cmd|' /C calc'!A0", "-1.5"], ["a,\nb", "True"]]


def test_json_refuses_what_json_cannot_say(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert os.listdir(tmp_path) == []


def test_an_output_folder_that_cannot_be_is_said_in_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CNNSurvivalError, match="cannot be written"):
        ensure_output_folder(tmp_path / "file")
    with pytest.raises(CNNSurvivalError, match="cannot be written"):
        ensure_output_folder(tmp_path / "file" / "below")
    assert ensure_output_folder(tmp_path / "a" / "b").is_dir()


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(CNNSurvivalError, match="permissions"):
        ensure_output_folder(tmp_path)
