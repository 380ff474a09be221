"""The options that choose a store, and which of its patients; no command, but what several commands share."""

from __future__ import annotations

from pathlib import Path

from CNNSurvivalLib.errors import existing


def add_part_options(command, prefix: str = "", store: str = "the store") -> None:
    """Declare --patients and --part (--<prefix>-patients, --<prefix>-part): which patients of the store to use."""
    dash = f"{prefix}-" if prefix else ""
    command.add_argument(f"--{dash}patients", type=Path, metavar="CSV", help=f"only the patients of {store} that this "
                         "table lists in its column patient_id")  # fmt: skip
    command.add_argument(f"--{dash}part", metavar="NAME", help=f"with --{dash}patients: only those whose column 'part' "
                         "has this name")  # fmt: skip


def check_part_options(options, prefix: str = "", needs: str | None = None) -> None:
    """Refuse --part without --patients, --patients without the option ``needs``, and a file that does not exist."""
    dash, line = (f"{prefix}-", f"{prefix}_") if prefix else ("", "")
    part, patients = getattr(options, f"{line}part"), getattr(options, f"{line}patients")
    if part is not None and patients is None:
        options.parser.error(f"--{dash}part goes with --{dash}patients")
    if needs is not None and patients is not None and getattr(options, needs) is None:
        options.parser.error(f"--{dash}patients goes with --{needs.replace('_', '-')}")
    if patients is not None:
        existing(patients, "patients file")


def check_stores(options, *names: str) -> None:
    """Refuse, before anything slow is imported, what is no store; names: the options that hold the folders."""
    from ..cohort.store_files import check_store

    for name in names:
        if getattr(options, name) is not None:
            check_store(getattr(options, name))


def open_part(options, store: str = "store", prefix: str = ""):
    """The Store that the options choose, or the part of it.

    Parameters
    ----------
    options : argparse.Namespace
        Has ``store``, <prefix>_patients and <prefix>_part.
    store : str
        The name of the option with the store's folder.
    prefix : str
        As given to ``add_part_options``.
    """
    from ..cohort.splits import chosen_part

    line = f"{prefix}_" if prefix else ""
    return chosen_part(getattr(options, store), getattr(options, f"{line}patients"), getattr(options, f"{line}part"))
