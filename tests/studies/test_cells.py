"""Scores of the fresh patients: measured by arithmetic, kept cell by cell, and what may be concluded from them."""

import numpy as np
import pytest

import studies
from studies import _cells
from vaelib import metrics
from vaelib.cohort import Slices

SPACING = (4.0, 1.5, 1.5)


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    """Nothing is written but here."""
    monkeypatch.setattr(studies, "RESULTS", tmp_path)
    return tmp_path


# --- measures ----------------------------------------------------------------------------------------------------


def box(column, share=1.0, slices=3, side=16):
    """A square of 4 x 4 pixels on one slice of three, from a column on: (S, 1, H, W)."""
    out = np.zeros((slices, 1, side, side), np.float32)
    out[1, 0, 4:8, column : column + 4] = share
    return out


def two(masks, other):
    """Patients "b" and "a", in this order."""
    both = np.concatenate([masks, other])
    return Slices(both, both, np.repeat(["b", "a"], 3), np.tile(np.linspace(0, 1, 3), 2))


def test_a_perfect_prediction_has_nothing_wrong():
    s = two(box(4), box(9))
    found = _cells.measure(s.masks, 0.5, s, {"a": SPACING, "b": SPACING})
    assert [*found] == ["b", "a"] and [*found["a"]] == [*_cells.MEASURES]
    for row in found.values():
        assert row == {"dice": 1, "surface dice 2 mm": 1, "volume error": 0, "hd95 mm": 0}


@pytest.mark.parametrize(("mm", "near"), [(1.5, 1.0), (2.0, 1.0), (2.5, 24 / 32)])
def test_a_square_one_column_off_is_scored_by_arithmetic(mm, near):
    s = two(box(4), box(4))
    probability = np.concatenate([box(5, 0.7), box(4, 0.7)])
    found = _cells.measure(probability, 0.7, s, {"b": (4.0, 2.0, mm), "a": SPACING})
    # 12 of 16 pixels are in both; on one slice all are of the surface, and a column of four is `mm` away, both ways
    assert found["b"] == pytest.approx(
        {"dice": 24 / 32, "surface dice 2 mm": near, "volume error": 0, "hd95 mm": mm}, rel=1e-6
    )
    assert found["a"]["dice"] == 1


def test_the_volume_is_held_against_the_occupancy_and_the_overlap_against_a_fifth_of_a_pixel():
    truth = box(4, 0.5)
    truth[1, 0, 4:8, 8:10] = 0.15  # eight pixels, of too little pancreas to count, though it is volume
    s = two(truth, box(4))
    found = _cells.measure(np.concatenate([box(4), box(4)[::-1] * 0]), 0.5, s, {"b": SPACING, "a": SPACING})
    assert found["b"]["dice"] == 1 and found["b"]["volume error"] == pytest.approx(16 / (8 + 8 * 0.15) - 1)
    assert found["a"] == {"dice": 0, "surface dice 2 mm": 0, "volume error": -1, "hd95 mm": np.inf}


def test_a_patient_is_scored_in_3d_by_themselves():
    s = two(np.concatenate([box(4)[:1] * 0, box(4)[1:2], box(4)[1:2]]), box(4))
    probability = np.concatenate([np.concatenate([box(4)[1:2], box(4)[1:2], box(4)[:1] * 0]), box(4)])
    found = _cells.measure(probability, 0.5, s, {"b": SPACING, "a": SPACING})
    assert found["b"]["dice"] == 0.5 and found["b"]["hd95 mm"] == SPACING[0] and found["a"]["dice"] == 1


# --- the file ----------------------------------------------------------------------------------------------------


def scores(seed=0, patients="abc"):
    """Scores that need more than four digits."""
    rng = np.random.default_rng(seed)
    return {name: {measure: float(rng.random()) / 3 for measure in _cells.MEASURES} for name in patients}


def test_cells_are_read_as_they_were_written_to_four_digits(results):
    cells = {("autoencoder, noise on its code", 0): scores(0), ("U-Net", 3): scores(1)}
    cells["U-Net", 3]["b"]["hd95 mm"] = np.inf
    cells["U-Net", 3]["b"]["volume error"] = -123.456
    assert _cells.write_cells("held", cells) == results / "held.csv"
    found = _cells.read_cells("held")
    assert [*found] == [*cells]
    for cell, of_cell in cells.items():
        assert [*found[cell]] == [*of_cell]
        for patient, row in of_cell.items():
            assert found[cell][patient] == pytest.approx(row, rel=5.1e-4)
    assert found["U-Net", 3]["b"]["hd95 mm"] == np.inf and found["U-Net", 3]["b"]["volume error"] == -123.5
    head, first, *_ = (results / "held.csv").read_text().splitlines()
    assert head == "arm,seed,patient,dice,surface dice 2 mm,volume error,hd95 mm"
    assert first.startswith('"autoencoder, noise on its code",0,a,0.')
    _cells.write_cells("held", found)
    assert _cells.read_cells("held") == found, "once rounded, they stay"


