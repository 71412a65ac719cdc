"""Kind K: a value that a command cannot use is refused in one line before anything is read, made or changed."""

import random
from inspect import signature

import pytest
import torch
from drawn import drawn
from small import make_patients

from vaelib import InputError, cli, open_cohort, recipes
from vaelib.engine import options, parallel
from vaelib.engine.shards import prepare
from vaelib.engine.workers import map_in_processes
from vaelib.phantom import make_cohort
from vaelib.training import fit, mask_step

WHOLE = ["nan", "1.5", "many", "", "-1", "0", "-3", "1e30", "9" * 20, "0x10", "inf"]
REAL = ["nan", "inf", "-inf", "-1", "much", "", "1e300", "-0.001"]
OPTIONS = {  # by option, the commands that have it, values that none can use, and some of those that it takes
    "--threshold": (["segment"], [*REAL, "20", "1.001", "0"], [0.001, 0.5, 0.999, None]),
    "--fold": (["train"], [v for v in WHOLE if v != "0"] + ["4", "7"], [0, 3, None]),
    "--only": (["folds"], [v for v in WHOLE if v != "0"] + ["4", "7"], [0, 3, None]),
    "--latent": (["train", "folds"], [*WHOLE, "100000"], [1, 64, 1024]),
    "--epochs": (["train", "folds"], WHOLE, [1, 25, 1000]),
    "--batch-size": (["train"], WHOLE, [1, 64, 4096]),
    "--level": (["train", "folds"], [*WHOLE, "4", "10", "64"], [5, 6, 9]),
    "--beta": (["train", "folds"], REAL, [0.0, 0, 1e-6, 5, 100]),
    "--lr": (["train", "folds"], [*REAL, "0", "2"], [1e-5, 2e-3, 0.1]),
    "--precision": (["train"], ["fp16", "16", "bf16", "32", "64-true", "half", "float32"], ["32-true", "bf16-mixed"]),
    "--seed": (["phantom", "train", "folds"], [v for v in WHOLE if v != "0"], [0, 2026, 20261129191500 // 100]),
    "--patients": (["phantom"], WHOLE, [1, 48, 82]),
    "--workers": (["phantom", "check", "prepare"], WHOLE, [1, 2, None]),
    "--reorient": (["check", "prepare"], ["", "flip-", "flip-w", "x", "3"], ["index", "header", "flip-xz", None]),
}  # fmt: skip
INSTANCES = [
    *((f"{option} {value}", command, option, value) for option, command, value in [
        ("--threshold", "segment", "nan"), ("--threshold", "segment", "20"), ("--threshold", "segment", "-1"),
        ("--fold", "train", "-1"), ("--fold", "train", "4"), ("--latent", "train", "0"), ("--epochs", "train", "0"),
        ("--patients", "phantom", "0"), ("--workers", "check", "0"), ("--workers", "prepare", "-3"),
        ("--beta", "train", "nan"), ("--beta", "train", "-1"), ("--beta", "train", "inf"), ("--level", "train", "0"),
        ("--level", "folds", "10"), ("--precision", "train", "fp16"), ("--batch-size", "train", "-1"),
        ("--batch-size", "train", "0"), ("--seed", "train", "9" * 20), ("--seed", "phantom", "-1"),
        ("--only", "folds", "7"), ("--reorient", "check", "upside-down"), ("--reorient", "prepare", "flip-w"),
    ]),
]  # fmt: skip


def generate(r: random.Random):
    option = r.choice([*OPTIONS])
    commands, wrong, _ = OPTIONS[option]
    value = r.choice(wrong) if r.random() < 0.7 or option == "--precision" else str(-r.randint(1, 10**6))
    return f"{option} {value}", r.choice(commands), option, value


@drawn(INSTANCES, generate, seed=18)
def test_a_value_that_cannot_be_used_is_refused_before_anything_is_touched(case, tmp_path, monkeypatch, capsys):
    _, command, option, value = case
    monkeypatch.chdir(tmp_path)
    words = [command, "folder", f"{option}={value}"] + (["--out", "m.nii.gz"] if command == "segment" else [])
    assert cli.main(words) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and option.lstrip("-") in said.err
    assert "folder" not in said.err and "fault of vaelib" not in said.err and not [*tmp_path.iterdir()]


@pytest.mark.parametrize("option", OPTIONS)
def test_a_value_that_can_be_used_is_none_of_its_business(option):
    commands, _, right = OPTIONS[option]
    name = option.lstrip("-").replace("-", "_")
    for command in commands:
        kind = signature(getattr(cli, command)).parameters[name].annotation
        assert [options._fault(kind, value) for value in right] == [""] * len(right)


@pytest.mark.parametrize(("name", "value"), [
    ("epochs", 0), ("latent", 0), ("beta", float("nan")), ("level", 4), ("fold", 4), ("batch_size", 0),
    ("precision", "fp16"), ("seed", -1), ("epochs", 2.5), ("lr", 0.0),
])  # fmt: skip
def test_python_says_the_same(name, value, tmp_path):
    with pytest.raises(InputError, match=f"^{name}={value!r}: "):
        recipes.train(tmp_path / "nowhere", out=tmp_path / "m", **{name: value})
    assert not [*tmp_path.iterdir()]


def test_functions_that_stand_alone_ask_too(tmp_path):
    with pytest.raises(InputError, match="fold=-1: must be from 0 to 3"):
        open_cohort(tmp_path, fold=-1)
    with pytest.raises(InputError, match="threshold=nan: must be from 0.001 to 0.999"):
        recipes.segment(tmp_path, checkpoint=tmp_path, out=tmp_path / "m.nii", threshold=float("nan"))
    with pytest.raises(InputError, match="workers=0: must be from 1"):
        map_in_processes(abs, [1], workers=0)
    for name, value in {"epochs": 0, "batch_size": -1, "precision": "fp16", "seed": 10**19, "lr": 0.0}.items():
        with pytest.raises(InputError, match=f"{name}="):
            fit(torch.nn.Linear(1, 1), mask_step, [torch.zeros(2, 1)], **{name: value})


SHELLS = [
    ({"RANK": "1", "WORLD_SIZE": "2"}, True),
    ({"RANK": "0", "WORLD_SIZE": "2"}, True),
    ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}, True),
    ({"RANK": "x", "WORLD_SIZE": "2"}, True),
    ({"RANK": "3", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none"}, True),
    ({"RANK": "-1", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none"}, True),
    ({"RANK": "one", "WORLD_SIZE": "two", "TORCHELASTIC_RUN_ID": "none"}, True),
    ({"RANK": "0", "WORLD_SIZE": "0", "TORCHELASTIC_RUN_ID": "none"}, True),
    ({"SLURM_PROCID": "x", "SLURM_STEP_NUM_TASKS": "2"}, True),
    ({"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "2"}, True),
    ({"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, True),
    ({"RANK": "1"}, False), ({"RANK": "x"}, False), ({"WORLD_SIZE": "2"}, False),
    ({"RANK": "", "WORLD_SIZE": ""}, False),
    ({"RANK": "0", "WORLD_SIZE": "1"}, False), ({"SLURM_PROCID": "0"}, False),
]  # fmt: skip


@pytest.mark.parametrize(("left", "refused"), SHELLS)
def test_what_a_launcher_left_in_the_shell_is_found_out(left, refused, tmp_path, monkeypatch, capsys):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RUN_ID", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    if not refused:
        assert parallel.world() == (0, 1)
        return
    assert cli.main(["train", "folder"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and next(iter(left)) in said and not [*tmp_path.iterdir()]


@pytest.mark.parametrize("left", [{"RANK": "1", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none"},
                                  {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2",
                                   "SLURM_STEP_TASKS_PER_NODE": "2"}])  # fmt: skip
def test_torchrun_and_srun_are_believed(left, monkeypatch):
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    assert parallel.world() == (1, 2)


def test_a_rank_alone_leaves_one_process_that_writes_its_checkpoint(tmp_path, monkeypatch):
    make_patients(tmp_path / "cohort", range(1, 4))
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr("vaelib.cohort.cache_folder", lambda folder: tmp_path / "cache")
    how = ["--level", "5", "--epochs", "1", "--latent", "2"]
    assert cli.main(["train", str(tmp_path / "cohort"), "--out", str(tmp_path / "m.safetensors"), *how]) == 0
    assert (tmp_path / "m.safetensors").exists()


TO_A_FOLDER = ["check cohort --out", "prepare cohort --cache", "folds cohort --out", "phantom", "download"]


@pytest.mark.parametrize("words", [*map(str.split, TO_A_FOLDER)])
def test_a_file_where_a_folder_is_meant_is_refused_before_the_work(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("precious")
    assert cli.main([*words, "taken"]) == 2
    said = capsys.readouterr().err
    assert "taken" in said and said.count("\n") == 1 and "cohort: " not in said
    assert (tmp_path / "taken").read_text() == "precious" and len([*tmp_path.iterdir()]) == 1


@pytest.mark.parametrize("options", [
    {"low": 240, "high": -160}, {"low": float("nan")}, {"high": float("inf")}, {"low": 240}, {"levels": [11]},
    {"levels": []}, {"levels": [-1]}, {"reorient": "lps"}, {"reorient": "flip-xx"}, {"segment": "+"}, {"segment": ""},
], ids=str)  # fmt: skip
def test_a_window_levels_and_labels_that_cannot_be_are_refused_before_reading(options, tmp_path):
    with pytest.raises(InputError) as error:
        prepare([], tmp_path / "cache", **options)
    assert str(next(iter(options.values()))) in str(error.value) and not [*tmp_path.iterdir()]


@pytest.mark.parametrize("options", [{"patients": 0}, {"patients": -1}, {"patients": 2.5}, {"seed": -1}, {"size": 0}],
                         ids=str)  # fmt: skip
def test_no_cohort_is_made_of_nobody(options, tmp_path):
    with pytest.raises(InputError):
        make_cohort(tmp_path / "cohort", **options)
    assert not [*tmp_path.iterdir()]
