"""Kind F: of a checkpoint that cannot be read, and a file that cannot be written, the line says why."""

import errno
import gzip
import io
import json
import os
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn import drawn
from safetensors.torch import save as packed

from vaelib import InputError
from vaelib.engine import checkpoints, files
from vaelib.engine.files import atomic_write, write_file
from vaelib.engine.states import is_finished
from vaelib.vae import VAE

AGAIN = "copy it anew, or train again by `vaelib train --overwrite`"  # of what is cut or damaged alone
OURS = "name a checkpoint that `vaelib train` made"


def ours(**meta):
    """The bytes of a sound checkpoint."""
    path = Path(files.tempfile.mkdtemp()) / "c.safetensors"
    torch.manual_seed(0)
    return checkpoints.save(path, {"vae": VAE(32, channels=2, latent=4)}, **meta).read_bytes()


def of_torch():
    out = io.BytesIO()
    torch.save({"a": torch.zeros(3)}, out)
    return out.getvalue()


def newer(kind, config):
    path = Path(files.tempfile.mkdtemp()) / "c.safetensors"
    checkpoints.write(path, {"vae/a": torch.zeros(2)}, {"networks": {"vae": [kind, config]}})
    return path.read_bytes()


def zipped():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("m.safetensors", "x")
    return out.getvalue()


