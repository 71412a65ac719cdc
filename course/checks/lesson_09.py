"""Checks of the exercises to notebook 09, Pancreas-CT: a recipe for the real cohort."""

import hashlib
from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk

from course.checks import Answer, attempt, expect

PATIENTS = [f"PANCREAS_{number:04d}" for number in (1, 2, 3, 24, 26, 69, 71, 82)]
LABELS = [f"label{number:04d}.nii.gz" for number in (1, 2, 3, 24, 25, 26, 69, 70, 71, 82)]


def exercise_1(pair: Answer) -> None:
    """The number in a name is the patient: the 3 of `label0003.nii.gz` belongs to the 3 of `PANCREAS_0003`."""
    found = attempt(pair, list(LABELS), list(PATIENTS))
    expect(isinstance(found, dict), f"a dict is asked for, patient to label, and it returns {type(found).__name__}")
    expect(not set(found) & set(LABELS), "the keys should be the patients, and the values their labels")
    gone = [name for name in PATIENTS if name not in found]
    expect(not gone, f"{', '.join(gone)} has no label in it")
    wrong = [name for name in PATIENTS if found[name][5:9] != name[-4:]]
    expect(not wrong, f"{wrong and wrong[0]} is given {wrong and found[wrong[0]]}: paired by order, not by number?")
    expect(set(found) == set(PATIENTS), "it names patients who have no scan: labels 25 and 70 have lost theirs")
    shuffled = attempt(pair, LABELS[::-1], list(PATIENTS))
    expect(shuffled == found, "with the labels in another order the pairs are others")


def fold_of(name: str, count: int) -> int:
    """Find the fold of a patient, by the rule of `cohort.folds`: seed and name hashed, modulo the folds."""
    return int.from_bytes(hashlib.sha256(f"0:{name}".encode()).digest()[:8]) % count


def fills(names: Sequence[str], count: int) -> bool:
    """Tell whether each fold of these names has someone to test, and two others to train and validate on."""
    sizes = np.bincount([fold_of(name, count) for name in names], minlength=count)
    return sizes.min() > 0 and len(names) - sizes.max() >= 2


def exercise_2(enough: Answer) -> None:
    """`cohort.folds(names, count=count)` raises an InputError while they are too few: try with one more each time."""
    names = [f"PANCREAS_{number:04d}" for number in range(1, 41)]
    for few, count in ((names, 4), (names[8:], 4), (names, 2), (names, 8)):
        found = attempt(enough, list(few), count)
        wanted = next(n for n in range(1, len(few) + 1) if fills(few[:n], count))
        expect(np.ndim(found) == 0 and int(found) == found, f"it returns {found!r}; a number is asked for")
        expect(found != count, f"{count} patients do not fill these {count} folds: hashes do not take turns")
        expect(found >= wanted, f"it says {found} for {count} folds, and of so few `cohort.folds` still complains")
        expect(found <= wanted, f"it says {found} for {count} folds, and fewer of these names would do")


def exercise_3(spreads: Answer) -> None:
    """Average over one axis of `dice` (seeds, patients) and take the standard deviation along the other, twice."""
    rng = np.random.default_rng(0)
    dice = 0.5 + rng.normal(0, 0.03, (3, 1)) + rng.normal(0, 0.1, (1, 8)) + rng.normal(0, 0.01, (3, 8))
    found = np.asarray(attempt(spreads, dice.copy()), float)
    expect(found.shape == (2,), f"two numbers are asked for, and it returns the shape {found.shape}")
    seeds, patients = dice.mean(1), dice.mean(0)
    expect(not np.allclose(found[::-1], (seeds.std(ddof=1), patients.std(ddof=1) / 8**0.5)),
           "the spread over seeds comes first, then the standard error over patients")  # fmt: skip
    expect(not np.isclose(found[0], seeds.std()), "three seeds are a sample: take ddof=1")
    expect(np.isclose(found[0], seeds.std(ddof=1)),
           "the first is the standard deviation, over the seeds, of the mean over all patients")  # fmt: skip
    expect(not np.isclose(found[1], patients.std(ddof=1)),
           "the second is the spread of patients; their mean varies less, by the root of their number")  # fmt: skip
    expect(np.isclose(found[1], patients.std(ddof=1) / 8**0.5),
           "the second is the standard error, over the patients, of their means over the seeds (ddof=1)")  # fmt: skip


def as_scan(hu: np.ndarray, direction: Sequence[float] = (1, 0, 0, 0, 1, 0, 0, 0, 1)) -> sitk.Image:
    """Turn HU (S, H, W) into an image with these axes."""
    image = sitk.GetImageFromArray(hu)
    image.SetDirection(direction)
    return image


def ward() -> tuple[dict[str, sitk.Image], set[frozenset]]:
    """Five scans by name, and which are the same: a copy turned upside down in its file, and a crop."""
    rng = np.random.default_rng(0)
    one, other, third = (rng.normal(60, 40, (8, 128, 128)).round().astype(np.int16) for _ in range(3))
    turned = as_scan(one[::-1, ::-1].copy(), (1, 0, 0, 0, -1, 0, 0, 0, -1))
    turned.SetOrigin((0, 127, 7))
    scans = {"a": as_scan(one), "b": as_scan(other), "c": turned, "d": as_scan(other[2:7, 20:, 10:].copy())}
    return scans | {"e": as_scan(third)}, {frozenset("ac"), frozenset("bd")}


def exercise_4(twins: Answer) -> None:
    """`fingerprint(scan)` are hashes of small windows; two prints of one scan share many (`np.intersect1d`)."""
    scans, wanted = ward()
    found = attempt(twins, dict(scans))
    found = {frozenset(pair) for pair in found}
    expect(all(len(pair) == 2 for pair in found), "a scan is no twin of itself: pairs of two names are asked for")
    expect(
        frozenset("ac") in found, "it misses a copy that was written from the feet up; do not compare voxel by voxel"
    )
    expect(frozenset("bd") in found, "it misses a crop: fewer slices and rows, and still the same scan")
    extra = sorted("".join(sorted(pair)) for pair in found - wanted)
    expect(not extra, f"it calls {extra} twins, and they share nothing but their shape")
    expect(not {*attempt(twins, {name: scans[name] for name in "abe"})}, "it finds twins where there are none")
