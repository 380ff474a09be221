"""``cnn-survival prepare``."""

from __future__ import annotations

import argparse
from pathlib import Path

from CNNSurvivalLib.errors import existing

from ..options import DONE, SOME_FAILED, add_command, positive, whole_number

DESCRIPTION = """\
Cut the masked slices of a cohort and put them, with the patients' follow-up, into a store to train on.

    cnn-survival prepare cases.csv --output STORE
    cnn-survival prepare cases.csv --like lung-head-neck --output STORE
    cnn-survival prepare DICOM_FOLDER --clinical patients.csv --segment GTV-1 --output STORE

cases.csv has the columns patient_id, image, mask and, if needed, segment and series_uid, as for predict; paths are
relative to it.
Follow-up is in its columns time_days (days) and event (1 = died, 0 = censored), or in a table of its own
(--clinical). In a DICOM folder each RTSTRUCT or SEG is paired with the CT series that it refers to.

A network can only be fine-tuned, recalibrated or scored on slices that were cut as its own: --like takes its settings.

STORE gets slices.npy (every usable slice, 140 x 140), slices.csv, patients.csv and store.json. A patient who cannot
be used is listed in rejected.csv with the reason, and the others go on. If the work is stopped, the same command goes
on with it.
"""

# Field of Preprocessing -> the option that sets it.
SLICE_OPTIONS = {"slice_step_mm": "--slice-step-mm", "pixel_size_mm": "--pixel-size-mm", "hu_window": "--hu-window",
                 "min_roi_px": "--min-roi"}  # fmt: skip


def add_prepare(commands) -> None:
    summary = "cut the slices of a cohort and put them into a store to train on"
    command = add_command(commands, "prepare", _run, summary, DESCRIPTION)
    command.add_argument("source", type=Path, metavar="MANIFEST|DICOM_FOLDER", help="the table of cases, or a folder "
                         "of DICOM files")  # fmt: skip
    command.add_argument("--output", type=Path, required=True, metavar="STORE", help="the folder of the store")
    command.add_argument("--clinical", type=Path, metavar="TABLE", help="the patients' follow-up (CSV); default: the "
                         "manifest's own columns")  # fmt: skip
    for name, meaning in (("id", "patient"), ("time", "time in days"), ("event", "death (1) or not (0)")):
        command.add_argument(f"--{name}-column", metavar="NAME", help=f"the follow-up's column for the {meaning}")
    command.add_argument("--where", action="append", type=_condition, default=[], metavar="COLUMN=VALUE", help="only "
                         "rows with this value; may be given several times")  # fmt: skip
    command.add_argument("--segment", metavar="PATTERN", help="which structure of an RTSTRUCT or SEG is the tumour, as "
                         "a regular expression (GTV-1, for example), where the manifest names none")  # fmt: skip
    slices = command.add_argument_group("slices")
    slices.add_argument("--like", metavar="NETWORK", help="cut them as this network's: a bundle's folder, a model that "
                        "ships ('cnn-survival models' lists them), or the folder of a training")  # fmt: skip
    # Those that are not given are absent from the options: they are Preprocessing's, or the network's.
    slices.add_argument("--slice-step-mm", type=positive, default=argparse.SUPPRESS, metavar="MM",
                        help="on thinner slices use only every n-th, so that they are about so far apart (default: use "
                        "all)")  # fmt: skip
    slices.add_argument("--pixel-size-mm", type=_size, default=argparse.SUPPRESS, metavar="MM", help="resample slices "
                        "to this pixel size, or 'native' (default 1)")  # fmt: skip
    slices.add_argument("--hu-window", type=float, nargs=2, default=argparse.SUPPRESS, metavar=("LOW", "HIGH"),
                        help="the HU that become black and white (default -160 240)")  # fmt: skip
    slices.add_argument("--min-roi", dest="min_roi_px", type=whole_number, default=argparse.SUPPRESS, metavar="PX",
                        help="use slices with at least so many tumour pixels (default 250)")  # fmt: skip
    work = command.add_argument_group("work")
    work.add_argument("--jobs", type=whole_number, default=1, metavar="N", help="cases at once (default 1)")
    work.add_argument("--backend", choices=("joblib", "dask"), default="joblib", help="who does it: this machine "
                      "(joblib, default) or a Dask cluster")  # fmt: skip
    work.add_argument("--scheduler", metavar="ADDRESS", help="with --backend dask: the scheduler, such as "
                      "tcp://host:8786; its workers must see the same folders")  # fmt: skip
    work.add_argument("--keep-parts", action="store_true", help="keep the finished cases' files, so that a later run "
                      "over more patients need not cut these again")  # fmt: skip


def _run(options) -> int:
    if (options.backend == "dask") != (options.scheduler is not None):
        options.parser.error("--backend dask and --scheduler go together")
    for path, what in ((options.source, "manifest"), (options.clinical, "clinical table")):
        if path is not None:
            existing(path, what)
    preprocessing = _preprocessing(options)
    from ..cohort.prepare import prepare

    given = {f"{name}_column": getattr(options, f"{name}_column") for name in ("id", "time", "event")}
    store = prepare(
        options.source, options.output, preprocessing, options.clinical, dict(options.where), options.segment,
        options.jobs, options.scheduler, {name: value for name, value in given.items() if value}, options.keep_parts,
    )  # fmt: skip
    rejected = len(store.rejected)
    print(f"The store is in '{store.folder}'.")
    if rejected:
        print(f"{rejected} patient{' is' if rejected == 1 else 's are'} not in it; 'rejected.csv' there says why.")
    return SOME_FAILED if rejected else DONE


def _preprocessing(options):
    """How the slices are to be cut: as --like's network, or as the options say."""
    from CNNSurvivalLib.slices import Preprocessing

    given = {name: getattr(options, name) for name in SLICE_OPTIONS if hasattr(options, name)}
    if options.like is not None:
        if given:
            options.parser.error(f"{SLICE_OPTIONS[next(iter(given))]} does not go with --like, which says how to cut")
        from ..training.runs import load_network

        return load_network(options.like).preprocessing
    if "hu_window" in given:
        given["hu_window"] = tuple(given["hu_window"])
        if given["hu_window"][0] >= given["hu_window"][1]:
            options.parser.error("--hu-window needs a lower and a higher value")
    return Preprocessing(**given)


def _condition(text: str) -> tuple[str, str]:
    column, sign, value = text.partition("=")
    if not sign or not column:
        raise argparse.ArgumentTypeError(f"'{text}' is not COLUMN=VALUE")
    return column.strip(), value.strip()


def _size(text: str) -> float | None:
    return None if text == "native" else positive(text)
