"""A checkpoint holds all that rebuilds it; what is kept is made anew exactly when what made it has changed."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vaelib import InputError
from vaelib.engine import checkpoints
from vaelib.engine.checkpoints import fingerprint_of, kept, load, save
from vaelib.vae import VAE, MaskDecoder


def images(n=24):
    torch.manual_seed(1)
    return torch.rand(n, 1, 32, 32)


def test_a_checkpoint_rebuilds_its_networks_from_the_file_alone(tmp_path):
    vae, mask = VAE(32, channels=2, latent=4).eval(), MaskDecoder(32, channels=2, latent=4)
    path = save(tmp_path / "a" / "c.safetensors", {"vae": vae, "mask": mask}, threshold=0.2, window=[-160, 240])
    networks, meta = load(path, "vae", "mask")
    assert torch.equal(networks["vae"](images()).recon, vae(images()).recon)
    assert meta["threshold"] == 0.2 and meta["window"] == [-160, 240]
    assert not networks["mask"].training
    assert [p.name for p in path.parent.iterdir()] == ["c.safetensors"]


def test_bad_checkpoints_are_refused_by_name(tmp_path):
    path = save(tmp_path / "c.safetensors", {"vae": VAE(32, channels=2, latent=4)})
    with pytest.raises(InputError, match="c.safetensors: holds .'vae'., not .'mask'.; train"):
        load(path, "vae", "mask")
    with pytest.raises(InputError, match="nowhere: no such checkpoint"):
        load(tmp_path / "nowhere")
    (tmp_path / "half").write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match="half: not a whole safetensors file"):
        load(tmp_path / "half")
    (tmp_path / "pickle").write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(InputError, match="pickle: not a whole safetensors file"):
        load(tmp_path / "pickle")
    config = dict(size=64, channels=2, latent=4, dims=2)
    checkpoints.write(tmp_path / "other", load_file(path), {"networks": {"vae": ["VAE", config]}})
    with pytest.raises(InputError, match="other: made by another architecture than VAE"):
        load(tmp_path / "other")
    checkpoints.write(tmp_path / "odd", load_file(path), {"networks": {"vae": ["Popen", config]}})
    with pytest.raises(InputError, match="odd: network 'vae' is a 'Popen'"):
        load(tmp_path / "odd")


@pytest.mark.parametrize("longer", range(0, 2048, 8))
def test_a_checkpoint_is_itself_however_long_its_header(longer, tmp_path):
    """Its first byte is the length's last: that of a pickle in one header of 32, and of a web page or a zip."""
    path = tmp_path / "c"
    checkpoints.write(path, {"a": torch.zeros(1)}, {"note": "x" * longer})
    assert checkpoints.read(path)[1]["note"] == "x" * longer


def test_a_checkpoint_of_any_first_two_bytes_is_not_taken_for_something_else(tmp_path):
    path = tmp_path / "c"
    for length in (0x3C, 0x4B50, 0x8B1F):  # "<", "PK" and gzip's, not multiples of 8, as other writers leave them
        header = b'{"__metadata__":{"by":"another"}}'.ljust(length)
        path.write_bytes(length.to_bytes(8, "little") + header)
        with pytest.raises(InputError, match="was written by another program"):
            checkpoints.read(path)


def test_a_fingerprint_changes_with_a_weight_and_with_nothing_else(tmp_path):
    torch.manual_seed(0)
    vae = VAE(32, channels=2, latent=4)
    first = fingerprint_of(vae)
    assert fingerprint_of(load(save(tmp_path / "a", {"vae": vae}))[0]["vae"]) == first
    with torch.no_grad():
        last = [*vae.parameters()][-1]
        last.view(-1)[-1] = torch.nextafter(last.view(-1)[-1], torch.tensor(2.0))
    assert fingerprint_of(vae) != first


class Maker:
    """Makes a network, arrays and values, and counts how often it is asked."""

    def __init__(self):
        self.times = 0

    def __call__(self):
        self.times += 1
        torch.manual_seed(self.times)
        counts, seen = np.arange(6).reshape(2, 3)[:, ::2], np.array([True, False])
        return {"vae": VAE(32, channels=2, latent=4), "counts": counts, "seen": seen,
                "threshold": np.float32(0.25), "scores": {"Dice": [0.5, None]}}  # fmt: skip


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(v, two[k]) for k, v in one.items())


