"""``cnn-survival models``."""

from __future__ import annotations

import json

from ..options import DONE, add_command

DESCRIPTION = """\
List the models that ship with this software: their ids, folders, and what they are for.

    cnn-survival models
    cnn-survival models --json

The one marked with * is used unless --model says otherwise. --json prints all that is known of each: its folder,
whether it is the default, and the content of its bundle.json.
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
        print(f"      folder: {folder}")
    return DONE


def _everything(folder, bundle, problem: str | None, default) -> dict:
    known = {"folder": str(folder), "default": folder == default}
    return {**known, "problem": problem} if bundle is None else {"id": bundle.id, **known, "bundle": bundle.info}
