"""``cnn-survival models``."""

from __future__ import annotations

import json

from ..options import DONE, add_command

DESCRIPTION = """\
List the models that ship with this software: their ids, folders, and what they are for.

    cnn-survival models
    cnn-survival models --json

Each serves one or more populations of patients: 'predict --population NAME' says to which the patient belongs.

The one marked with * is used unless --model says otherwise. --json prints all that is known of each: its folder,
whether it is the default, its populations (the default one first), and the content of its bundle.json.
"""


def add_models(commands) -> None:
    command = add_command(commands, "models", _run, "list the models that ship with this software", DESCRIPTION)
    command.add_argument("--json", action="store_true", help="print everything, as JSON")


def _run(options) -> int:
    from CNNSurvivalLib.bundle import default_bundle_folder, find_bundles, shipped_models_folder

    default, found = default_bundle_folder(), find_bundles([shipped_models_folder()])
    if options.json:
        print(json.dumps([_everything(*one, default) for one in found], indent=2, ensure_ascii=False))
        return DONE
    for folder, bundle, problem in found:
        mark = "*" if folder == default else " "
        if bundle is None:
            print(f"{mark} {folder.name}: {problem}")
            continue
        print(f"{mark} {bundle.id}: {bundle.title}")
        for label, key in (("disease", "disease"), ("treatment", "treatment"), ("CT", "ct"), ("licence", "licence")):
            print(f"      {label}: {bundle.info['card'][key]}")
        for population in bundle.populations:
            print(f"      population: {described(population, bundle)}")
        print(f"      folder: {folder}")
    return DONE


def described(population, bundle) -> str:
    """A population in one line: name, title, patients, covariates and interval."""
    if bundle.info["format_version"] == 1:
        return population.title
    about = [population.reference_label]
    names = ", ".join(each.name for each in population.covariates)
    about.append(f"covariates: {names}" if names else "no covariates")
    level = population.interval_level
    about.append(f"{level:.0%} interval" if level else "no interval")
    default = " (default)" if population.name == bundle.populations[0].name else ""
    return f"{population.name}{default}: {population.title}; {'; '.join(about)}"


def _everything(folder, bundle, problem: str | None, default) -> dict:
    known = {"folder": str(folder), "default": folder == default}
    if bundle is None:
        return {**known, "problem": problem}
    populations = [each.info for each in bundle.populations]
    return {"id": bundle.id, **known, "populations": populations, "bundle": bundle.info}
