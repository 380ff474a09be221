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
of the data. FOLDER/series gets the images for 'cnn-survival prepare'. If the download is stopped, the same command
continues it.
"""


def add_download(commands) -> None:
    summary = "fetch a public cohort from NCI Imaging Data Commons"
    command = add_command(commands, "download", _run, summary, DESCRIPTION)
    command.add_argument("collection", metavar="COLLECTION", help="its id at Imaging Data Commons")
    command.add_argument("--output", type=Path, metavar="FOLDER", help="where it goes")
    command.add_argument("--patients", type=whole_number, metavar="N", help="only the first N patients")
    command.add_argument("--dry-run", action="store_true", help="print what would be fetched, and fetch nothing")


def _run(options) -> int:
    if options.output is None and not options.dry_run:
        options.parser.error("give --output, or --dry-run")
    from ..cohort import download

    selection = download.select(download.offline_index(), options.collection, options.patients)
    print_table(download.summary(selection))
    if options.dry_run:
        return DONE
    client = download.open_client()
    images = download.download(selection, options.output, client)
    clinical = download.download_clinical(selection, options.output, client)
    if clinical is None:
        print("There is no clinical table at Imaging Data Commons; the collection's page has the follow-up.")
    else:
        print(f"Follow-up is in '{clinical}'; name its columns with --id-column, --time-column and --event-column.")
    pattern = download.segment_pattern(options.collection) or "PATTERN"
    print(f"Next: cnn-survival prepare {images} --clinical TABLE --segment '{pattern}' --like lung-head-neck "
          "--output STORE")  # fmt: skip
    print("(--like NETWORK is for what you fine-tune, recalibrate or score; leave it out to train a network anew.)")
    return DONE
