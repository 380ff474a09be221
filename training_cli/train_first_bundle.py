"""Train the first bundle that ships: the paper's pretraining on one cohort, a few epochs, tried on another.

    python -m training_cli.train_first_bundle manifest.csv bundle-folder

The manifest has the columns patient_id, cohort, image, mask, time_days, event; images and masks are read by
SimpleITK. Slices, ranking, network, likelihood, learning rate and batch are the paper's; only the number of
epochs is smaller. The paper's fine-tuning of the last layer follows, but on the same cohort: it lets the last layer
see the features as they are without dropout. Needs the extra ``train``.
"""

from __future__ import annotations

import argparse
import csv
import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
import torch
from tqdm import tqdm

from CNNSurvivalLib import network as net
from CNNSurvivalLib.bundle import encode_images, save_bundle
from CNNSurvivalLib.engines import NumpyEngine
from CNNSurvivalLib.errors import CNNSurvivalError
from CNNSurvivalLib.hazards import (
    EIGHTEEN_MONTHS_DAYS,
    MONTH_DAYS,
    exponential_edges,
    kaplan_meier,
    survival_at,
    survival_function,
    survival_targets,
)
from CNNSurvivalLib.slices import Preprocessing, RankedSlices, axial_geometry, extract_slices, percentile_rank_score

TRAIN_COHORT, TEST_COHORT = "nsclc-radiomics", "nsclc-radiogenomics"
PREPROCESSING = Preprocessing(slice_step_mm=3.0)  # as thick as the paper's slices; the cohort at hand has 1 mm
BEST_SLICES = 2500
FINETUNE_EPOCHS = 20  # the paper's
MAX_SLICES_PER_PATIENT = 20  # for a patient's curve
LEARNING_RATE = 1e-4
BATCH = 32
BOOTSTRAPS = 1000


class Patient(NamedTuple):
    time: float
    event: int
    slices: RankedSlices


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=2020)
    options = parser.parse_args()

    train, train_excluded = read_cohort(options.manifest, TRAIN_COHORT)
    test, test_excluded = read_cohort(options.manifest, TEST_COHORT)
    edges = exponential_edges()
    images, survived, died = training_slices(train, edges)
    network, losses = pretrain(images, survived, died, options.epochs, options.seed)
    finetune_losses = finetune(network, images, survived, died, options.seed)
    weights = net.network_weights(network)
    engine = NumpyEngine(weights)
    train_risk, test_risk = (np.array([patient_risk(engine, p, edges) for p in c]) for c in (train, test))
    largest_area = np.array([p.slices.area_px.max() for p in test])
    metrics = [
        concordance("concordance", test, test_risk, options.seed),
        concordance("concordance of the largest tumour area alone", test, largest_area, options.seed),
    ]
    for metric in metrics:
        print(metric)
    info = bundle_info(
        edges, train, train_excluded, test, test_excluded, train_risk, metrics, len(images), (losses, finetune_losses),
        options, engine,
    )  # fmt: skip
    save_bundle(options.output, info, weights)


def read_cohort(manifest: Path, cohort: str) -> tuple[list[Patient], list[str]]:
    """(patients with a usable slice, one reason for each patient without)."""
    patients, excluded = [], []
    with open(manifest, newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["cohort"] == cohort]
    for row in tqdm(rows, desc=cohort):
        image, mask = (sitk.ReadImage(str(manifest.parent / row[name])) for name in ("image", "mask"))
        geometry = axial_geometry(image.GetSpacing()[::-1])
        try:
            hu, roi = sitk.GetArrayViewFromImage(image), sitk.GetArrayViewFromImage(mask)
            slices = extract_slices(hu, roi, geometry, PREPROCESSING)
        except CNNSurvivalError as error:
            excluded.append(str(error))
            continue
        patients.append(Patient(float(row["time_days"]), int(row["event"]), slices))
    return patients, excluded