def test_networks_arrays_and_values_come_back(tmp_path):
    make, path = Maker(), tmp_path / "folder" / "a.safetensors"
    first = kept(path, {"recipe": {"latent": 4}}, make)
    again = kept(path, {"recipe": {"latent": 4}}, make)
    assert make.times == 1 and [p.name for p in path.parent.iterdir()] == [path.name]
    for found in (first, again):
        assert set(found) == {"vae", "counts", "seen", "threshold", "scores"} and not found["vae"].training
        torch.manual_seed(1)
        assert same(found["vae"].state_dict(), VAE(32, channels=2, latent=4).state_dict())
        assert found["counts"].tolist() == [[0, 2], [3, 5]] and found["counts"].dtype == int
        assert found["seen"].tolist() == [True, False] and found["seen"].dtype == bool
        assert found["threshold"] == 0.25 and found["scores"] == {"Dice": [0.5, None]}
    networks, metadata = load(path, "vae")  # it is a checkpoint like others
    assert same(networks["vae"].state_dict(), first["vae"].state_dict()) and metadata["threshold"] == 0.25


RECIPE = {"latent": 64, "beta": 0.01, "passes": (1, 2), "shift": {"name": "noise", "hu": 40.0}, "on": True}
CHANGES = [{"latent": 65}, {"beta": 0.011}, {"passes": (1, 3)}, {"shift": {"name": "noise", "hu": 41}}, {"on": None},
           {"more": 0}]  # fmt: skip


@pytest.mark.parametrize("change", [*CHANGES, *({name: ...} for name in RECIPE)])
def test_what_another_recipe_made_is_made_anew(tmp_path, change):
    make, path = Maker(), tmp_path / "a"
    old = kept(path, RECIPE, make)
    other = {k: v for k, v in (RECIPE | change).items() if v is not ...}
    new = kept(path, other, make)
    assert make.times == 2 and not same(old["vae"].state_dict(), new["vae"].state_dict())
    kept(path, other, make)
    assert make.times == 2
    kept(path, RECIPE, make)
    assert make.times == 3  # one file keeps one thing


def test_what_was_learned_from_other_weights_is_made_anew(tmp_path):
    torch.manual_seed(0)
    parent, make = VAE(32, channels=2, latent=4), Maker()
    learn = lambda: kept(tmp_path / "a", {"parent": fingerprint_of(parent)}, make)  # noqa: E731
    learn(), learn()
    assert make.times == 1
    with torch.no_grad():
        next(parent.parameters()).view(-1)[0] += 1e-6
    learn()
    assert make.times == 2


def test_half_keeps_float16_of_weights_and_gives_back_what_the_file_holds(tmp_path):
    make = lambda: {"mask": MaskDecoder(32, channels=2, latent=4), "a": np.float32([0.1])}  # noqa: E731
    torch.manual_seed(0)
    first = kept(tmp_path / "a", {}, make, half=True)
    torch.manual_seed(0)
    whole = make()["mask"].state_dict()
    assert same(first["mask"].state_dict(), {k: v.half().float() for k, v in whole.items()})
    assert same(kept(tmp_path / "a", {}, make)["mask"].state_dict(), first["mask"].state_dict())
    assert first["a"].dtype == np.float32 and first["a"][0] == np.float32(0.1)


def damaged(path):
    """Files that are not whole, or say nonsense under a right hash."""
    whole = path.read_bytes()
    tensors, meta = checkpoints.read(path)
    yield lambda: path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    yield lambda: path.write_bytes(whole[: len(whole) // 2])
    yield lambda: path.write_bytes(b"")
    yield lambda: np.savez(path.open("wb"), a=np.array([{}], dtype=object))  # a pickle, which is not read
    yield lambda: checkpoints.write(path, {}, meta)
    for value in (3, [], {"vae": 3}, {"vae": ["Popen", {}]}, {"vae": ["VAE", {"a": 1}]}):
        yield lambda value=value: checkpoints.write(path, tensors, meta | {"networks": value})


def test_a_damaged_file_is_named_and_made_anew(tmp_path):
    make, path = Maker(), tmp_path / "a.safetensors"
    kept(path, RECIPE, make)
    for times, spoil in enumerate([*damaged(path)], 2):
        spoil()
        with pytest.warns(UserWarning, match="a.safetensors: is damaged; it is made anew"):
            found = kept(path, RECIPE, make)
        assert make.times == times and found["counts"].tolist() == [[0, 2], [3, 5]]


def test_what_another_program_left_in_its_place_is_made_anew(tmp_path):
    make, path = Maker(), save(tmp_path / "a.safetensors", {"vae": VAE(32, channels=2, latent=4)})
    kept(path, RECIPE, make)
    kept(path, RECIPE, make)
    assert make.times == 1


def test_a_make_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.safetensors"
    kept(path, {"n": 1}, Maker())
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError):
        kept(path, {"n": 2}, lambda: 1 / 0)
    with pytest.raises(TypeError):
        kept(path, {"n": 2}, lambda: {"value": object()})
    for taken in ("networks", "made_by", "arrays"):  # by the checkpoint itself
        with pytest.raises(TypeError, match=taken):
            kept(path, {"n": 2}, lambda taken=taken: {taken: 1})
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [path.name]