SOUND = ours()
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
KINDS = {  # what lies there, and what the line says of it
    "a pointer of Git LFS": (lambda r: POINTER, "git lfs pull"),
    "a pointer of git-annex": (lambda r: b"/annex/objects/SHA256E-s123--ab.safetensors\n", "git annex get"),
    "a pickle": (lambda r: b"\x80\x04cos\nsystem\n", OURS),
    "a .pt of PyTorch": (lambda r: of_torch(), OURS),
    "a zip": (lambda r: zipped(), OURS),
    "a gzip": (lambda r: gzip.compress(SOUND), "gunzip"),
    "a web page": (lambda r: b"<!DOCTYPE html><html><title>404</title>", "a web page"),
    "XML": (lambda r: b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>", "a web page"),
    "HDF5": (lambda r: b"\x89HDF\r\n\x1a\n" + bytes(99), "HDF5"),
    "another program's": (lambda r: packed({"w": torch.zeros(r.randint(1, 9))}), "was written by another program"),
    "another program's, with words": (lambda r: packed({"w": torch.zeros(2)}, {"format": "pt"}), "another program"),
    "a newer network": (lambda r: newer("Transformer", {}), "update vaelib"),
    "a newer setting": (lambda r: newer("VAE", {"size": 64, "heads": 8}), "cannot build a VAE as the file says"),
    "empty": (lambda r: b"", AGAIN),
    "text": (lambda r: b"no weights here", AGAIN),
    "cut": (lambda r: SOUND[: r.randint(10, len(SOUND) - 1)], AGAIN),
    "a flipped bit": (lambda r: flipped(r.randint(len(SOUND) - 2000, len(SOUND) - 1)), AGAIN),
    "noise": (lambda r: bytes([1]) + r.randbytes(200), AGAIN),
    "a NumPy archive": (lambda r: npz(), OURS),
}  # fmt: skip


def flipped(at):
    return SOUND[:at] + bytes([SOUND[at] ^ 4]) + SOUND[at + 1 :]


def npz():
    out = io.BytesIO()
    np.savez(out, a=np.zeros(3))
    return out.getvalue()


CODES = {  # what the system answers, and what helps
    errno.ENOSPC: "make room", errno.EDQUOT: "make room", errno.EFBIG: "make room",
    errno.EACCES: "choose a folder that you may write to", errno.EPERM: "choose a folder that you may write to",
    errno.EROFS: "choose a folder that you may write to", errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOTDIR: "choose another name", errno.EISDIR: "choose another name", errno.ELOOP: "choose another name",
    errno.EIO: "see to that and run the same again", errno.EMFILE: "see to that and run the same again",
    errno.ESTALE: "see to that and run the same again",
}  # fmt: skip
STEPS = {"mkdir": (Path, "mkdir"), "mkdtemp": (files.tempfile, "mkdtemp")}
INSTANCES = [*((name, name, 7, text) for name, (_, text) in KINDS.items()),
             *((f"{errno.errorcode[code]} at mkdir", code, "mkdir", text) for code, text in CODES.items())]  # fmt: skip


def generate(r: random.Random):
    if r.random() < 0.6:
        name = r.choice([*KINDS])
        return name, name, r.randrange(10**6), KINDS[name][1]
    code, step = r.choice([*CODES]), r.choice([*STEPS])
    return f"{errno.errorcode[code]} at {step}", code, step, CODES[code]


@drawn(INSTANCES, generate, seed=18)
def test_the_cause_stands_in_the_line(case, tmp_path, monkeypatch):
    _, what, how, text = case
    if isinstance(what, str):
        path = tmp_path / "c.safetensors"
        path.write_bytes(KINDS[what][0](random.Random(how)))
        with pytest.raises(InputError) as caught:
            checkpoints.load(path)
        assert (AGAIN in str(caught.value)) == (text == AGAIN)
    else:

        def fails(*args, **kwargs):
            raise OSError(what, os.strerror(what))

        monkeypatch.setattr(*STEPS[how], fails)
        path = tmp_path / "a" / "c.txt"
        with pytest.raises(InputError) as caught:
            write_file(path, "x")
        assert f"cannot be written: {os.strerror(what)}; " in str(caught.value)
    said = str(caught.value)
    assert said.startswith(f"{path}: ") and text in said and "\n" not in said


def test_a_folder_or_nothing_or_what_may_not_be_read_is_told_apart(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="is a folder; name the checkpoint in it"):
        checkpoints.load(tmp_path)
    with pytest.raises(InputError, match="no such checkpoint; train one first"):
        checkpoints.load(tmp_path / "gone")
    with pytest.raises(InputError, match="cannot be read: File name too long"):
        checkpoints.load(tmp_path / ("n" * 300))
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be read: Not a directory"):
        checkpoints.load(tmp_path / "file" / "c")

    def refused(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refused)  # whoever runs the tests may read all
    with pytest.raises(InputError, match="file: cannot be read: Permission denied"):
        checkpoints.load(tmp_path / "file")


@pytest.mark.parametrize("length", [60, 200, 250, 255])
@pytest.mark.parametrize("letter", ["n", "é", "膵"])
def test_a_name_as_long_as_the_system_takes_is_written(length, letter, tmp_path):
    name = letter * (length // len(letter.encode()))
    assert write_file(tmp_path / name, "whole").read_text() == "whole"
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_name_that_is_too_long_is_told_so(tmp_path):
    for path in (tmp_path / ("n" * 256), tmp_path / ("n" * 300) / "a"):
        with pytest.raises(InputError, match="cannot be written: File name too long; choose a shorter name"):
            write_file(path, "x")
    assert not [*tmp_path.iterdir()]


def test_a_file_where_a_folder_should_be_and_the_other_way_round(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder" / "full").mkdir(parents=True)
    for path in (tmp_path / "file" / "a.txt", tmp_path / "file" / "b" / "a.txt", tmp_path / "folder"):
        with pytest.raises(InputError, match="a file is where a folder should be, or a folder where a file"):
            write_file(path, "x")
    assert (tmp_path / "file").read_text() == "x" and (tmp_path / "folder" / "full").is_dir()


@pytest.mark.parametrize(("below", "remedy"), [("data/cache/x", "VAELIB_HOME"), ("data/models/x", "VAELIB_HOME"),
                                               ("results", "choose a folder that you may write to")])  # fmt: skip
def test_a_house_that_is_read_only_is_told_where_another_may_stand(below, remedy, tmp_path, monkeypatch):
    def fails(*args, **kwargs):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", fails)
    with pytest.raises(InputError, match=f"Read-only file system; .*{remedy}"), atomic_write(tmp_path / below / "a"):
        pass


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"made_by": 3}', "\x00", '{"made_by": null}', "é"])
def test_scores_of_a_fold_that_are_damaged_are_named(text, tmp_path):
    (tmp_path / "fold0.json").write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match="fold0.json: is damaged, or not of `vaelib folds`"):
        is_finished(tmp_path / "fold0.json", {"fold": 0, "data": ""})
    (tmp_path / "fold0.json").write_text(json.dumps({"made_by": {"fold": 0, "data": ""}}))
    assert is_finished(tmp_path / "fold0.json", {"fold": 0, "data": ""})


def test_a_checkpoint_is_read_under_a_name_that_is_not_utf_8(tmp_path):
    path = write_file(tmp_path / os.fsdecode(b"Andr\xe9") / "c.safetensors", SOUND)
    assert checkpoints.load(path, "vae")[1] == {"networks": checkpoints.load(path)[1]["networks"]}