def training_slices(patients: list[Patient], edges: np.ndarray):
    """The cohort's best slices by the paper's ranking: images uint8 [n, 140, 140], survived and died [n, m]."""
    images = np.concatenate([p.slices.images for p in patients])
    area = np.concatenate([p.slices.area_px for p in patients])
    intensity = np.concatenate([p.slices.mean_intensity for p in patients])
    owner = np.repeat(np.arange(len(patients)), [len(p.slices) for p in patients])
    best = np.argsort(-percentile_rank_score(area, intensity)[0], kind="stable")[:BEST_SLICES]
    survived, died = survival_targets([p.time for p in patients], [p.event for p in patients], edges)
    print(f"{len(patients)} patients, {len(images)} slices of {PREPROCESSING.min_roi_px} or more pixels, "
          f"{len(best)} kept, of {len(np.unique(owner[best]))} patients")  # fmt: skip
    return images[best], survived[owner[best]], died[owner[best]]


def pretrain(images, survived, died, epochs: int, seed: int):
    """(network in evaluation mode, mean training loss per epoch)."""
    torch.manual_seed(seed)
    network = net.build_network(survived.shape[1])
    optimiser = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    survived, died = torch.from_numpy(survived).float(), torch.from_numpy(died).float()
    losses = []
    for epoch in range(epochs):
        network.train()
        total = 0.0
        for batch in tqdm(torch.randperm(len(images)).split(BATCH), desc=f"epoch {epoch + 1}"):
            logits = network(net.network_input(images[batch.numpy()]))
            loss = net.negative_log_likelihood(logits, survived[batch], died[batch]).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += float(loss.detach()) * len(batch)
        losses.append(total / len(images))
        print(f"epoch {epoch + 1}: mean loss {losses[-1]:.4f}", flush=True)
    return network.eval(), losses


def finetune(network, images, survived, died, seed: int) -> list[float]:
    """Train the last layer with all else frozen and in evaluation mode; returns the mean loss per epoch.

    Dropout before a batch norm gives it another variance in training than in use (Li et al. 2019, "disharmony
    between dropout and batch normalization"), which shifts every prediction; here the last layer learns to live
    with the features as they are in use. As nothing before it changes, each slice's 32 features are computed once.
    """
    torch.manual_seed(seed)
    with torch.no_grad():
        parts = [network.features(net.network_input(images[i : i + BATCH])) for i in range(0, len(images), BATCH)]
    features, survived, died = torch.cat(parts), torch.from_numpy(survived).float(), torch.from_numpy(died).float()
    optimiser = torch.optim.Adam(network.output.parameters(), lr=LEARNING_RATE)
    losses = []
    for _ in range(FINETUNE_EPOCHS):
        total = 0.0
        for batch in torch.randperm(len(images)).split(BATCH):
            loss = net.negative_log_likelihood(network.output(features[batch]), survived[batch], died[batch]).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += float(loss.detach()) * len(batch)
        losses.append(total / len(images))
    print(f"last layer: mean loss {losses[0]:.4f} in the first epoch, {losses[-1]:.4f} in the last", flush=True)
    return losses


def patient_risk(engine, patient: Patient, edges: np.ndarray) -> float:
    """1 - S at 18 months, S the mean over the patient's best slices."""
    hazards = engine.hazards(patient.slices.best(MAX_SLICES_PER_PATIENT).images)
    return float(1 - survival_at(survival_function(hazards).mean(axis=0), edges, EIGHTEEN_MONTHS_DAYS))


