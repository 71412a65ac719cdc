"""Cases of a kind of fault: the instances that were seen, and others drawn from a seed until there are enough."""

import random

import pytest


def drawn(instances, generate, *, seed, count=50):
    """Parametrize a test by `case`: the instances first, then as many as `generate(random.Random)` has to add.

    A case is a tuple whose first part is its name. The same seed draws the same cases.
    """
    r = random.Random(seed)
    cases = [*instances, *(generate(r) for _ in range(max(0, count - len(instances))))]
    return pytest.mark.parametrize("case", cases, ids=[f"{k} {case[0]}" for k, case in enumerate(cases)])
