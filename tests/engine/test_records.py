"""What is left to read of a run: a table and a curve while it trains, and the report of a command."""

import csv
import json
import os

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from vaelib import cli
from vaelib.engine import records
from vaelib.training import fit


def line(model, batch, progress):
    return {"total": (model(batch[0]) - batch[1]).square().mean(), "other": torch.tensor(2.0)}


def test_a_training_leaves_a_table_and_a_curve_beside_its_state_while_it_runs(tmp_path, monkeypatch):
    state, seen = tmp_path / "m.vae.0123456789ab.state", []
    real = records.leave

    def leave(path, history, **more):
        real(path, history, **more)
        seen.append(len((tmp_path / "m.vae.csv").read_text().splitlines()))

    monkeypatch.setattr("vaelib.engine.run.leave", leave)
    x = torch.rand(20, 1)
    history = fit(nn.Linear(1, 1), line, [x, 2 * x], val=[x, 2 * x], epochs=3, state=state)
    assert seen == [2, 3, 4, 4]  # after each epoch, a line more; and at the end, for the curve
    rows = list(csv.DictReader((tmp_path / "m.vae.csv").open()))
    assert [float(row["val/total"]) for row in rows] == pytest.approx([row["val/total"] for row in history])
    assert rows[0].keys() == history[0].keys() and Image.open(tmp_path / "m.vae.png").size[0] > 100


def test_a_curve_is_not_drawn_at_every_epoch(tmp_path):
    history = [{"epoch": k, "train/total": 1 / (k + 1)} for k in range(3)]
    records.leave(tmp_path / "m.vae.0.state", history[:1])
    assert not (tmp_path / "m.vae.png").exists()  # one point is no curve
    records.leave(tmp_path / "m.vae.0.state", history)
    was = (tmp_path / "m.vae.png").stat().st_mtime_ns
    records.leave(tmp_path / "m.vae.0.state", history)
    assert (tmp_path / "m.vae.png").stat().st_mtime_ns == was
    records.leave(tmp_path / "m.vae.0.state", history, last=True)
    assert (tmp_path / "m.vae.png").stat().st_mtime_ns > was
    os.utime(tmp_path / "m.vae.png", (1, 1))
    records.leave(tmp_path / "m.vae.0.state", history)
    assert (tmp_path / "m.vae.png").stat().st_mtime_ns > 10**12


def test_a_run_that_keeps_no_state_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit(nn.Linear(1, 1), line, [torch.rand(4, 1), torch.rand(4, 1)], epochs=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [("--report", "{}"), ("--report={}",)])
def test_a_report_tells_what_was_asked_how_it_ended_and_what_was_said(tmp_path, capsys, words, series):
    path = tmp_path / "run.json"
    words = [word.format(path) for word in words]
    assert cli.main(["check", str(tmp_path / "none"), *words]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    told = json.loads(path.read_text())
    assert told["status"] == 2 and "no such folder" in told["error"] and told["printed"] == []
    assert told["command"] == ["vaelib", "check", str(tmp_path / "none")] and "torch" in told["versions"]


def test_a_report_holds_warnings_and_what_was_printed(tmp_path, capsys, monkeypatch):
    import warnings

    from vaelib import recipes

    def segment(*_, **__):
        warnings.warn("odd", stacklevel=2)
        print("3 ml")

    monkeypatch.setattr(recipes, "segment", segment)
    path = tmp_path / "run.json"
    status = cli.main(["segment", str(tmp_path), "--out", str(tmp_path / "m.nii.gz"), "--report", str(path)])
    told = json.loads(path.read_text())
    said = capsys.readouterr()
    assert status == 0 == told["status"] and said.out == "3 ml\n" and "odd" in said.err
    assert told["printed"] == ["3 ml"] and told["warnings"] == ["odd"] and told["error"] is None


@pytest.mark.parametrize("words", [["--report"], ["--report", "--overwrite"], ["--report=", "x"]])
def test_a_report_without_a_file_is_refused_before_anything_is_done(words, capsys):
    assert cli.main(["phantom", *words]) == 2
    assert "--report: name the file" in capsys.readouterr().err


def test_a_report_in_the_place_of_a_folder_is_refused(tmp_path, capsys):
    assert cli.main(["check", "--report", str(tmp_path)]) == 2
    assert f"{tmp_path}: is a folder" in capsys.readouterr().err


def test_numbers_of_numpy_are_written_too(tmp_path):
    records.leave(tmp_path / "a.b.c.state", [{"epoch": np.int64(0), "train/total": np.float32(0.5)}])
    assert (tmp_path / "a.b.csv").read_text() == "epoch,train/total\n0,0.5\n"
