"""Checks of the exercises to notebook 05."""

import numpy as np

from course.checks import Answer, attempt, expect, number


def exercise_1(moved_threshold: Answer) -> None:
    """An honest p becomes ``w p / (w p + 1 - p)`` if pancreas pixels weigh w times as much in the loss.

    The pixels with p above the threshold should be the same as those with the new p above the new threshold.
    """
    for threshold, weight in ((0.2, 10), (0.12, 10), (0.3, 1), (0.5, 4)):
        found = number(moved_threshold, threshold, weight)
        wanted = weight * threshold / (weight * threshold + 1 - threshold)
        back = threshold / (threshold + weight * (1 - threshold))
        wrong_way = weight != 1 and abs(found - back) < 1e-6
        expect(not wrong_way, "it goes down; the weight raises every probability, and so the threshold")
        expect(0 < found < 1, f"a threshold lies between 0 and 1; for {threshold}, weight {weight}, this is {found:g}")
        expect(
            abs(found - wanted) < 1e-6, f"for {threshold}, weight {weight}, it is {wanted:.3f}, and you say {found:.3f}"
        )


def exercise_2(patient_dice: Answer) -> None:
    """Add up what a patient's slices share, and what they hold, over *all* of them; only then divide.

    `metrics.per_patient(patient)` gives the rows of each patient.
    """
    truth, found = np.zeros((2, 6, 1, 4, 4), bool)
    patient = np.array(["a"] * 4 + ["b"] * 2)
    truth[1, 0, :2], found[1, 0, :2] = True, True  # 8 found of 8,
    truth[2, 0, 0, 0], found[2, 0, 3, :3] = True, True  # and in a small slice none of 1, and 3 invented
    truth[4, 0, 1], found[4, 0, 1, :2] = True, True
    dices = np.asarray(attempt(patient_dice, found, truth, patient), float)
    expect(dices.shape == (2,), f"one number for each of two patients is wanted; this has the shape {dices.shape}")
    by_slice = np.array([(1 + 1 + 0 + 1) / 4, (2 / 3 + 1) / 2])
    of_some = np.array([0.5, 2 / 3])
    for mean in (by_slice, of_some):
        good = not np.allclose(dices, mean)
        expect(good, "this is a mean over slices, in which a slice with one pixel counts like a large one")
    iou = np.allclose(dices, [8 / 12, 2 / 4])
    expect(not iou, "this is the intersection over the union; Dice counts what is shared twice")
    wanted = np.array([2 * 8 / (9 + 11), 2 * 2 / (4 + 2)])
    expect(
        np.allclose(dices, wanted), f"in two small patients Dice is {wanted.round(3)}, and you find {dices.round(3)}"
    )


def exercise_3(share_true: Answer) -> None:
    """Of the pixels whose `p` lies from one edge up to the next, ``(p >= low) & (p < high)``, what share is true?

    That is the mean of `truth` over them: one number for each pair of neighbouring edges.
    """
    rng = np.random.default_rng(0)
    occupancy, edges = rng.beta(0.4, 1.2, 200_000), np.array([0.02, 0.2, 0.5, 0.8])
    p, truth = occupancy**1.5, rng.random(occupancy.shape) < occupancy**0.5  # what is said is too low throughout
    found = np.asarray(attempt(share_true, p, truth, edges), float)
    expect(found.shape == (3,), f"four edges make three groups, one number for each; this has the shape {found.shape}")
    groups = [(p >= low) & (p < high) for low, high in zip(edges[:-1], edges[1:], strict=True)]
    said = np.array([p[g].mean() for g in groups])
    good = not np.allclose(found, said, atol=0.02)
    expect(good, "this is what the decoder *says*, its mean p; look at the truth of those pixels")
    of_all = np.array([(truth & g).mean() for g in groups])
    expect(not np.allclose(found, of_all), "this divides by all pixels; divide by those of the group")
    of_true = np.array([(truth & g).sum() / truth.sum() for g in groups])
    expect(not np.allclose(found, of_true), "this is the share of the true pixels that the group holds, the other way")
    above = np.array([truth[p >= low].mean() for low in edges[:-1]])
    expect(not np.allclose(found, above), "each group ends at the next edge; this takes all pixels above the lower one")
    wanted = np.array([truth[g].mean() for g in groups])
    expect(np.allclose(found, wanted), f"the shares here are {wanted.round(3)}, and you find {found.round(3)}")


def exercise_4(pca_error: Answer) -> None:
    """Flatten each image to a row, fit `sklearn`'s `PCA` on the training rows, and put the held-out rows through it.

    `transform` keeps `components` numbers of each row, `inverse_transform` comes back.
    """
    rng = np.random.default_rng(0)
    shapes = rng.normal(size=(6, 64)) * 2.0 ** -np.arange(6)[:, None]
    train, held_out = ((rng.normal(size=(n, 6)) @ shapes + 1).reshape(n, 1, 8, 8).astype(np.float32) for n in (80, 20))
    flat, rows = train.reshape(80, -1), held_out.reshape(20, -1)

    def error(fitted, components):
        axes = np.linalg.svd(fitted - fitted.mean(0), full_matrices=False)[2][:components]
        left = (rows - fitted.mean(0)) @ (np.eye(64) - axes.T @ axes)
        return 0.5 * (left**2).sum(1).mean()

    for components in (2, 4):
        found, wanted = number(pca_error, train, held_out, components), error(flat, components)
        close = lambda value: abs(found - value) < 0.02 * value  # noqa: B023, E731
        expect(
            not close(error(rows, components)), "the directions come from the held-out images; they must not be seen"
        )
        expect(not close(2 * wanted), "this is the whole squared error; `losses.l2` takes half of it")
        expect(not close(wanted / 64), "this is a mean over pixels; add them up, as `losses.l2` does")
        expect(close(wanted), f"with {components} components the error is {wanted:.3f} here, and you find {found:.3f}")