def test_a_study_that_was_not_made_has_no_cells(tmp_path):
    assert _cells.read_cells("nothing") == {} == _cells.read_cells("nothing", tmp_path / "nowhere")


TODO = [(arm, seed) for seed in (0, 1) for arm in ("x", "y")]


def worker(fails=()):
    """What computes a cell, and the cells that it was asked for."""
    asked = []

    def work(cell):
        asked.append(cell)
        if cell in fails:
            raise KeyboardInterrupt
        return scores(TODO.index(cell))

    return work, asked


def test_what_is_missing_is_computed_and_written_cell_by_cell():
    at_work, asked = [], []

    def work(cell):
        at_work.append([*_cells.read_cells("held")])
        asked.append(cell)
        return scores(TODO.index(cell))

    _cells.fill("held", {}, TODO, work, workers=1)
    assert asked == TODO and at_work == [TODO[:k] for k in range(4)]


def test_an_unfinished_file_goes_on_and_ends_as_one_that_was_never_interrupted(tmp_path):
    work, asked = worker(fails=[("x", 1)])
    with pytest.raises(KeyboardInterrupt):
        _cells.fill("held", {}, TODO, work, workers=1)
    assert asked == TODO[:3] and [*_cells.read_cells("held")] == TODO[:2]
    work, asked = worker()
    resumed = _cells.fill("held", _cells.read_cells("held"), TODO, work, workers=1)
    assert asked == TODO[2:]
    work, asked = worker()
    at_once = _cells.fill("whole", {}, TODO, work, workers=1)
    assert (tmp_path / "whole.csv").read_text() == (tmp_path / "held.csv").read_text()
    assert resumed == at_once == _cells.read_cells("held"), "what is concluded does not know of the interruption"
    work, asked = worker()
    assert _cells.fill("held", resumed, TODO, work, workers=1) == resumed and asked == []


PLAN = {"steps": 3, "lr": 2e-3, "sizes": (1, 2)}


def test_a_study_takes_up_what_the_same_plan_made():
    record, cells = _cells.begin("held", PLAN)
    assert record == {"plan": PLAN} and cells == {}
    studies.write("held", record | {"found": 1})
    _cells.write_cells("held", {TODO[0]: scores()})
    record, cells = _cells.begin("held", dict(PLAN))
    assert record["found"] == 1 and [*cells] == TODO[:1]


def test_a_study_drops_what_another_plan_made():
    studies.write("held", {"plan": PLAN, "found": 1})
    _cells.write_cells("held", {TODO[0]: scores()})
    record, cells = _cells.begin("held", PLAN | {"steps": 4})
    assert record == {"plan": PLAN | {"steps": 4}} and cells == {}


def test_what_another_plan_made_does_not_come_back_after_an_interruption():
    studies.write("held", {"plan": PLAN})
    _cells.write_cells("held", {TODO[0]: scores()})
    record, _ = _cells.begin("held", PLAN | {"steps": 4})
    studies.write("held", record)  # as a study does before its first cell; and there it is stopped
    record, cells = _cells.begin("held", PLAN | {"steps": 4})
    assert cells == {}, "these cells were made by the plan with 3 steps"


def test_a_table_has_seeds_and_patients_in_order():
    cells = {
        ("x", 1): {"b": {"dice": 0.4}, "a": {"dice": 0.3}},
        ("y", 0): {"a": {"dice": 0.9}, "b": {"dice": 0.8}},
        ("x", 0): {"a": {"dice": 0.1}, "b": {"dice": 0.2}},
    }
    np.testing.assert_array_equal(_cells.table_of(cells, "x"), [[0.1, 0.2], [0.3, 0.4]])
    np.testing.assert_array_equal(_cells.table_of(cells, "y"), [[0.9, 0.8]])


# --- intervals ---------------------------------------------------------------------------------------------------


@pytest.fixture
def table():
    """Scores of one seed, 40 patients."""
    return np.random.default_rng(5).normal(0.6, 0.1, (1, 40))


def width(found):
    return found["high"] - found["low"]


def test_for_one_seed_the_interval_is_that_of_a_bootstrap_over_patients(table):
    found, wanted = _cells.interval(table), metrics.bootstrap(table[0])
    assert found["mean"] == pytest.approx(wanted.mean)
    tolerance = 0.06 * (wanted.high - wanted.low)  # three standard errors of a 2.5% quantile of 4,000 draws
    assert found["low"] == pytest.approx(wanted.low, abs=tolerance)
    assert found["high"] == pytest.approx(wanted.high, abs=tolerance)
    normal = 2 * 1.96 * table.std() / np.sqrt(40)
    assert width(found) == pytest.approx(normal, rel=0.08)


