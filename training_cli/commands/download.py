"""``cnn-survival download``."""

from __future__ import annotations

from pathlib import Path

from ..options import DONE, add_command, print_table, whole_number

DESCRIPTION = """\
Fetch a public cohort (CT, contours and, where there is one, the clinical table) from NCI Imaging Data Commons.

    cnn-survival download nsclc_radiomics --dry-run
    cnn-survival download nsclc_radiomics --output FOLDER

    nsclc_radiomics       non-small cell lung cancer, 422 patients: the paper's cohort 1
    nsclc_radiogenomics   non-small cell lung cancer, resected
    cptac_pda             pancreatic ductal adenocarcinoma

Other collections with CT and RTSTRUCT or SEG work, too. --dry-run needs no network; it prints the size and the licence
of the data. FOLDER/selection.csv is a manifest for 'cnn-survival prepare', which says why each contour and CT was
chosen, and what is ambiguous. If the download is stopped, the same command continues it.
"""
ENDPOINT = "aws, gcs or a mirror's address (default: $CNNSURVIVAL_S3_ENDPOINT, else $S3_ENDPOINT_URL, else aws)"
RULES = "own rules of choice, in a file such as training_cli/cohort/collections.toml"
INDEX = "another index of series, as parquet (default: $CNNSURVIVAL_IDC_INDEX, else that of idc-index)"


def add_download(commands) -> None:
    summary = "fetch a public cohort from NCI Imaging Data Commons"
    command = add_command(commands, "download", _run, summary, DESCRIPTION)
    command.add_argument("collection", metavar="COLLECTION", help="its id at Imaging Data Commons")
    command.add_argument("--output", type=Path, metavar="FOLDER", help="where it goes")
    command.add_argument("--patients", type=whole_number, metavar="N", help="only the first N patients")
    command.add_argument("--without", nargs="+", default=[], metavar="PATIENT", help="patients to leave out")
    command.add_argument("--endpoint", metavar="WHERE", help=ENDPOINT)
    command.add_argument("--index", type=Path, metavar="FILE", help=INDEX)
    command.add_argument("--collections", type=Path, metavar="FILE", help=RULES)
    command.add_argument("--dry-run", action="store_true", help="print what would be fetched, and fetch nothing")


def _run(options) -> int:
    if options.output is None and not options.dry_run:
        options.parser.error("give --output, or --dry-run")
    from ..cohort import download

    chosen = download.make_plan(
        options.collection, options.index, options.patients, options.without, options.collections
    )
    print_table(download.summary(download.estimate(chosen)))
    if options.dry_run:
        return DONE
    folder = download.fetch_plan(chosen, options.output, options.endpoint)
    clinical = _follow_up(folder, options.collection)
    print(f"Next: cnn-survival prepare {folder / 'selection.csv'} --clinical {clinical} --like lung-head-neck "
          "--output STORE")  # fmt: skip
    print("(--like NETWORK is for what you fine-tune, recalibrate or score; leave it out to train a network anew.)")
    return DONE


def _follow_up(folder: Path, collection: str):
    """The table of follow-up for ``prepare``, or a word in its place. The images can be used without."""
    from CNNSurvivalLib.errors import UsageError

    from ..cohort import follow_up

    if not follow_up.clinical_files(folder / "clinical"):
        return "TABLE"  # ``fetch`` has said why
    try:
        found = follow_up.write_follow_up(folder, collection)
    except UsageError as error:
        print(f"{error} All its columns are in '{folder / 'clinical.csv'}'.")
        return "TABLE"
    deaths = int(found.table["event"].sum())
    print(f"{len(found.table)} patients have follow-up, {deaths} of them died; days count from "
          f"{found.time_origin}. {len(found.missing)} have none ({follow_up.WITHOUT_FILE}).")  # fmt: skip
    return folder / follow_up.FOLLOW_UP_FILE
