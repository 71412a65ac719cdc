"""The command line: help at once, bad input in one line, nothing overwritten."""

import inspect
import json
import subprocess
import sys
import time

import pytest
from small import make_patients

from vaelib import InputError, cli, recipes
from vaelib.engine import options as opt

COMMANDS = (
    "phantom",
    "download",
    "labels",
    "check",
    "prepare",
    "train",
    "evaluate",
    "folds",
    "segment",
    "card",
    "explorer",
)


def run(*words):
    """Run the command line as a process of its own."""
    return subprocess.run([sys.executable, "-m", "vaelib", *map(str, words)], capture_output=True, text=True)


def fails(capsys, *words):
    """Run it in this process, see that it fails as it should, and return the line that it said."""
    assert cli.main([str(word) for word in words]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("vaelib: error: ") and said.err.count("\n") == 1
    return said.err


@pytest.fixture
def saved(tmp_path):
    """A small checkpoint that holds no pancreas, but everything that `segment` reads."""
    from vaelib.engine.checkpoints import save
    from vaelib.vae import VAE, MaskDecoder

    networks = {"vae": VAE(32, channels=2, latent=4), "mask": MaskDecoder(32, channels=2, latent=4)}
    return save(
        tmp_path / "small.safetensors", networks, level=5, window=[-160, 240], thresholds={"32": 0.2, "512": 0.2}
    )


def test_help_answers_at_once_and_imports_nothing_heavy():
    begin = time.perf_counter()
    done = run("--help")
    assert time.perf_counter() - begin < 2  # 0.2 s on an idle machine
    assert done.returncode == 0 and all(name in done.stdout for name in COMMANDS)
    heavy = "import sys, vaelib.cli; print({'torch', 'numpy', 'SimpleITK', 'matplotlib'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", heavy], text=True) == "set()\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained(name, capsys):
    function = getattr(cli, name)
    assert cli.main([name, "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert function.__doc__.splitlines()[0] in said
    explained = inspect.getdoc(function).partition("----------")[2]
    for option in inspect.signature(function).parameters:
        assert f"--{option.replace(chr(95), chr(45))}" in said and f"\n{option} : " in explained


@pytest.mark.parametrize("name", ["train", "evaluate", "segment"])
def test_the_pipeline_takes_what_the_command_line_gives(name):
    given = inspect.signature(getattr(cli, name)).parameters
    taken = inspect.signature(getattr(recipes, name)).parameters
    assert set(given) - {"json"} == set(taken)
    usual = opt.USUAL["vector"] if name == "train" else {}  # what the command line fills in for its model
    for option, parameter in taken.items():
        if option in usual:
            assert parameter.default == usual[option] and given[option].default is None
        elif parameter.default is not parameter.empty:
            assert parameter.default == given[option].default, f"two defaults for {option}"


def test_the_defaults_are_passed_on(monkeypatch):
    seen = {}
    answers = {"train": {"thresholds": {"64": 0.2}, "patients": {"train": []}}, "evaluate": {}, "segment": None}
    for name, answer in answers.items():
        monkeypatch.setattr(recipes, name, lambda *a, n=name, r=answer, **k: seen.update({n: (a, k)}) or r)
    assert cli.main(["segment", "scan", "--out", "mask.nii.gz", "--overwrite"]) == 0
    assert cli.main(["train", "--resume", "--beta", "0.5"]) == 0
    assert cli.main(["evaluate", "cohort", "--json"]) == 0
    assert seen["segment"][1]["overwrite"] is True and seen["segment"][1]["threshold"] is None
    assert seen["train"][0] == (None,) and seen["train"][1]["resume"] is True and seen["train"][1]["beta"] == 0.5
    assert str(seen["evaluate"][0][0]) == "cohort"


def test_no_command_shows_the_help(capsys):
    assert cli.main([]) == 0
    assert "Usage" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nope"], "nope"),
        (["train", "--bta", "1"], "--bta"),
        (["phantom", "--patients", "many"], "many"),
        (["segment", "scan"], "--out"),
        (["segment"], "series"),
    ],
)
def test_a_slip_of_the_pen_is_one_line(words, said, capsys):
    assert said.lower() in fails(capsys, *words).lower()


def test_a_process_ends_with_status_2():
    done = run("prepare", "/nowhere/at/all")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("vaelib: error: /nowhere/at/all") and done.stderr.count("\n") == 1


def test_an_error_of_the_system_is_one_line_too(monkeypatch, capsys):
    def missing(*args, **kwargs):
        open("/nowhere/at/all")

    monkeypatch.setattr(recipes, "train", missing)
    assert fails(capsys, "train") == "vaelib: error: /nowhere/at/all: No such file or directory\n"


def test_a_message_of_many_lines_is_made_one(monkeypatch, capsys):
    def poem(*args, **kwargs):
        raise InputError("one\n  two")

    monkeypatch.setattr(recipes, "train", poem)
    assert fails(capsys, "train") == "vaelib: error: one two\n"


