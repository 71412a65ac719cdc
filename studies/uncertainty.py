"""Is what draws of z say of their own uncertainty calibrated, and does it know of errors? Beside the prediction at mu.

A run, here and in the studies beside this one, is a dict of one seed: the networks "vae" and "mask", the "threshold",
the predictions at `mu` for "train", "val" and "test", and what was "drawn" for test and "val drawn" for validation.
"""

from functools import partial

import numpy as np
from scipy.stats import spearmanr

from studies.against import choose, dice_of
from studies.only_intervals import over_patients
from vaelib import metrics, uncertainty

METHODS = ("as it is", "temperature", "isotonic")


def possible(train) -> np.ndarray:
    """The pixels where some training patient has pancreas, (H, W) bool: the rest would flatter any calibration."""
    return (train.masks > 0).any(0)[0]


def inside(maps: np.ndarray, region: np.ndarray) -> np.ndarray:
    """The pixels of a region, of maps (N, 1, H, W): (N, pixels)."""
    return maps[:, 0][:, region]


def ece(predictions, truth, rows) -> float:
    """Calibration error of some rows, the mean over the predictions of several seeds."""
    return np.mean([uncertainty.reliability(p[rows], truth[rows]).ece for p in predictions])


def nats(predictions, truth, rows) -> float:
    """Cross-entropy of a slice's region, the mean over rows and seeds."""
    return truth.shape[1] * np.mean([uncertainty.cross_entropy(p[rows], truth[rows]) for p in predictions])


def nats_between(predictions, others, truth, rows) -> float:
    """The cross-entropy of the one less that of the others."""
    return nats(predictions, truth, rows) - nats(others, truth, rows)


def fit(probability, truth, method: str):
    """The correction that validation patients teach; None for none."""
    return None if method == "as it is" else uncertainty.calibrate(probability, truth, method)


def apply(fits, predictions) -> list[np.ndarray]:
    """The predictions of each seed, corrected by its own fit."""
    return [p if f is None else f(p) for f, p in zip(fits, predictions, strict=True)]


def temperatures(probability, truth, patient) -> list[float]:
    """What the temperature would be if each patient had one of his own."""
    rows = metrics.per_patient(patient).values()
    return [uncertainty.calibrate(probability[r], truth[r]).temperature for r in rows]


def calibration(on_val, on_test, truth, patient) -> dict:
    """ECE and nats of the predictions of several seeds on test patients, before and after what validation taught."""
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
            out[method]["temperatures"] = [f.temperature for f in fits]
    return out


def measure_uncertainty(runs: list[dict], train, val, test) -> dict:
    """Calibration, Dice, and how well each measure of uncertainty knows of errors, over the runs."""
    region = possible(train)
    truth = {"val": inside(val.masks, region), "test": inside(test.masks, region)}
    on_test = {"mu": [inside(r["test"], region) for r in runs]}
    on_test["draws"] = [inside(r["drawn"].probability, region) for r in runs]
    on_val = {"mu": [inside(r["val"], region) for r in runs]}
    on_val["draws"] = [inside(r["val drawn"].probability, region) for r in runs]
    dice = {"mu": [dices(r["val"], r["test"], val, test) for r in runs]}
    dice["draws"] = [dices(r["val drawn"].probability, r["drawn"].probability, val, test) for r in runs]
    per_patient = {name: np.mean(values, 0) for name, values in dice.items()}
    learned = uncertainty.reliability(inside(runs[0]["train"], region), inside(train.masks, region))
    return {
        "pixels": int(region.sum()),
        "calibration": {k: calibration(on_val[k], on_test[k], truth, test.patient) for k in ("mu", "draws")},
        "temperature of each patient": {
            "val": temperatures(on_val["mu"][0], truth["val"], val.patient),
            "test": temperatures(on_test["mu"][0], truth["test"], test.patient),
        },
        "ece on training patients": learned.ece,
        "nats, draws minus mu": over_patients(
            partial(nats_between, on_test["draws"], on_test["mu"], truth["test"]), test.patient
        ),
        "dice": {k: metrics.bootstrap(v)._asdict() | {"values": v} for k, v in per_patient.items()},
        "dice, draws minus mu": metrics.bootstrap(per_patient["draws"] - per_patient["mu"])._asdict(),
        "errors": measure_errors(runs, region, test),
    }


def dices(on_val, on_test, val, test) -> np.ndarray:
    """3D Dice of each test patient, (patients,), at the threshold that is best on validation."""
    return dice_of(on_test, choose(on_val, val), test)


# --- error against predicted uncertainty ------------------------------------------------------------------------


def measures(drawn: uncertainty.Drawn, p: np.ndarray) -> dict[str, np.ndarray]:
    """The measures of uncertainty that are compared, of each pixel: three from the draws, one from the prediction."""
    return {
        "variance of draws": drawn.variance, "information about z": drawn.information,
        "entropy of the mean": drawn.entropy, "p (1 - p) at mu": p * (1 - p),
    }  # fmt: skip


def slice_risk(found: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """1 - Dice of each slice (N,), and which slices have a mask to compare, found or true."""
    total = found.sum((1, 2, 3)) + truth.sum((1, 2, 3))
    return 1 - 2 * (found & truth).sum((1, 2, 3)) / np.maximum(total, 1), total > 0


def finds_wrong_pixels(measure, wrong, region, patient) -> list[float]:
    """AUROC of a measure for wrong pixels, one for each patient."""
    u, w = inside(measure, region), inside(wrong, region)
    return [uncertainty.auroc(u[r][~w[r]], u[r][w[r]]) for r in metrics.per_patient(patient).values()]


def rank_correlation(slices, rows) -> float:
    """Spearman's, between uncertainty and risk of the slices that have a mask; the mean over seeds."""
    return np.mean([spearmanr(u[rows][there[rows]], risk[rows][there[rows]])[0] for u, risk, there in slices])


def area(slices, rows) -> float:
    """Area under the risk-coverage curve of the slices that have a mask; the mean over seeds."""
    return np.mean(
        [uncertainty.risk_coverage(u[rows][there[rows]], risk[rows][there[rows]]).mean() for u, risk, there in slices]
    )


def mean_risk(slices, rows) -> float:
    """What the area is where the order knows nothing."""
    return np.mean([risk[rows][there[rows]].mean() for _, risk, there in slices])


def measure_errors(runs, region, test) -> dict:
    """For each measure: AUROC for wrong pixels, rank correlation with 1 - Dice of a slice, area under risk-coverage."""
    truth, names, out = test.masks >= metrics.TRUTH, [*measures(runs[0]["drawn"], runs[0]["test"])], {}
    found = [r["test"] >= r["threshold"] for r in runs]
    risks = [slice_risk(f, truth) for f in found]
    for name in names:
        maps = [measures(r["drawn"], r["test"])[name] for r in runs]
        pixel = [finds_wrong_pixels(u, f != truth, region, test.patient) for u, f in zip(maps, found, strict=True)]
        sums = [uncertainty.relative(u, r["test"]) for u, r in zip(maps, runs, strict=True)]
        slices = [(u, *risk) for u, risk in zip(sums, risks, strict=True)]
        out[name] = {
            "wrong pixels": metrics.bootstrap(np.mean(pixel, 0))._asdict(),
            "slices": over_patients(partial(rank_correlation, slices), test.patient),
            "area": over_patients(partial(area, slices), test.patient),
        }
    known = [(risk, risk, there) for risk, there in risks]
    out["chance"] = {"area": over_patients(partial(mean_risk, known), test.patient)}
    return out | {"oracle": {"area": over_patients(partial(area, known), test.patient)}}
