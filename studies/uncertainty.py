"""Are probabilities drawn by way of z calibrated, and do they know of errors? Beside the single prediction at mu.

Calibration is measured here against the occupancy of a pixel, which the mask decoder was taught; against the event that
is scored, an occupancy of at least `metrics.TRUTH`, it is measured in `studies.ensemble`, beside U-Nets. The measures
stand in `vaelib.uncertainty`. Three seeds; intervals resample the test patients.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from studies import over_patients
from studies._contestants import contestant
from studies._sure import area, ece, inside, mean_risk, nats, possible, rank_correlation
from vaelib import metrics, recipes, uncertainty
from vaelib.cohort import Cohort, Slices
from vaelib.uncertainty import Calibration, Drawn

SEEDS, DRAWS = (0, 1, 2), 32
METHODS = ("as it is", "temperature", "isotonic")


class OneSeed(NamedTuple):
    """What the method of one seed says of each part of the cohort: at `mu`, and from draws of z.

    Attributes
    ----------
    threshold : float
        The one that is best on validation patients.
    train, val, test : ndarray, (N, 1, H, W)
        Predictions at `mu`.
    val_drawn, test_drawn : Drawn
        What several draws have in common.
    """

    threshold: float
    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    val_drawn: Drawn
    test_drawn: Drawn


def predictions(lab: Cohort, seed: int, draws: int = DRAWS) -> OneSeed:
    """Predict every part of the cohort by the method of one seed, which is trained if need be."""
    method = contestant(recipes.DETACHED, lab, seed)
    vae, mask = method.networks["vae"], method.networks["mask"]
    at_mu = [method.predict(s)[:] for s in (lab.train, lab.val, lab.test)]
    drawn = [uncertainty.sample_masks(vae, mask, s.images[:], draws) for s in (lab.val, lab.test)]
    return OneSeed(method.meta["threshold"], at_mu[0], at_mu[1], at_mu[2], drawn[0], drawn[1])


def run(lab: Cohort, seeds: Sequence[int] = SEEDS) -> dict:
    """Measure calibration, Dice, and how well each measure of uncertainty knows of errors."""
    runs = [predictions(lab, seed) for seed in seeds]
    return {"seeds": list(seeds), "level": lab.level, "draws": DRAWS, "test": lab.parts["test"]} | measured(runs, lab)


def nats_between(
    predictions: Sequence[np.ndarray], others: Sequence[np.ndarray], truth: np.ndarray, rows: np.ndarray
) -> float:
    """Subtract the cross-entropy of the others from that of the predictions."""
    return nats(predictions, truth, rows) - nats(others, truth, rows)


def fit(probability: np.ndarray, truth: np.ndarray, method: str) -> Calibration | None:
    """Learn a correction from validation patients; None for none."""
    return None if method == "as it is" else uncertainty.calibrate(probability, truth, method)


def apply(fits: Sequence[Calibration | None], predictions: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Correct the predictions of each seed by its own fit."""
    return [p if f is None else f(p) for f, p in zip(fits, predictions, strict=True)]


def temperatures(probability: np.ndarray, truth: np.ndarray, patient: np.ndarray) -> list[float]:
    """Fit a temperature to each patient alone."""
    rows = metrics.per_patient(patient).values()
    return [uncertainty.calibrate(probability[r], truth[r]).temperature for r in rows]


def calibration(
    on_val: Sequence[np.ndarray], on_test: Sequence[np.ndarray], truth: dict[str, np.ndarray], patient: np.ndarray
) -> dict:
    """Measure ECE and nats of several seeds on test patients, before and after what validation taught."""
    out = {}
    for method in METHODS:
        fits = [fit(p, truth["val"], method) for p in on_val]
        made, back = apply(fits, on_test), apply(fits, on_val)
        out[method] = {
            "ece": over_patients(partial(ece, made, truth["test"]), patient),
            "nats": over_patients(partial(nats, made, truth["test"]), patient),
            "ece on validation": ece(back, truth["val"], slice(None)),
        }
        if method == "temperature":
            out[method]["temperatures"] = [f.temperature for f in fits if f]
    return out


