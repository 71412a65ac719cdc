"""G. Remedies that no command has, the library's part: the pancreas is found, or what is said to do instead works."""

import random
import re
import warnings

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from drawn import drawn
from made import code, nifti, put, seg
from small import make_series

from vaelib import InputError
from vaelib.cohorts.labels import mask_of
from vaelib.cohorts.layout import Case
from vaelib.engine.shards import meta_of, prepare
from vaelib.volumes import read_ct, read_mask

PANCREAS, SRT = code("15776009"), code("T-65000", "SRT")
LIVER, TUMOUR = code("10200004", meaning="Liver"), code("108369006", meaning="Neoplasm")

# name, segments (label, code) of a SEG in order, which of them are the pancreas; then `segment`, or what is refused
INSTANCES = [
    ("Entire pancreas", [("Entire pancreas", None)], {1}, "", ""),
    ("coded, SCT", [("Liver", LIVER), ("Segment_2", PANCREAS)], {2}, "", ""),
    ("coded, SRT", [("organ", SRT)], {1}, "", ""),
    ("in capitals", [("LIVER", None), ("PANCREAS", None)], {2}, "", ""),
    ("beside a tumour", [("Pancreatic tumour", TUMOUR), ("Pancreas", PANCREAS)], {2}, "warn", ""),
    ("beside a tumour, both", [("Pancreas", PANCREAS), ("Pancreatic tumour", TUMOUR)], {1, 2}, "1+2", ""),
    ("head and tail", [("Head", None), ("Tail", None)], {1, 2}, "", "refused"),
    ("head and tail, coded", [("Pancreas head", PANCREAS), ("Pancreas tail", PANCREAS)], {1, 2}, "", "refused"),
    ("head and tail behind the liver", [("Liver", LIVER), ("Head", None), ("Tail", None)], {2, 3}, "", "refused"),
    ("head and tail by name", [("Head", None), ("Tail", None)], {1, 2}, "head+TAIL", ""),
    ("head and tail by number and name", [("Head", None), ("Liver", None), ("Tail", None)], {1, 3}, " 1 + tail ", ""),
    ("three by number", [("a", None), ("b", None), ("c", None), ("d", None)], {1, 2, 4}, "4+1+2", ""),
    ("a label with +", [("head+tail", None), ("Liver", LIVER)], {1}, "Head+Tail", ""),
    ("one is not there", [("Pancreas", None)], {1}, "pancreas+pancreatic tumour", "warn"),
    ("a tumour coded by where it is", [("Tumor", PANCREAS), ("Pancreas", None)], {2}, "warn", ""),
    ("a head coded as the whole", [("Pancreas head", PANCREAS), ("tail", None)], {1, 2}, "", "refused"),
    ("no label at all", [("", PANCREAS), ("", LIVER)], {1}, "", ""),
    ("twice the same", [("Pancreas", None), ("Pancreas", None)], {1, 2}, "", "refused"),
    ("neither", [("Liver", LIVER)], {1}, "", "refused"),
    ("structure", [("Pancreas structure", None), ("Spleen", None)], {1}, "", ""),
    ("with a number", [("pancreas_1", None), ("kidney_1", None)], {1}, "", ""),
]


def generate(r):
    others = [("Liver", LIVER), ("Spleen", None), ("Kidney L", None), ("aorta", None), ("stomach", None)]
    r.shuffle(others)
    others = others[: r.randrange(4)]
    way = r.choice(["label", "code", "entire", "union", "names", "parts", "tumour"])
    one = {
        "label": [(r.choice(["pancreas", "PANCREAS", "Pancreas ", " pancreas"]), r.choice([None, PANCREAS, SRT]))],
        "code": [(r.choice(["Organ 7", "Bauchspeicheldruese", "pancr", "roi"]), r.choice([PANCREAS, SRT]))],
        "entire": [(r.choice(["Entire Pancreas", "Whole pancreas", "pancreas (whole)", "Pancreas, total"]), None)],
        "tumour": [
            ("Pancreas", None),
            (r.choice(["Pancreatic tumor", "Tumour", "PDAC", "cyst", "pancreatic duct"]), None),
        ],
    }.get(way) or [(part, r.choice([None, PANCREAS])) for part in r.sample(["head", "Body", "TAIL", "uncinate"], 3)]
    mine = {id(item) for item in (one[:1] if way == "tumour" else one)}
    items = [*others, *one]
    r.shuffle(items)
    right = {n for n, item in enumerate(items, 1) if id(item) in mine}
    said = {"union": "+".join(map(str, right)), "names": "+".join(items[n - 1][0] for n in right), "tumour": "warn"}
    refused = "refused" if way == "parts" else ""
    return f"{way} of {len(items)}", items, right, said.get(way, ""), refused


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = make_series(tmp_path_factory.mktemp("g") / "ct")
    return read_ct(folder), folder, pydicom.dcmread(folder.parent / "seg.dcm")


