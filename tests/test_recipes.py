"""What is trained is kept, found again, and trained anew when anything that made it changes."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from small import make_patients

from vaelib import InputError, detached, recipes, two_stage
from vaelib.cohort import Cohort, Slices, open_cohort
from vaelib.cohorts.layout import models_folder
from vaelib.engine.cards import card
from vaelib.engine.checkpoints import fingerprint, load, save
from vaelib.engine.rows import Rows
from vaelib.spatial import ResidualVAE


def people(names, seed=0, slices=30):
    """Slices of 32 pixels whose mask is a bright spot: what a model can learn in a moment."""
    rng, images, masks = np.random.default_rng(seed), [], []
    y, x = np.indices((32, 32))
    for _ in range(len(names) * slices):
        cy, cx = rng.uniform(8, 24, 2)
        spot = ((y - cy) ** 2 + (x - cx) ** 2 < 16).astype(np.float32)
        masks.append(spot)
        images.append(0.3 + 0.6 * spot)
    images, masks = (np.asarray(a, dtype=np.float32)[:, None] for a in (images, masks))
    return Slices(images, masks, np.repeat(names, slices), np.tile(np.linspace(0, 1, slices), len(names)))


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setitem(recipes.RECIPE, "latent", 4)
    monkeypatch.setitem(recipes.RECIPE, "epochs", 2)
    monkeypatch.setitem(recipes.RECIPE, "copies", 2)
    monkeypatch.setitem(recipes.RECIPE, "mask_epochs", 2)


@pytest.fixture
def lab_of(tmp_path, monkeypatch):
    """Make a cohort of slices whose models are kept in a folder of the test."""
    monkeypatch.setattr(recipes, "models_folder", lambda folder: tmp_path)

    def made(train, val):
        lab = Cohort(Path(), {}, 5)
        lab.train, lab.val = train, val
        return lab

    return made


def same(one, two):
    """Whether two networks have the same weights."""
    return all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True))


def test_a_checkpoint_is_used_again_until_data_or_recipe_change(tmp_path, quick, lab_of, monkeypatch):
    path, lab = tmp_path / "vae32.safetensors", lab_of(people(["a", "b"]), people(["c"], 1))
    vae = recipes.trained_vae(lab)
    made = path.stat().st_mtime_ns
    again = recipes.trained_vae(lab)
    assert path.stat().st_mtime_ns == made and torch.equal(again.encoder.mu.weight, vae.encoder.mu.weight)
    kept, mask = recipes.trained(lab)  # adds the decoder, keeps the encoder
    assert torch.equal(kept.encoder.mu.weight, vae.encoder.mu.weight) and not mask.training
    assert path.stat().st_mtime_ns == made and set(load(tmp_path / "mask32.safetensors")[0]) == {"mask"}
    changed = lab_of(people(["a", "b"], seed=9), lab.val)
    other = recipes.trained_vae(changed)
    assert not torch.equal(other.encoder.mu.weight, vae.encoder.mu.weight)
    monkeypatch.setitem(recipes.RECIPE, "beta", 1.0)
    dear = recipes.trained_vae(changed)
    assert not torch.equal(dear.encoder.mu.weight, other.encoder.mu.weight)


@pytest.mark.parametrize(("part", "value"), [("latent", 5), ("beta", 1.0), ("epochs", 1)])
def test_each_part_of_the_recipe_of_the_vae_makes_both_networks_anew(part, value, quick, lab_of, monkeypatch):
    lab = lab_of(people(["a", "b"]), people(["c"], 1))
    vae, mask = recipes.trained(lab)
    monkeypatch.setitem(recipes.RECIPE, part, value)
    other, its_mask = recipes.trained(lab)
    shapes = [[p.shape for p in net.parameters()] for net in (vae, other)]
    assert shapes[0] != shapes[1] or not (same(vae, other) or same(mask, its_mask))


@pytest.mark.parametrize(("part", "value"), [("copies", 1), ("mask_epochs", 1)])
def test_each_part_of_the_recipe_of_the_mask_decoder_makes_it_alone_anew(part, value, quick, lab_of, monkeypatch):
    lab = lab_of(people(["a", "b"]), people(["c"], 1))
    vae, mask = recipes.trained(lab)
    monkeypatch.setitem(recipes.RECIPE, part, value)
    again, its_mask = recipes.trained(lab)
    assert same(vae, again) and not same(mask, its_mask)


def test_a_vae_that_a_lesson_trained_is_found_and_its_mask_decoder_is_its_own(tmp_path, quick, lab_of):
    lab = lab_of(people(["a", "b"]), people(["c"], 1))
    _, mask = recipes.trained(lab)
    vae, history = recipes.train_vae(lab.train, lab.val, seed=1, **recipes.recipe("latent", "beta", "epochs"))
    path = recipes.keep_vae(lab, vae, history)
    assert path == tmp_path / "vae32.safetensors" and load(path, "vae")[1]["history"] == history
    assert same(recipes.trained_vae(lab), vae)
    again, other = recipes.trained(lab)  # the parent's weights are others, so the decoder is made anew
    assert same(again, vae) and not same(mask, other)


def test_models_of_a_cohort_lie_together(tmp_path):
    lab = Cohort(tmp_path, {}, 6, tmp_path / "mine")
    lab.train, lab.val = people(["a"]), people(["b"])
    assert recipes._vae_of(lab)[0] == models_folder(tmp_path / "mine") / "vae64.safetensors"


def test_training_the_mask_decoder_leaves_the_vae_as_it_was(quick):
    train, val = people(["a", "b"]), people(["c"], 1)
    vae, _ = recipes.train_vae(train, val, latent=4, epochs=1)
    before = {k: v.clone() for k, v in vae.state_dict().items()}
    recipes.train_mask(vae, train, val, copies=2, mask_epochs=1)
    assert all(torch.equal(v, before[k]) for k, v in vae.state_dict().items())


def test_numbers_that_json_cannot_hold_become_null():
    assert recipes.json_ready({"a": [float("inf"), 0.123456], "b": (1, float("nan"))}) == {
        "a": [None, 0.1235],
        "b": [1, None],
    }


def lazily(s):
    return s._replace(images=Rows(len(s.images), lambda r: s.images[r]), masks=Rows(len(s.masks), lambda r: s.masks[r]))


def test_slices_read_as_they_are_asked_for_train_the_same_vae(quick):
    train, val = people(["a", "b"]), people(["c"], 1)
    one, h1 = recipes.train_vae(train, val, latent=4, epochs=2)
    two, h2 = recipes.train_vae(lazily(train), lazily(val), latent=4, epochs=2)
    assert torch.allclose(
        one.encoder.mu.weight, two.encoder.mu.weight, atol=1e-4
    )  # they start from a mean summed otherwise
    assert h1[-1]["val/total"] == pytest.approx(h2[-1]["val/total"], rel=1e-4)
    assert fingerprint(train, val) == fingerprint(lazily(train), lazily(val))
    mask, _ = recipes.train_mask(one, train, val, copies=2, mask_epochs=2)
    np.testing.assert_allclose(
        recipes.predicted(one, mask, lazily(val))[3:9], recipes.predicted(one, mask, val)[3:9], atol=1e-6
    )


def test_a_mask_decoder_learns_from_slices_that_are_not_in_memory(quick):
    train, val = people(["a", "b", "c"]), people(["d"], 1)
    vae, _ = recipes.train_vae(train, val, latent=8, epochs=15)
    vae.zero_grad(set_to_none=True)
    before = {k: v.clone() for k, v in vae.state_dict().items()}
    mask, history = recipes.train_mask(vae, lazily(train), lazily(val), copies=4, mask_epochs=4)
    assert len(history) == 16 and history[-1]["val/total"] < 0.7 * history[0]["val/total"]
    assert all(torch.equal(v, before[k]) for k, v in vae.state_dict().items())
    assert all(p.grad is None for p in vae.parameters())


def test_what_an_interrupted_run_left_is_resumed_by_its_own_settings_only(tmp_path, monkeypatch, recwarn):
    def stop(*args, **options):
        raise KeyboardInterrupt

    make_patients(tmp_path / "cohort", range(1, 7))
    monkeypatch.setattr("vaelib.cohort.cache_folder", lambda folder: tmp_path / "cache")
    run = partial(recipes.train, tmp_path / "cohort", out=tmp_path / "m.safetensors", level=5, latent=2, epochs=1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(recipes, "train_mask", stop)
        run(beta=0.5)
    (left,) = tmp_path.glob("*.state")
    other = tmp_path / left.name.replace("m.", "m.b.", 1)  # of m.b.safetensors, another run in the same folder
    other.write_bytes(b"its state")
    recwarn.clear()
    made = run(beta=0.01, resume=True)
    assert any("belongs to a run on other data, or with another beta" in str(w.message) for w in recwarn)
    fresh = run(beta=0.01)
    assert made["history"]["vae"] == fresh["history"]["vae"] and list(tmp_path.glob("*.state")) == [other]


def test_a_vae_learns_from_patients_without_a_mask_and_a_mask_decoder_does_not(tmp_path, monkeypatch):
    make_patients(tmp_path / "cohort", range(1, 7))
    monkeypatch.setattr("vaelib.cohort.cache_folder", lambda folder: tmp_path / "cache")
    (mask,) = (tmp_path / "cohort").glob("PANCREAS_0004/*/SEG_*/*")
    mask.unlink()
    seen, real = {}, detached.fit

    def fit(net, step, data, **how):
        seen[how["label"]] = len(data[0])
        return real(net, step, data, **how)

    monkeypatch.setattr(detached, "fit", fit)
    with pytest.warns(UserWarning, match="PANCREAS_0004"):
        made = recipes.train(tmp_path / "cohort", out=tmp_path / "m.safetensors", level=5, latent=2, epochs=1)
    with pytest.warns(UserWarning, match="PANCREAS_0004"):
        lab = open_cohort(tmp_path / "cohort", level=5)
    assert made["patients"]["unlabelled"] == ["PANCREAS_0004"]
    assert seen["VAE"] == len(lab.scans.images) > len(lab.train.images)
    assert seen["mask decoder"] == recipes.RECIPE["copies"] * len(lab.train.images)


def test_a_patient_whose_scan_a_vae_has_seen_is_no_test_patient(tmp_path, monkeypatch):
    make_patients(tmp_path / "cohort", range(1, 7))
    monkeypatch.setattr("vaelib.cohort.cache_folder", lambda folder: tmp_path / "cache")
    out, said = tmp_path / "m.safetensors", {}
    recipes.train(tmp_path / "cohort", out=out, level=5, latent=2, epochs=1)
    real = recipes.usable

    def usable(checkpoint):
        use, meta = real(checkpoint)
        return use, meta | {"patients": meta["patients"] | {"unlabelled": said["names"]}}

    monkeypatch.setattr(recipes, "usable", usable)
    said["names"] = open_cohort(tmp_path / "cohort", level=5).parts["test"][:1]
    with pytest.raises(InputError, match="was trained on patients that are held out here"):
        recipes.evaluate(tmp_path / "cohort", checkpoint=out)


def test_a_spatial_model_is_trained_evaluated_and_used_as_any_other(tmp_path, monkeypatch):
    """Its latent keeps its places, and its mask decoder reads the neighbours' codes."""
    monkeypatch.setattr("vaelib.cohort.cache_folder", lambda folder: tmp_path / "cache")
    monkeypatch.setitem(recipes.RECIPE, "copies", 1)
    monkeypatch.setitem(recipes.RECIPE, "mask_epochs", 1)
    make_patients(tmp_path / "cohort", (1, 3, 5, 7))
    how = dict(level=5, latent=2, beta=0.001, epochs=1, model="spatial")
    made = recipes.train(tmp_path / "cohort", out=tmp_path / "c.safetensors", **how)
    networks, _ = load(tmp_path / "c.safetensors", "vae", "mask")
    vae, mask = networks["vae"], networks["mask"]
    assert isinstance(vae, ResidualVAE) and vae.config["grid"] == 8 and mask.config["reach"] == 1
    assert {"32", "512"} <= made["thresholds"].keys()
    board = recipes.evaluate(tmp_path / "cohort", checkpoint=tmp_path / "c.safetensors")
    assert 0 <= board[recipes.DETACHED]["32"]["dice"]["mean"] <= 1
    scan = next((tmp_path / "cohort").glob("PANCREAS_0001/*/CT_*"))
    recipes.segment(scan, checkpoint=tmp_path / "c.safetensors", out=tmp_path / "mask.nii.gz", threshold=0.001)
    assert (tmp_path / "mask.nii.gz").exists()
    with pytest.raises(InputError, match="c.safetensors: "):  # a vector model is another run
        recipes.train(tmp_path / "cohort", out=tmp_path / "c.safetensors", **how | {"model": "vector"})
    with pytest.raises(InputError, match="choose from vector, spatial, two-stage"):
        recipes.train(tmp_path / "cohort", out=tmp_path / "d.safetensors", **how | {"model": "cube"})


