"""Kind C: whatever a checkpoint holds, `segment` and `evaluate` use it, or say in one line what it lacks."""

import math
import random
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from drawn import drawn
from small import make_patients

from vaelib import InputError, cli, recipes
from vaelib.engine import checkpoints
from vaelib.rivals import UNet
from vaelib.spatial import ResidualMaskDecoder, ResidualVAE
from vaelib.vae import VAE, MaskDecoder, Supervised

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = sorted((ROOT / "notebooks" / "checkpoints").glob("*.safetensors"))
USABLE = {"03_vae", "06_spatial", "07_full_size", "07_spatial", "07_spatial_1024", "07_vector", "08_slices"}
SEGMENTS = USABLE - {"03_vae", "06_spatial", "08_slices"}  # which have no threshold, or one of 64 x 64 alone


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A small cohort, and a series of it."""
    top = tmp_path_factory.mktemp("room")
    make_patients(top / "cohort", range(1, 7))
    return top, next((top / "cohort").glob("*/*/CT_1"))


def ends(capsys, *words):
    """Run a command; return its status and what it said, which is one line of error where it failed."""
    status = cli.main([str(word) for word in words])
    said = capsys.readouterr()
    assert status in (0, 2), said.err
    if status:
        assert [line[:15] for line in said.err.splitlines()].count("vaelib: error: ") == 1
        assert "fault of vaelib" not in said.err and said.out == ""
    return status, said


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_each_committed_checkpoint_segments_or_says_why_not(path, room, tmp_path, capsys):
    out = tmp_path / "m.nii.gz"
    status, said = ends(capsys, "segment", room[1], "--checkpoint", path, "--out", out)
    assert (status == 0) == (path.stem in SEGMENTS) == out.exists() and (status == 0 or path.name in said.err)
    if path.stem == "06_spatial":
        assert "`--threshold 0.3`" in said.err
        assert ends(capsys, "segment", room[1], "--checkpoint", path, "--out", out, "--threshold", "0.3")[0] == 0
    if out.exists():
        assert sitk.ReadImage(str(out)).GetSize() == (32, 40, 12)


@pytest.mark.parametrize("path", [p for p in COMMITTED if p.stem != "07_full_size"], ids=lambda path: path.stem)
def test_each_committed_checkpoint_is_scored_or_says_why_not(path, room, capsys, monkeypatch):
    monkeypatch.setattr("vaelib.cohort.cache_folder", lambda folder: room[0] / "cache")
    status, said = ends(capsys, "evaluate", room[0] / "cohort", "--checkpoint", path)
    assert (status == 0) == (path.stem in USABLE)
    if status == 0:
        assert recipes.DETACHED in said.out and "says not whom it was trained on" in said.err
    else:
        assert path.name in said.err


@pytest.mark.parametrize("name", ["vae64", "mask64"])
def test_what_the_lessons_keep_is_told_apart_from_a_whole_checkpoint(name, room, tmp_path, capsys):
    path = ROOT / "data" / "models" / "synthetic" / f"{name}.safetensors"
    if not path.exists():
        pytest.skip(f"no {path.relative_to(ROOT)}: the lessons have not run here")
    status, said = ends(capsys, "segment", room[1], "--checkpoint", path, "--out", tmp_path / "m.nii.gz")
    assert status == 2 and f"{name}.safetensors: holds" in said.err


def forged(path, size=64, latent=4, mask=None, **meta):
    """A checkpoint of small networks that says what it is told to."""
    torch.manual_seed(0)
    networks = {
        "vae": VAE(size, channels=2, latent=latent),
        "mask": mask or MaskDecoder(size, channels=2, latent=latent),
    }
    said = {"level": 6, "window": [-160, 240], "thresholds": {"64": 0.2, "512": 0.4}, "patients": {"train": ["a"]}}
    return checkpoints.save(path, networks, **{k: v for k, v in (said | meta).items() if v is not ...})


RIGHT = {  # what is lacking here, and can be derived
    "level": ..., "window": ..., "patients": ..., "fold": 3, "seed": 7,
}  # fmt: skip
WRONG = {
    "level": [7, 5, 9, 0, -6, 6.5, "6", None, [6], True],
    "window": [[240, -160], [0, 0], [math.nan, 240], [-160, math.inf], [-160], [1, 2, 3], "wide", None, 5, ["a", "b"]],
    "thresholds": [{"512": math.nan}, {"512": 20}, {"512": 0}, {"512": -1}, {"512": "half"}, {"512": None}, [0.4], 0.4],
    "patients": [["a"], {"val": ["a"]}, {"train": 5}, {"train": [1]}, 7, "a"],
    "fold": [4, -1, "0", 1.5, [0]],
}
INSTANCES = [
    ("level 7 with a network of 64", {"level": 7}, "level"),
    ("thresholds lacking at full size", {"thresholds": {"64": 0.2}}, "--threshold 0.3"),
    ("thresholds lacking", {"thresholds": ...}, "--threshold 0.3"),
    ("a decoder of another latent", {"mask": MaskDecoder(64, channels=2, latent=5)}, "do not turn single slices"),
    ("a decoder of another size", {"mask": MaskDecoder(32, channels=2, latent=4)}, "do not turn single slices"),
    ("a decoder of cubes", {"mask": MaskDecoder(64, channels=2, latent=4, dims=3)}, "do not turn single slices"),
    ("a decoder that is a U-Net", {"mask": UNet(channels=2)}, "do not turn single slices"),
    ("a decoder that is a whole network", {"mask": Supervised(64, channels=2, latent=4)}, "do not turn single slices"),
    ("a decoder that is a VAE", {"mask": VAE(64, channels=2, latent=4)}, "do not turn single slices"),
    ("a decoder of a grid", {"mask": ResidualMaskDecoder(64, 2, 4, 8)}, "do not turn single slices"),
    ("nothing said but thresholds", {k: v for k, v in RIGHT.items() if v is ...}, ""),
    ("one threshold, as a study keeps it", {"size": 512, "level": 9, "thresholds": ..., "threshold": 0.3}, ""),
    *((f"without {name}", {name: value}, "") for name, value in RIGHT.items()),
]  # fmt: skip


def generate(r: random.Random):
    name = r.choice([*WRONG])
    if r.random() < 0.2:
        some = r.sample([*RIGHT], r.randint(1, 4))
        cut = round(r.uniform(0.01, 0.99), 3)
        return f"only some: {some}", {k: RIGHT[k] for k in some} | {"thresholds": {"512": cut}}, ""
    value = r.choice(WRONG[name])
    return f"{name} {value!r}".replace("\n", " "), {name: value}, f"says {name} = "


@drawn(INSTANCES, generate, seed=18)
def test_what_a_checkpoint_says_is_used_or_refused(case, room, tmp_path, capsys):
    _, meta, lacking = case
    path, out = forged(tmp_path / "c.safetensors", **meta), tmp_path / "m.nii.gz"
    status, said = ends(capsys, "segment", room[1], "--checkpoint", path, "--out", out)
    assert status == (2 if lacking else 0), said.err
    if lacking:
        assert lacking in said.err and "c.safetensors: " in said.err and not out.exists()
        if "--threshold" in lacking:
            assert ends(capsys, "segment", room[1], "--checkpoint", path, "--out", out, "--threshold", "0.3")[0] == 0


def test_what_is_not_said_is_that_of_this_library(room, tmp_path):
    whole, bare = forged(tmp_path / "a.safetensors"), forged(tmp_path / "b.safetensors", level=..., window=...)
    for path in (whole, bare):
        recipes.segment(room[1], checkpoint=path, out=path.with_suffix(".nii.gz"))
    one, two = (sitk.GetArrayFromImage(sitk.ReadImage(str(p.with_suffix(".nii.gz")))) for p in (whole, bare))
    assert np.array_equal(one, two)


def test_thresholds_that_a_checkpoint_lacks_are_chosen_on_validation_patients(room, tmp_path, monkeypatch):
    monkeypatch.setattr("vaelib.cohort.cache_folder", lambda folder: room[0] / "cache")
    path = forged(tmp_path / "c.safetensors", thresholds=...)
    board = recipes.evaluate(room[0] / "cohort", checkpoint=path)
    assert {*board[recipes.DETACHED]["thresholds"]} == {"64", "512"}


def test_a_checkpoint_of_another_window_is_not_scored_on_this_cache(room, tmp_path, monkeypatch):
    monkeypatch.setattr("vaelib.cohort.cache_folder", lambda folder: room[0] / "cache")
    path = forged(tmp_path / "c.safetensors", window=[0, 100])
    with pytest.raises(InputError, match=r"c.safetensors: sees HU \[0, 100\], and the cache holds \[-160, 240\]"):
        recipes.evaluate(room[0] / "cohort", checkpoint=path)


def test_a_decoder_that_reads_neighbours_gets_them_from_the_scan(room, tmp_path):
    torch.manual_seed(0)
    vae, mask = ResidualVAE(64, 2, 3, 8), ResidualMaskDecoder(64, 2, 3, 8, reach=1)
    images = np.random.default_rng(0).random((5, 1, 64, 64), np.float32)
    got = recipes.predicted(vae.eval(), mask.eval(), recipes.of_one(images))
    with torch.no_grad():
        z = vae.encoder(torch.from_numpy(images))[0]
        near = torch.stack([torch.cat([z[max(k - 1, 0)], z[k], z[min(k + 1, 4)]]) for k in range(5)])
        np.testing.assert_allclose(got, torch.sigmoid(mask(near)).numpy(), atol=1e-5)


def black(shape=(12, 40, 32)):
    """A scan of air, with a mask in it."""
    mask = np.zeros(shape, np.uint8)
    mask[3:9, 10:20, 8:20] = 1
    return np.full(shape, -1000, np.int16), mask


def test_slices_that_are_all_black_teach_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("vaelib.cohort.cache_folder", lambda folder: tmp_path / "cache")
    monkeypatch.setattr("small.blob_volume", black)
    make_patients(tmp_path / "cohort", range(1, 4))
    out = tmp_path / "m.safetensors"
    status, said = ends(capsys, "train", tmp_path / "cohort", "--out", out, "--level", "5", "--epochs", "1")
    assert status == 2 and "the mean of what is to be learned is 0: " in said.err and not out.exists()


@pytest.mark.parametrize("mean", [0, 1, -0.1, 1.5, math.nan])
@pytest.mark.parametrize("make", [lambda m: VAE(32, 2, 4, start=m), lambda m: MaskDecoder(32, 2, 4, prevalence=m),
                                  lambda m: ResidualVAE(32, 2, 4, 4, start=m),
                                  lambda m: Supervised(32, 2, 4, prevalence=m)])  # fmt: skip
def test_no_network_starts_from_a_mean_that_has_no_odds(make, mean):
    with pytest.raises(InputError, match=f"the mean of what is to be learned is {mean:g}: "):
        make(mean)
