"""Kind L: a checkpoint that other settings or data made is not replaced unless one says so."""

import json
import random

import pytest
from drawn import drawn
from small import make_patients

from vaelib import InputError, cli, recipes
from vaelib.engine import checkpoints
from vaelib.engine.states import is_finished

SMALL = {"--level": "5", "--latent": "2", "--epochs": "1", "--batch-size": "64", "--beta": "0.01", "--seed": "0"}
CHANGES = {
    "--latent": ["3", "4", "64"], "--epochs": ["2", "25"], "--batch-size": ["8", "128"], "--level": ["6", "7"],
    "--beta": ["0.02", "0", "1"], "--seed": ["1", "7", "2026"], "--fold": ["0", "1", "3"], "--lr": ["0.001", "0.01"],
    "--precision": ["bf16-mixed", "16-mixed"], "cohort": ["other"],
}  # fmt: skip
INSTANCES = [
    ("another cohort", {"cohort": "other"}, False),
    ("the same again", {}, True),
    ("the same, to be resumed", {"--resume": None}, True),
    ("another cohort, on purpose", {"cohort": "other", "--overwrite": None}, True),
    *((f"{option} {values[0]}", {option: values[0]}, False) for option, values in CHANGES.items()),
    ("another beta, to be resumed", {"--beta": "0.02", "--resume": None}, False),
    ("another beta, on purpose", {"--beta": "0.02", "--overwrite": None}, True),
]


def generate(r: random.Random):
    changed = {option: r.choice(CHANGES[option]) for option in r.sample([*CHANGES], r.randint(1, 4))}
    flags = {flag: None for flag in ("--resume", "--overwrite") if r.random() < 0.3}
    return " ".join([*changed, *flags]), changed | flags, "--overwrite" in flags


class Begun(Exception):
    """Training has begun."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two cohorts and a checkpoint of the first."""
    top = tmp_path_factory.mktemp("made")
    for name in ("one", "other"):
        make_patients(top / name, range(1, 13) if name == "one" else range(13, 25))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vaelib.cohort.cache_folder", lambda folder: top / "cache" / folder.name)
        words = [word for pair in SMALL.items() for word in pair]
        assert cli.main(["train", str(top / "one"), "--out", str(top / "m.safetensors"), *words]) == 0
    return top


@pytest.fixture
def begins(made, monkeypatch):
    """Tell whether a command comes as far as to train."""

    def begun(*args, **kwargs):
        raise Begun

    monkeypatch.setattr("vaelib.cohort.cache_folder", lambda folder: made / "cache" / folder.name)
    monkeypatch.setattr(recipes, "train_vae", begun)
    monkeypatch.setattr(recipes, "states_of", lambda *a, **k: ["", ""])
    return lambda words: cli.main(["train", *map(str, words)]) == 1


@drawn(INSTANCES, generate, seed=18)
def test_a_checkpoint_is_replaced_by_its_own_kind_alone(case, made, begins, capsys):
    _, changed, allowed = case
    out, before = made / "m.safetensors", (made / "m.safetensors").read_bytes()
    options = SMALL | {k: v for k, v in changed.items() if k != "cohort"}
    words = [made / changed.get("cohort", "one"), "--out", out]
    words += [word for pair in options.items() for word in pair if word is not None]
    assert begins(words) == allowed
    said = capsys.readouterr().err.splitlines()
    assert allowed or (
        "m.safetensors: is there, and other settings or data made it" in said[-1] and "--overwrite" in said[-1]
    )
    assert out.read_bytes() == before


@pytest.mark.parametrize("what", ["text", "another program's", "a lesson's", "an older one"])
def test_what_is_no_such_checkpoint_stays_too(what, made, begins, tmp_path, capsys):
    out = tmp_path / "m.safetensors"
    if what == "text":
        out.write_text("precious")
    elif what == "another program's":
        from safetensors.numpy import save_file

        save_file({}, out)
    else:
        networks, meta = checkpoints.load(made / "m.safetensors")
        meta = {k: v for k, v in meta.items() if k not in ("made_by", "networks")}
        checkpoints.save(out, networks, **meta | ({"made_by": {"recipe": 1}} if what == "a lesson's" else {}))
    before = out.read_bytes()
    assert not begins([made / "one", "--out", out]) and out.read_bytes() == before
    assert "is there, and other settings or data made it" in capsys.readouterr().err
    assert begins([made / "one", "--out", out, "--overwrite"])


def test_a_folder_in_its_place_is_refused_before_training(made, begins, tmp_path, capsys):
    assert not begins([made / "one", "--out", tmp_path])
    assert "is a folder; name the checkpoint to write in it with `--out`" in capsys.readouterr().err


def test_python_says_the_same(made, begins):
    how = dict(level=5, latent=2, epochs=1)
    with pytest.raises(InputError, match="other settings or data made it"):
        recipes.train(made / "one", out=made / "m.safetensors", **how | {"latent": 3})
    with pytest.raises(Begun):
        recipes.train(made / "one", out=made / "m.safetensors", **how | {"latent": 3}, overwrite=True)


def test_what_is_made_says_where_it_went_and_whether_it_is_what_will_be_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("vaelib.phantom.make_cohort", lambda folder, **how: folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VAELIB_DATA", raising=False)
    assert cli.main(["phantom"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith(str(tmp_path / "data" / "synthetic")) and said.err == ""
    monkeypatch.setenv("VAELIB_DATA", str(tmp_path / "mine"))
    assert cli.main(["phantom"]) == 0
    assert "is not the cohort in use: VAELIB_DATA names" in capsys.readouterr().err


def test_folds_of_a_second_cohort_do_not_replace_the_first_s(tmp_path, monkeypatch):
    made = {"fold": 0, "cohort": "a", "data": "1"}
    scores = tmp_path / "fold0.json"
    scores.write_text(json.dumps({"made_by": made}))
    assert is_finished(scores, made)
    assert not is_finished(scores, made | {"data": "2"})  # a patient was mended
    with pytest.raises(InputError, match="'cohort': 'a'.*name another folder"):
        is_finished(scores, made | {"cohort": "b", "data": "2"})