def concordance(name: str, patients: list[Patient], risk: np.ndarray, seed: int) -> dict:
    """Harrell's concordance of the risk, with a 95 % interval from resampling patients."""
    from sksurv.metrics import concordance_index_censored  # here: the rest, and its test, do without

    time, event = np.array([p.time for p in patients]), np.array([p.event for p in patients], dtype=bool)
    rng = np.random.default_rng(seed)
    samples = []
    while len(samples) < BOOTSTRAPS:
        pick = rng.integers(0, len(patients), len(patients))
        if event[pick].any():
            samples.append(concordance_index_censored(event[pick], time[pick], risk[pick])[0])
    low, high = np.percentile(samples, [2.5, 97.5])
    value = concordance_index_censored(event, time, risk)[0]
    return {
        "name": name,
        "cohort": TEST_COHORT,
        "value": float(value),
        "ci_low": float(low),
        "ci_high": float(high),
        "horizon_days": EIGHTEEN_MONTHS_DAYS,
    }


def self_test_images() -> np.ndarray:
    """Three made-up slices, uint8 [3, 140, 140]: smooth blobs of different size, place and brightness."""
    y, x = np.mgrid[:140, :140] - 69.5
    blobs = []
    for radius, dx, dy, grey in ((12, 0, 0, 150), (25, 8, -5, 120), (45, -4, 6, 180)):
        angle = np.arctan2(y - dy, x - dx)
        edge = radius * (1 + 0.15 * np.sin(5 * angle) + 0.1 * np.cos(3 * angle))
        inside = np.hypot(y - dy, x - dx) < edge
        blobs.append(np.where(inside, np.clip(grey + 40 * np.sin(x / 6) * np.cos(y / 9), 1, 255), 0))
    return np.array(blobs).astype(np.uint8)


def monthly_kaplan_meier(patients: list[Patient], edges: np.ndarray) -> dict:
    """The cohort's curve on a monthly grid: no single patient's time can be read from it."""
    times, survival = kaplan_meier([p.time for p in patients], [p.event for p in patients])
    last = min(edges[-1], max(p.time for p in patients))
    grid = np.arange(0, last, MONTH_DAYS)
    values = np.append(1.0, survival)[np.searchsorted(times, grid, side="right")]
    return {"time_days": grid.tolist(), "survival": values.tolist()}


