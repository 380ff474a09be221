"""``cnn-survival models``."""

from __future__ import annotations

from ..options import DONE, add_command


def add_models(commands) -> None:
    add_command(
        commands, "models", _run_models, "list the models that ship with this software",
        "List the models that ship with this software. The one marked with * is used unless --model says otherwise.",
    )  # fmt: skip


def _run_models(options) -> int:
    from CNNSurvivalLib.bundle import default_bundle_folder, find_bundles, shipped_models_folder

    default = default_bundle_folder()
    for folder, bundle, problem in find_bundles([shipped_models_folder()]):
        mark = "*" if folder == default else " "
        if bundle is None:
            print(f"{mark} {folder.name}: {problem}")
            continue
        print(f"{mark} {bundle.id}: {bundle.title}")
        for label, key in (("disease", "disease"), ("treatment", "treatment"), ("CT", "ct"), ("licence", "licence")):
            print(f"      {label}: {bundle.info['card'][key]}")
    return DONE