def parts_of(truth, count, name):
    """Cut a mask into parts that overlap a little, as segments may."""
    draw = random.Random(name)
    where = np.argwhere(truth)
    out = np.zeros((count, *truth.shape), bool)
    for part, rows in zip(out, np.array_split(where[np.lexsort(where.T[[draw.randrange(3)]])], count), strict=True):
        part[tuple(rows.T)] = True
        part[tuple(where[draw.randrange(len(where))])] = True
    return out


def reading(read):
    """What comes of reading: an array or an error, and what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            return sitk.GetArrayFromImage(read()), [str(w.message) for w in caught]
        except InputError as error:
            assert "\n" not in str(error)
            return error, [str(w.message) for w in caught]


@drawn(INSTANCES, generate, seed=18)
def test_segments_are_found_or_the_remedy_works(case, made, tmp_path):
    name, items, right, said, outcome = case
    scan, _, base = made
    parts = parts_of(sitk.GetArrayFromImage(scan) == 95, len(items), name)
    path = tmp_path / "seg.dcm"
    seg(base, scan.headers, [(*item, part) for item, part in zip(items, parts, strict=True)]).save_as(path)
    truth = parts[[n - 1 for n in right]].any(0)
    options = {"segment": said} if said not in ("", "warn") else {}
    found, warned = reading(lambda: read_mask(path, scan, **options))
    if outcome == "refused":
        assert isinstance(found, InputError) and str(path) in str(found)
        assert all(f"{n} {label.strip()!r}" in str(found) for n, (label, _) in enumerate(items, 1))
        found, _ = reading(lambda: read_mask(path, scan, segment=re.search(r"--segment ([\d+]+)$", str(found))[1]))
    np.testing.assert_array_equal(found, truth)
    assert bool(warned) == ("warn" in (said, outcome))
    if said == "warn":  # what joins them is said, and works
        joined = re.search(r"--segment ([\d+]+)` joins", warned[0])[1]
        both, warned = reading(lambda: read_mask(path, scan, segment=joined))
        assert (both[truth] == 1).all() and both.sum() > truth.sum() and not warned


VALUES = [
    ("1 and 2", (1, 2), "1+2"),
    ("the other way round", (1, 2), "2 + 1"),
    ("tumour alone", (1, 2), "2"),
    ("one of three", (3, 7, 255), "7"),
    ("two of three", (3, 7, 255), "255+3"),
    ("is not there", (1,), "1+2"),
]


def values(r):
    held = tuple(sorted(r.sample(range(1, 256), r.randrange(2, 6))))
    return f"{held}", held, "+".join(str(v) for v in r.sample(held, r.randrange(1, len(held) + 1)))


@drawn(VALUES, values, seed=18)
def test_values_of_a_nifti_are_joined_and_the_remedy_works(case, made, tmp_path):
    name, held, said = case
    scan, folder, _ = made
    parts = parts_of(sitk.GetArrayFromImage(scan) == 95, len(held), name)
    array = np.zeros(parts.shape[1:], np.uint8)
    for value, part in zip(held, parts, strict=True):
        array[part] = value
    path = put(tmp_path / "label0001.nii.gz", nifti(array, scan))
    wanted = [int(v) for v in said.split("+")]
    found, warned = reading(lambda: mask_of(Case("P", folder, path, "tcia"), scan, segment=said)[0])
    np.testing.assert_array_equal(found, np.isin(array, wanted))
    assert any("no segment" in text for text in warned) == (not {*wanted} <= {*held})
    if len(held) > 1:
        error, _ = reading(lambda: read_mask(path, scan))
        for advice in re.findall(r"--segment ([\d+]+)", str(error)):
            found, _ = reading(lambda a=advice: read_mask(path, scan, segment=a))
            np.testing.assert_array_equal(found, np.isin(array, [int(v) for v in advice.split("+")]))


def test_a_shard_remembers_its_segments(made, tmp_path):
    scan, folder, base = made
    parts = parts_of(sitk.GetArrayFromImage(scan) == 95, 2, "shard")
    path = tmp_path / "seg.dcm"
    seg(base, scan.headers, [("Head", None, parts[0]), ("Tail", None, parts[1])]).save_as(path)
    case = Case("P1", folder, path, "idc")

    def stamp(**said):
        shards = prepare([case], tmp_path / "cache", levels=[6], workers=1, **said)
        return (shards / "P1" / "meta.json").stat().st_mtime_ns, meta_of(shards, "P1")["segment"]

    with pytest.raises(InputError, match="--segment 1[+]2"):
        prepare([case], tmp_path / "cache", levels=[6], workers=1)
    first = stamp(segment="1+2")
    assert first[1] == "1+2" and stamp() == stamp(segment="1+2") == first
    second = stamp(segment=2)
    assert second[1] == "2" and second[0] != first[0] and stamp() == second
    (folder / "notes.txt").write_text("harmless, and no slice")
    assert stamp() == second
    (folder / "notes.txt").unlink()
