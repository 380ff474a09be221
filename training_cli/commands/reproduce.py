"""``cnn-survival reproduce``."""

from __future__ import annotations

from pathlib import Path

from ..options import DONE, add_command, print_table, usual_jobs, whole_number

DESCRIPTION = """\
Do the whole study of the paper on your cohorts, from one configuration file.

    cnn-survival reproduce nsclc.toml --data FOLDER --output WORK

Cuts the slices, pretrains, splits the fine-tuning cohort by patient, fine-tunes, fits the comparisons (PyRadiomics
and the network's outputs with LASSO-Cox, tumour volume, stage and age), scores everything on the test patients, and
makes the bundles. WORK/report/report.html has the results; WORK/models has the bundles. If the work is stopped, the
same command continues it.

A configuration with [[population]] tables trains one network and adapts it to several populations, each judged on
patients held out.

    cnn-survival reproduce training_cli/configs/pdac.toml --output WORK --dry-run
    cnn-survival reproduce training_cli/configs/pdac.toml --output WORK

A configuration with [[cohort]] tables downloads its cohorts from NCI Imaging Data Commons first, into WORK/data or
--data FOLDER. --dry-run says what that takes: patients, gigabytes, licences, hours on this machine.

The configurations of our own runs are training_cli/configs/nsclc.toml and head-neck.toml; their comments explain each
line.
"""


def add_reproduce(commands) -> None:
    summary = "do the paper's whole study from one configuration file"
    command = add_command(commands, "reproduce", _run, summary, DESCRIPTION)
    command.add_argument("config", type=Path, metavar="CONFIG", help="the configuration, a TOML file")
    command.add_argument("--data", type=Path, metavar="FOLDER", help="where the manifest lies (default: beside "
                         "CONFIG), or where cohorts are downloaded to (default: WORK/data)")  # fmt: skip
    command.add_argument("--output", type=Path, required=True, metavar="WORK", help="where everything goes")
    command.add_argument("--jobs", type=whole_number, metavar="N", help="cases at once, for slices and "
                         "radiomics (default: as many as there are cores)")  # fmt: skip
    command.add_argument("--dry-run", action="store_true", help="say what it will take, and do nothing")
    public = command.add_argument_group("public cohorts")
    public.add_argument("--endpoint", metavar="WHERE", help="where to download from: aws, gcs, or the URL of a mirror "
                        "(default: $CNNSURVIVAL_S3_ENDPOINT, else $S3_ENDPOINT_URL, else aws)")  # fmt: skip
    public.add_argument("--index", type=Path, metavar="FILE", help="the index of series, a Parquet file (default: "
                        "$CNNSURVIVAL_IDC_INDEX, else that of the package idc-index-data)")  # fmt: skip


def _run(options) -> int:
    from threadpoolctl import threadpool_limits

    from ..study.config import TransferStudy, read_study

    study = read_study(options.config, options.data)  # before the slow imports: a mistake is reported at once
    if study.cohort and options.data is None:
        study = study.model_copy(update={"folder": options.output / "data"})
    with threadpool_limits(1, "blas"):
        if options.dry_run:
            return _dry_run(study, options)
        if study.cohort:
            from ..study.fetch import fetch_cohorts

            fetch_cohorts(study, options.endpoint, options.index)
        if isinstance(study, TransferStudy):
            return _transfer(study, options)
        return _paper(study, options)


def _dry_run(study, options) -> int:
    from ..study.estimate import estimate

    print_table(estimate(study, options.output, options.jobs or usual_jobs(), options.index))
    return DONE


def _transfer(study, options) -> int:
    from ..study import transfer, transfer_report

    outcome = transfer.transfer(study, options.output, options.jobs or usual_jobs())
    page = transfer_report.write(outcome, options.output / "report")
    print(f"The report is '{page}'; the bundle is in '{outcome.bundle.folder}'.")
    return DONE


def _paper(study, options) -> int:
    from ..study import pipeline, report

    outcome = pipeline.reproduce(study, options.output, options.jobs or usual_jobs())
    page = report.write(outcome, options.output / "report")
    print(f"The report is '{page}'; the bundles are in '{options.output / 'models'}'.")
    return DONE
