"""Statistics of the rows of several patients, with intervals that resample whole patients."""

from collections.abc import Callable

import numpy as np

from vaelib import metrics


def over_patients(statistic: Callable[[np.ndarray], float], patient: np.ndarray, draws: int = 300) -> dict:
    """A statistic of rows with its 95% interval: patients are drawn anew, and it is computed of all their rows.

    Parameters
    ----------
    statistic : callable
        From the numbers of the rows that are used, some of them several times, to a number.
    patient : ndarray, (N,)
        Whose each row is.
    draws : int

    Returns
    -------
    dict
        The ``mean`` (the statistic of all rows), ``low`` and ``high``.
    """
    rows, rng = [*metrics.per_patient(patient).values()], np.random.default_rng(0)
    again = [
        statistic(np.concatenate([rows[k] for k in rng.integers(len(rows), size=len(rows))])) for _ in range(draws)
    ]
    low, high = np.nanquantile(again, (0.025, 0.975))
    return metrics.Interval(float(statistic(np.arange(len(patient)))), float(low), float(high))._asdict()