def bundle_info(edges, train, train_excluded, test, test_excluded, train_risk, metrics, n_slices, losses, options,
                engine) -> dict:  # fmt: skip
    """bundle.json: what this model is, in full."""
    images = self_test_images()
    events = [sum(p.event for p in cohort) for cohort in (train, test)]
    return {
        "name": "nsclc-first",
        "title": "Lung cancer (NSCLC), first short training run",
        "version": "1.0",
        "changes": ["1.0: first model, so that module, demo and tests run on learned weights"],
        "created": datetime.date.today().isoformat(),
        "network": {"architecture": "zhang2020", "output": "hazard_logits", "input_scale": net.GREY_SCALE},
        "intervals": {"edges_days": edges.tolist()},
        "preprocessing": {
            "hu_window": list(PREPROCESSING.hu_window),
            "pixel_size_mm": PREPROCESSING.pixel_size_mm,
            "crop_px": PREPROCESSING.crop_px,
            "min_roi_px": PREPROCESSING.min_roi_px,
            "slice_step_mm": PREPROCESSING.slice_step_mm,
            "ranking": "mean_percentile_rank_area_intensity",
        },
        "aggregation": {
            "method": "mean_survival",
            "max_slices": MAX_SLICES_PER_PATIENT,
            "risk_time_days": EIGHTEEN_MONTHS_DAYS,
        },
        "cohorts": [
            {
                "name": TRAIN_COHORT,
                "use": "training",
                "patients": len(train),
                "events": events[0],
                "slices": n_slices,
                "sites": "MAASTRO Clinic, Maastricht, the Netherlands",
                "dates": "as published by the source",
                "source": "NSCLC-Radiomics (Lung1), Aerts et al. 2014, doi 10.7937/K9/TCIA.2015.PF0M9REI; the part "
                "released for the 2019-20 data challenge 'Predicting lung cancer survival time'",
                "licence": "CC BY-NC 3.0",
                "exclusions": f"{len(train_excluded)} patients: empty contour, or no slice with "
                f"{PREPROCESSING.min_roi_px} tumour pixels",
            },
            {
                "name": TEST_COHORT,
                "use": "external test, looked at once",
                "patients": len(test),
                "events": events[1],
                "slices": sum(min(len(p.slices), MAX_SLICES_PER_PATIENT) for p in test),
                "sites": "Stanford and Palo Alto VA, USA",
                "dates": "as published by the source",
                "source": "NSCLC Radiogenomics, Bakr et al. 2018, doi 10.7937/K9/TCIA.2017.7hs46erv; the part "
                "released for the same challenge",
                "licence": "CC BY 3.0",
                "exclusions": f"{len(test_excluded)} patients: empty contour, or no slice with "
                f"{PREPROCESSING.min_roi_px} tumour pixels",
            },
        ],
        "metrics": metrics,
        "reference_cohort": {
            "label": f"{len(train)} patients with inoperable lung cancer (NSCLC), the training cohort",
            "kaplan_meier": monthly_kaplan_meier(train, edges),
            "risk_quantiles": np.percentile(train_risk, np.arange(101)).tolist(),
        },
        "self_test": {"images": encode_images(images), "hazards": engine.hazards(images).tolist()},
        "card": {
            "intended_use": "Research use only. Not for diagnosis, prognosis or treatment decisions.",
            "disease": "Non-small cell lung cancer (NSCLC); not pancreatic cancer, which the paper is about",
            "treatment": "Radiotherapy or chemoradiotherapy of inoperable stage I-IIIB tumours",
            "ct": "Radiotherapy planning CT of the chest, resampled to 1 mm; contrast varies and is not recorded here",
            "endpoint": "Death from any cause",
            "time_origin": "As published by the source: the date of the CT or the start of radiotherapy",
            "contours": "Gross tumour volume drawn by radiation oncologists at the source",
            "external_validation": f"One cohort, {TEST_COHORT}: {len(test)} patients with resected early-stage NSCLC",
            "calibration": "Not assessed; resected patients live longer than the inoperable ones that it learned from",
            "out_of_scope": [
                "Other diseases than NSCLC",
                "MR, PET, cone-beam CT",
                "Contours of anything but the primary tumour",
                "Children",
            ],
            "limitations": [
                f"A short run: {len(losses[0])} epochs where the paper has 50; the last layer fine-tuned on the same "
                "cohort, not on another",
                "The reference risks are those of the patients it was trained on",
                f"It does not rank patients: concordance {metrics[0]['value']:.3f} ({metrics[0]['ci_low']:.3f} to "
                f"{metrics[0]['ci_high']:.3f}) on the external cohort, where 0.5 is chance and the largest tumour area "
                f"alone reaches {metrics[1]['value']:.3f}",
                "Contours of another hospital, pixel sizes other than 1 mm and contrast phases were not studied",
            ],
            "licence": "Weights CC BY-NC 3.0 like the training data: non-commercial research only",
            "citation": [
                "Zhang Y, et al. CNN-based survival model for pancreatic ductal adenocarcinoma in medical imaging. "
                "BMC Med Imaging 2020;20:11. doi 10.1186/s12880-020-0418-1",
                "Aerts HJWL, et al. Decoding tumour phenotype by noninvasive imaging using a quantitative radiomics "
                "approach. Nat Commun 2014;5:4006. doi 10.1038/ncomms5006",
            ],
        },
        "training": {
            "script": "python -m training_cli.train_first_bundle",
            "epochs": options.epochs,
            "seed": options.seed,
            "learning_rate": LEARNING_RATE,
            "batch": BATCH,
            "optimiser": "Adam",
            "mean_loss_per_epoch": losses[0],
            "finetuned": f"output layer, {FINETUNE_EPOCHS} epochs, same cohort",
            "finetuning_mean_loss_per_epoch": losses[1],
            "torch": torch.__version__,
        },
    }


if __name__ == "__main__":
    main()