def test_seeds_that_agree_add_nothing_and_seeds_that_do_not_widen_it(table):
    agree = _cells.interval(np.repeat(table, 3, 0))
    apart = _cells.interval(table + [[-0.1], [0], [0.1]])
    assert width(agree) == pytest.approx(width(_cells.interval(table)), rel=0.06)
    # the mean of three seeds drawn anew has a variance of (0.1^2 * 2 / 3) / 3, beside that of the patients
    spread = np.sqrt(table.var() / 40 + 0.01 * 2 / 9)
    assert 2.5 * width(agree) < width(apart) == pytest.approx(2 * 1.96 * spread, rel=0.1)


def test_of_one_patient_seeds_alone_are_drawn():
    found = _cells.interval(np.array([[0.0], [1.0]]))  # two seeds drawn anew: 0 or 1 a time in four each
    assert found == {"mean": 0.5, "low": 0, "high": 1, "p": pytest.approx(0.5, abs=0.05)}


def test_the_difference_to_oneself_and_a_constant_is_that_constant(table):
    found = _cells.interval(table + 0.25, table)
    assert [found[k] for k in ("mean", "low", "high")] == pytest.approx([0.25] * 3, abs=1e-12)
    assert found["p"] == 1 / _cells.DRAWS == _cells.interval(table, table + 0.25)["p"]
    assert _cells.interval(table, table) == {"mean": 0, "low": 0, "high": 0, "p": 1}


def test_a_paired_difference_takes_out_what_patients_have_in_common():
    rng = np.random.default_rng(2)
    hard, own = rng.normal(0.6, 0.2, 60), rng.normal(0, 0.01, (2, 3, 60))
    ours, theirs = hard + 0.02 + own[0], hard + own[1]
    found = _cells.interval(ours, theirs)
    assert width(found) < 0.15 * width(_cells.interval(ours)) and found["low"] > 0 and found["p"] < 0.01
    assert found["mean"] == pytest.approx((ours.mean(0) - theirs.mean(0)).mean())


def test_seeds_that_stand_for_the_same_patients_are_drawn_together(table):
    apart = table + [[-0.3], [0], [0.3]]
    together = _cells.interval(apart + 0.25, apart, together=True)
    assert [together[k] for k in ("mean", "low", "high")] == pytest.approx([0.25] * 3, abs=1e-12)
    alone = _cells.interval(apart + 0.25, apart)
    assert alone["mean"] == pytest.approx(0.25) and width(alone) > 0.2, "each draws its own: 0.24 a standard deviation"
    assert _cells.interval(apart, together=True) == _cells.interval(apart)


def test_methods_may_have_other_numbers_of_seeds(table):
    found = _cells.interval(np.repeat(table, 5, 0) + 0.1, table)
    assert [found[k] for k in ("mean", "low", "high")] == pytest.approx([0.1] * 3, abs=1e-12)


def test_an_interval_covers_the_truth_as_often_as_it_says():
    rng, hits = np.random.default_rng(8), 0
    for _ in range(100):
        found = _cells.interval(rng.normal(0, 1, (1, 50)), draws=400)
        hits += found["low"] <= 0 <= found["high"]
    assert 88 <= hits <= 100  # 95 but for chance, three standard deviations


# --- many at once ------------------------------------------------------------------------------------------------


def test_holm_by_hand():
    found = _cells.holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    # 0.005 * 4, 0.01 * 3, 0.03 * 2; and 0.04 * 1 is no less than the one before it
    assert [*found] == ["a", "b", "c", "d"]
    assert found == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert _cells.holm({"a": 0.3}) == {"a": 0.3} and _cells.holm({}) == {}
    assert _cells.holm({"a": 0.6, "b": 0.7}) == {"a": 1, "b": 1}