def test_two_stages_are_trained_evaluated_and_used_as_any_other(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("vaelib.cohort.cache_folder", lambda folder: tmp_path / "cache")
    monkeypatch.setitem(recipes.RECIPE, "copies", 1)
    monkeypatch.setitem(recipes.RECIPE, "mask_epochs", 1)
    make_patients(tmp_path / "cohort", (1, 3, 5, 7))
    out, how = tmp_path / "c.safetensors", dict(latent=2, beta=0.001, epochs=1, model="two-stage", batch_size=16)
    real, stages = two_stage.train_mask, []

    def stop(vae, train, *rest, **more):
        stages.append([*train.rows])
        if len(stages) == 4:
            raise KeyboardInterrupt
        return real(vae, train, *rest, **more)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(two_stage, "train_mask", stop)
        recipes.train(tmp_path / "cohort", out=out, **how)
    one, other, both, fine = stages
    assert len(one) == len(other) == 1 and sorted(one + other) == both == fine  # each half is found by the other
    assert len(left := sorted(tmp_path.glob("c.*.state"))) == 7 and not out.exists()
    was = left[0].read_bytes()
    made = recipes.train(tmp_path / "cohort", out=out, resume=True, **how)
    assert not left[0].exists() and was and made["thresholds"].keys() == {"512"}
    networks, meta = load(out, *two_stage.NETWORKS)
    assert networks["fine vae"].config["grid"] == 32 and meta["grids"]["fine"]["spacing"] == [2.5, 1.5, 1.5]
    board = recipes.evaluate(tmp_path / "cohort", checkpoint=out, out=tmp_path / "scores")
    assert board[recipes.TWO].keys() == {"thresholds", "512"} and "64" in board["mean-shape atlas"]
    assert (tmp_path / "scores" / "worst.png").exists()
    assert "two-stage,512,PANCREAS_000" in (tmp_path / "scores" / "scores.csv").read_text()
    text = card(out, tmp_path / "scores" / "scoreboard.json")
    assert "model: two-stage" in text and "| two-stage | 512 |" in text and "fine 2.5 x 1.5 x 1.5 mm" in text
    scan = next((tmp_path / "cohort").glob("PANCREAS_0001/*/CT_*"))
    with pytest.warns(UserWarning, match=r"mask.nii.gz: "):
        recipes.segment(scan, checkpoint=out, out=tmp_path / "mask.nii.gz", threshold=0.001)
    assert "ml of predicted pancreas" in capsys.readouterr().out
    said = {name: value for name, value in meta.items() if name != "networks"} | {"grids": {"coarse": "another"}}
    save(tmp_path / "other.safetensors", networks, **said)
    with pytest.raises(InputError, match="other.safetensors: was made on other grids"):
        recipes.segment(scan, checkpoint=tmp_path / "other.safetensors", out=tmp_path / "none.nii.gz")
    assert not (tmp_path / "none.nii.gz").exists()


def test_training_the_spatial_mask_decoder_leaves_its_vae_as_it_was():
    train, val = people(["a", "b"]), people(["c"], 1)
    vae, _ = recipes.train_vae(train, val, latent=2, grid=8, beta=0.001, epochs=1)
    before = [p.clone() for p in vae.parameters()]
    mask, history = recipes.train_mask(vae, train, val, copies=2, mask_epochs=2)
    assert all(torch.equal(p, q) for p, q in zip(vae.parameters(), before, strict=True))
    assert len(history) == 4 and history[-1]["val/total"] < history[0]["val/total"]
    assert recipes.predicted(vae, mask, val).shape == val.masks.shape
