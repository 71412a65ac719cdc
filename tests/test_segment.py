"""From a series to a written mask, on synthetic and on real input."""

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image

from vaelib import latent, losses, metrics, recipes
from vaelib.cohort import Slices
from vaelib.engine.checkpoints import load, save
from vaelib.levels import downscale, window
from vaelib.vae import VAE, MaskDecoder
from vaelib.volumes import read_ct, read_mask


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A VAE without training, and a mask decoder that says the same everywhere: one pixel in two."""
    torch.manual_seed(0)
    vae, mask = VAE(64, channels=2, latent=4), MaskDecoder(64, channels=2, latent=4, prevalence=0.5)
    torch.nn.init.zeros_(mask.cascade[-1].weight)
    path = tmp_path_factory.mktemp("models") / "c.safetensors"
    return save(path, {"vae": vae, "mask": mask}, level=6, window=[-160, 240], thresholds={"64": 0.2, "512": 0.4})


@pytest.mark.parametrize("name", ["mask.nii.gz", "mask.dcm"])
def test_any_series_gets_a_mask_on_its_own_grid(any_series, checkpoint, tmp_path, name, capsys):
    out = tmp_path / name
    recipes.segment(any_series, checkpoint=checkpoint, out=out)
    scan = read_ct(any_series)
    mask = read_mask(out, scan)
    assert mask.GetSize() == scan.GetSize()
    inner = sitk.GetArrayFromImage(mask)[:, 2:-2, 2:-2]
    assert inner.all()  # the decoder says 0.5 everywhere, the threshold at full size is 0.4
    assert f"{out}: " in capsys.readouterr().out
    recipes.segment(any_series, checkpoint=checkpoint, out=tmp_path / "none.nii.gz", threshold=0.6)
    assert not sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "none.nii.gz"))).any()


def test_the_real_series_is_segmented_on_its_grid(real_series, checkpoint, tmp_path):
    out = tmp_path / "real.nii.gz"
    recipes.segment(real_series, checkpoint=checkpoint, out=out)
    scan, mask = read_ct(real_series), sitk.ReadImage(str(out))
    assert mask.GetSize() == scan.GetSize() == (512, 512, 20)
    np.testing.assert_allclose(mask.GetOrigin(), scan.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(mask.GetDirection(), scan.GetDirection(), atol=1e-6)


def test_a_checkpoint_of_one_network_cannot_segment(series, tmp_path):
    path = save(tmp_path / "half.safetensors", {"vae": VAE(64, channels=2, latent=4)}, level=6)
    with pytest.raises(recipes.InputError, match="half.safetensors: holds .'vae'., not .'mask'"):
        recipes.segment(series, checkpoint=path, out=tmp_path / "m.nii.gz")
    assert not (tmp_path / "m.nii.gz").exists()


def real_stack(folder, patients) -> Slices:
    """Real slices as the notebooks' functions take them: HU 0 to 255, spine below, 64 pixels a side."""
    images, masks, names = [], [], []
    for path in sorted((folder / "images").glob("*.jpg")):
        if path.name[9:13] in patients:
            hu, mask = (np.asarray(Image.open(p).convert("L"))[::-1] for p in (path, folder / "masks" / path.name))
            images.append(downscale(window(hu, 0, 255), 6))
            masks.append(downscale(mask > 127, 6))
            names.append(path.name[9:13])
    return Slices(np.stack(images)[:, None], np.stack(masks)[:, None], np.array(names), np.linspace(0, 1, len(names)))


def test_the_same_functions_train_on_real_slices(real_slices):
    train, val = real_stack(real_slices, ["0001", "0003", "0005", "0010"]), real_stack(real_slices, ["0004", "0007"])
    assert len(train.images) == 43 and not set(train.patient) & set(val.patient)
    vae, history = recipes.train_vae(train, val, latent=16, epochs=100)
    recon = latent.decode(vae.decoder, latent.encode(vae, train.images)[0])
    mean = np.broadcast_to(train.images.mean(0), train.images.shape)
    ours, theirs = (losses.l2(torch.tensor(r), torch.tensor(train.images)) for r in (recon, mean))
    assert ours < 0.9 * theirs  # 16 numbers say more of a slice than the mean of all
    mask, history = recipes.train_mask(vae, train, val, copies=4, mask_epochs=6)
    assert history[-1]["train/total"] < history[0]["train/total"]
    probability = latent.decode(mask, latent.encode(vae, train.images)[0])
    truth = train.masks >= metrics.TRUTH
    assert probability[truth].mean() > 2 * probability[~truth].mean()  # it looks in the right place


@pytest.mark.parametrize(("limit", "said"), [(-20.0, True), (20.0, False), (None, False)])
def test_a_scan_unlike_those_of_training_is_not_answered_without_a_word(
    series, tmp_path, checkpoint, recwarn, limit, said
):
    networks, meta = load(checkpoint, "vae", "mask")
    like = {"centre": [0.0] * 4, "precision": np.eye(4).tolist(), "limit": limit}
    told = {name: value for name, value in meta.items() if name != "networks"} | {"typical": like}
    path = save(tmp_path / "told.safetensors", networks, **told)
    recipes.segment(series, checkpoint=path, out=tmp_path / "m.nii.gz")
    assert any("m.nii.gz: unlike the scans that the network learned from" in str(w.message) for w in recwarn) == said
    assert (tmp_path / "m.nii.gz").exists()


def test_a_checkpoint_whose_limit_fits_no_network_is_refused(series, tmp_path, checkpoint):
    networks, meta = load(checkpoint, "vae", "mask")
    told = {name: value for name, value in meta.items() if name != "networks"} | {
        "typical": {"centre": [1], "limit": 2}
    }
    path = save(tmp_path / "odd.safetensors", networks, **told)
    with pytest.raises(recipes.InputError, match="odd.safetensors: says typical"):
        recipes.segment(series, checkpoint=path, out=tmp_path / "m.nii.gz")
    assert not (tmp_path / "m.nii.gz").exists()