def test_a_fault_of_ours_is_not_called_bad_input(monkeypatch, capsys):
    def fault(*args, **kwargs):
        raise ValueError("a bug")

    monkeypatch.setattr(recipes, "train", fault)
    assert cli.main(["train"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("vaelib: error: ValueError in test_cli.py, line ") and said.count("\n") == 1
    assert ": a bug; this is a fault of vaelib: please report it" in said
    monkeypatch.setenv("VAELIB_TRACEBACK", "1")
    assert cli.main(["train"]) == 1 and "Traceback" in capsys.readouterr().err


def test_ctrl_c_ends_with_status_130(monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(recipes, "train", interrupt)
    assert cli.main(["train"]) == 130


@pytest.mark.parametrize("command", ["prepare", "train", "evaluate"])
def test_a_folder_without_a_case_is_named(command, tmp_path, capsys, saved):
    empty = tmp_path / "empty"
    empty.mkdir()
    options = {"train": ["--out", tmp_path / "new.safetensors"], "evaluate": ["--checkpoint", saved]}
    assert str(empty) in fails(capsys, command, empty, *options.get(command, []))
    assert list(empty.iterdir()) == [] and not (tmp_path / "new.safetensors").exists()


@pytest.mark.parametrize("command", ["evaluate", "segment"])
def test_a_checkpoint_that_is_not_there_is_named(command, tmp_path, capsys):
    options = ["--checkpoint", tmp_path / "gone.safetensors"]
    options += ["--out", tmp_path / "mask.nii.gz"] if command == "segment" else ["--json"]
    assert "gone.safetensors" in fails(capsys, command, tmp_path, *options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["text", "cut"])
def test_a_checkpoint_that_is_none_is_named(damage, tmp_path, capsys, saved):
    saved.write_bytes(b"no weights here" if damage == "text" else saved.read_bytes()[:-100])
    out = tmp_path / "mask.nii.gz"
    assert saved.name in fails(capsys, "segment", tmp_path, "--checkpoint", saved, "--out", out)
    assert not out.exists()


@pytest.mark.parametrize("name", ["notes", "gone"])
def test_a_series_that_is_none_is_named(name, tmp_path, capsys, saved):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "1-001.dcm").write_text("not DICOM")
    out = tmp_path / "mask.nii.gz"
    assert name in fails(capsys, "segment", tmp_path / name, "--checkpoint", saved, "--out", out)
    assert not out.exists()


@pytest.mark.parametrize("name", ["mask.nii.gz", "mask.dcm", "mask.png"])
def test_a_file_that_is_there_stays(name, tmp_path, capsys, saved):
    out = tmp_path / name
    out.write_text("precious")
    assert name in fails(capsys, "segment", tmp_path, "--checkpoint", saved, "--out", out)
    assert out.read_text() == "precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, saved.name])


def test_check_writes_a_table_and_a_sheet_and_names_what_is_odd(tmp_path, capsys):
    make_patients(tmp_path / "cohort", [1, 2])
    next((tmp_path / "cohort" / "PANCREAS_0002").rglob("1-005.dcm")).unlink()
    assert cli.main(["check", str(tmp_path / "cohort"), "--out", str(tmp_path / "out"), "--workers", "1"]) == 0
    said = capsys.readouterr().out
    assert "2 of 2 to look at" in said and "PANCREAS_0002: cannot be read: 1-0" in said and "missing slice" in said
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["check.csv", "check.png"]


def test_prepare_takes_single_patients_and_a_word_on_their_labels(tmp_path, capsys):
    make_patients(tmp_path / "cohort", [1, 2])
    options = [str(tmp_path / "cohort"), "--cache", str(tmp_path / "cache"), "--workers", "1"]
    assert "no patient PANCREAS_0007 in it" in fails(capsys, "prepare", *options, "--patient", "PANCREAS_0007")
    assert cli.main(["prepare", *options, "--patient", "PANCREAS_0002", "--reorient", "header"]) == 0
    (made,) = (tmp_path / "cache").glob("*/*/meta.json")
    assert made.parent.name == "PANCREAS_0002" and json.loads(made.read_text())["placed"]["rule"] == "header"


def test_a_warning_is_one_line_and_no_error(tmp_path, capsys):
    make_patients(tmp_path / "cohort", [1])
    (tmp_path / "cohort" / "label0003.nii.gz").touch()
    assert cli.main(["check", str(tmp_path / "cohort"), "--workers", "1"]) == 0
    said = capsys.readouterr().err.splitlines()
    assert f"vaelib: warning: {tmp_path / 'cohort'}: left out labels without a scan: label0003.nii.gz" in said


def test_json_is_all_that_evaluate_prints(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("vaelib.cohort.cache_folder", lambda folder: tmp_path / "cache")
    weights = tmp_path / "weights.safetensors"
    make_patients(tmp_path / "cohort", range(1, 7))
    small = ["--level", "5", "--latent", "4", "--epochs", "1"]
    assert cli.main(["train", str(tmp_path / "cohort"), "--out", str(weights), *small]) == 0
    capfd.readouterr()
    assert cli.main(["evaluate", str(tmp_path / "cohort"), "--checkpoint", str(weights), "--json"]) == 0
    board = json.loads(capfd.readouterr().out)
    assert board["empty mask"] and all(isinstance(row, dict) for row in board.values())
