"""Typical wrong answers to the exercises of notebook 09, and words that their hints contain."""

from itertools import combinations

import numpy as np
import SimpleITK as sitk

from vaelib.cohorts.quality import fingerprint


def voxel_by_voxel(scans):
    arrays = {name: sitk.GetArrayFromImage(scan) for name, scan in scans.items()}
    return {(a, b) for a, b in combinations(arrays, 2) if np.array_equal(arrays[a], arrays[b])}


def equal_prints(scans):
    prints = {name: fingerprint(scan).tolist() for name, scan in scans.items()}
    return {(a, b) for a, b in combinations(prints, 2) if prints[a] == prints[b]}


def everybody(scans):
    return {(a, b) for a in scans for b in scans}


WRONG = {
    "09.1": [
        ((lambda labels, patients: dict(zip(patients, labels, strict=False)),), "paired by order"),
        ((lambda labels, patients: {x: f"PANCREAS_{x[5:9]}" for x in labels},), "keys should be the patients"),
        ((lambda labels, patients: {f"PANCREAS_{x[5:9]}": x for x in labels},), "who have no scan"),
    ],
    "09.2": [
        ((lambda names, count: count,), "hashes do not take turns"),
        ((lambda names, count: len(names),), "fewer of these names would do"),
        ((lambda names, count: count + 1,), "still complains"),
    ],
    "09.3": [
        ((lambda dice: (dice.mean(0).std(ddof=1) / dice.shape[1] ** 0.5, dice.mean(1).std(ddof=1)),), "comes first"),
        ((lambda dice: (dice.mean(1).std(), dice.mean(0).std()),), "ddof=1"),
        ((lambda dice: (dice.mean(1).std(ddof=1), dice.mean(0).std(ddof=1)),), "by the root of their number"),
        ((lambda dice: (dice.std(0, ddof=1).mean(), 0),), "of the mean over all patients"),
    ],
    "09.4": [
        ((voxel_by_voxel,), "written from the feet up"),
        ((equal_prints,), "it misses a crop"),
        ((everybody,), "no twin of itself"),
        ((lambda scans: {*combinations(scans, 2)},), "share nothing but their shape"),
    ],
}