def test_holm_rejects_what_stepping_down_rejects():
    """Holm 1979: from the least p on, reject while p <= alpha / (those that are left)."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        p = dict(enumerate(rng.random(rng.integers(1, 8)) ** 4))
        found, going = _cells.holm(p), True
        for k, name in enumerate(sorted(p, key=p.get)):
            going = going and p[name] <= 0.05 / (len(p) - k)
            assert (found[name] <= 0.05) == going
            assert p[name] <= found[name] <= 1


def test_shares_of_first_places_sum_to_one(table):
    rng = np.random.default_rng(1)
    tables = {name: table + rng.normal(0, 0.05, (2, 40)) for name in "abcd"}
    found = _cells.ranked_first(tables)
    assert [*found] == [*"abcd"] and sum(found.values()) == pytest.approx(1) and max(found.values()) < 1
    assert max(found, key=found.get) == max(tables, key=lambda name: tables[name].mean())


def test_who_is_better_on_every_patient_always_ranks_first(table):
    assert _cells.ranked_first({"low": table, "high": table + 0.01}) == {"low": 0, "high": 1}
    twin = np.array([[0.0, 1.0], [0.0, 1.0]])  # of two patients drawn anew: both, one of each twice as often, or both
    found = _cells.ranked_first({"x": twin, "y": 1 - twin + 1e-9})
    assert found["y"] == pytest.approx(0.75, abs=0.03)


def test_what_could_have_been_found_by_arithmetic():
    differences = np.array([1.0, 2, 3, 4, 5])  # a standard deviation of the square root of 2.5
    assert _cells.detectable(differences, 5) == pytest.approx(2.8 * np.sqrt(2.5 / 5))


def test_a_difference_of_that_size_is_found_in_four_of_five_trials():
    rng, found = np.random.default_rng(3), 0
    for _ in range(400):
        noise = rng.normal(0, 0.1, 100)
        trial = noise + _cells.detectable(noise, 100)
        found += abs(trial.mean()) > 1.96 * trial.std(ddof=1) / 10
    assert found / 400 == pytest.approx(0.8, abs=0.06)


def cells_of(**tables):
    """Cells of arms from tables (seeds, patients) of Dice; the other measures follow from it."""
    return {
        (arm, seed): {
            f"p{k:02}": dict(zip(_cells.MEASURES, (v, v / 2, v - 1, 10 * v), strict=True)) for k, v in enumerate(row)
        }
        for arm, table in tables.items() for seed, row in enumerate(table)
    }  # fmt: skip


def test_arms_are_summarized_and_the_base_is_subtracted_from_each(table):
    cells = cells_of(base=table, better=table + 0.1, same=np.repeat(table, 2, 0))
    found = _cells.compare(cells, "base", ["base", "better", "same", "not made"])
    assert [*found] == ["base", "better", "same"] and "minus base" not in found["base"]
    assert [found[arm]["seeds"] for arm in found] == [1, 1, 2]
    assert found["better"]["minus base"]["mean"] == pytest.approx(0.1)
    assert found["better"]["minus base"]["p by Holm"] == pytest.approx(2 / _cells.DRAWS)
    assert found["same"]["minus base"]["p by Holm"] == 1 and found["same"]["minus base"]["mean"] == 0
    assert [found[arm]["ranked first"] for arm in found] == [0, 1, 0]
    np.testing.assert_allclose(found["same"]["by seed"], [table.mean()] * 2)
    assert found["base"]["hd95 mm"] == pytest.approx(10 * np.median(table))
    assert found["base"]["volume error"] == pytest.approx(np.median(table) - 1)
    assert found["base"]["dice"] == _cells.interval(table)


def test_arms_of_the_same_draws_are_compared_draw_by_draw(table):
    apart = table + [[-0.3], [0], [0.3]]
    cells = cells_of(base=apart, better=apart + 0.1)
    found = _cells.compare(cells, "base", ["base", "better"], together=True)["better"]["minus base"]
    assert found["low"] == pytest.approx(0.1) == found["high"]
    assert _cells.compare(cells, "base", ["base", "better"])["better"]["minus base"]["low"] < 0


def test_without_its_base_nothing_is_subtracted(table):
    found = _cells.compare(cells_of(x=table, y=table + 0.1), "base", ["x", "y"], measures=("dice",))
    assert [*found["x"]] == ["seeds", "dice", "by seed", "ranked first"] and [*found] == ["x", "y"]


def test_the_old_held_out_are_those_of_validation_and_test(monkeypatch):
    asked = []
    monkeypatch.setattr(_cells, "load_slices", lambda *args: asked.append(args) or "slices")

    class Lab:
        shards, level, parts = "shards", 6, {"train": ["a"], "val": ["b"], "test": ["c", "d"]}

    assert _cells.held_out(Lab) == "slices" and asked == [("shards", ["b", "c", "d"], 6)]


def test_an_arm_of_one_seed_is_held_against_the_base_of_that_seed():
    score = lambda dice: {"x": {"dice": dice}, "y": {"dice": dice + 0.1}}  # noqa: E731
    cells = {("base", 0): score(0.5), ("base", 1): score(0.7), ("once", 0): score(0.55)}
    cells |= {("twice", 0): score(0.6), ("twice", 1): score(0.8)}
    found = _cells.compare(cells, "base", ("base", "once", "twice"), measures=("dice",))
    assert found["once"]["minus base"]["mean"] == pytest.approx(0.05)
    assert found["twice"]["minus base"]["mean"] == pytest.approx(0.1) and found["base"]["dice"]["mean"] == 0.65
    assert _cells.table_of(cells, "base", like="once").shape == (1, 2)