def measured(runs: list[OneSeed], lab: Cohort) -> dict:
    """Measure all of it of the runs of several seeds."""
    train, val, test = lab.train, lab.val, lab.test
    region = possible(train)
    truth = {"val": inside(val.masks[:], region), "test": inside(test.masks[:], region)}
    ways = {  # by what is predicted: the maps of validation and of test patients, of each seed
        "mu": [(r.val, r.test) for r in runs],
        "draws": [(r.val_drawn.probability, r.test_drawn.probability) for r in runs],
    }
    on_val, on_test = ({way: [inside(maps[k], region) for maps in by] for way, by in ways.items()} for k in (0, 1))
    per_patient = {way: np.mean([dices(*maps, val, test) for maps in by], 0) for way, by in ways.items()}
    learned = uncertainty.reliability(inside(runs[0].train, region), inside(train.masks[:], region))
    nats_gap = partial(nats_between, on_test["draws"], on_test["mu"], truth["test"])
    return {
        "pixels": int(region.sum()),
        "calibration": {way: calibration(on_val[way], on_test[way], truth, test.patient) for way in ways},
        "temperature of each patient": {
            "val": temperatures(on_val["mu"][0], truth["val"], val.patient),
            "test": temperatures(on_test["mu"][0], truth["test"], test.patient),
        },
        "ece on training patients": learned.ece,
        "nats, draws minus mu": over_patients(nats_gap, test.patient),
        "dice": {k: metrics.bootstrap(v)._asdict() | {"values": v} for k, v in per_patient.items()},
        "dice, draws minus mu": metrics.bootstrap(per_patient["draws"] - per_patient["mu"])._asdict(),
        "errors": errors(runs, region, test),
    }


def dices(on_val: np.ndarray, on_test: np.ndarray, val: Slices, test: Slices) -> np.ndarray:
    """Score test patients by 3D Dice, (patients,), at the threshold that is best on validation."""
    return metrics.dice_per_patient(on_test, metrics.choose(on_val, val), test)


# --- error against predicted uncertainty ------------------------------------------------------------------------


def measures(drawn: Drawn, p: np.ndarray) -> dict[str, np.ndarray]:
    """Make the maps of uncertainty that are compared: three from the draws, one from the prediction."""
    return {
        "variance of draws": drawn.variance, "information about z": drawn.information,
        "entropy of the mean": drawn.entropy, "p (1 - p) at mu": p * (1 - p),
    }  # fmt: skip


def errors(runs: list[OneSeed], region: np.ndarray, test: Slices) -> dict:
    """Measure how well each map knows of errors: AUROC for wrong pixels, and rank and coverage of whole slices."""
    truth, out = test.masks[:] >= metrics.TRUTH, {}
    found = [r.test >= r.threshold for r in runs]
    risks = [uncertainty.slice_risk(f, truth) for f in found]
    for name in measures(runs[0].test_drawn, runs[0].test):
        maps = [measures(r.test_drawn, r.test)[name] for r in runs]
        finds = partial(uncertainty.auroc_per_patient, region=region, patient=test.patient)
        pixel = [finds(u, f != truth) for u, f in zip(maps, found, strict=True)]
        sums = [uncertainty.slice_uncertainty(u, r.test) for u, r in zip(maps, runs, strict=True)]
        slices = [(u, *risk) for u, risk in zip(sums, risks, strict=True)]
        out[name] = {
            "wrong pixels": metrics.bootstrap(np.mean(pixel, 0))._asdict(),
            "slices": over_patients(partial(rank_correlation, slices), test.patient),
            "area": over_patients(partial(area, slices), test.patient),
        }
    known = [(risk, risk, there) for risk, there in risks]
    out["chance"] = {"area": over_patients(partial(mean_risk, known), test.patient)}
    return out | {"oracle": {"area": over_patients(partial(area, known), test.patient)}}
