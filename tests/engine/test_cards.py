"""A model card says what its checkpoint knows, and of the rest that it is not known; an evaluation leaves its files."""

import json
import re
import shutil
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
from small import make_patients

from vaelib import InputError, cli, recipes
from vaelib.cohort import open_cohort
from vaelib.engine import cards
from vaelib.engine.checkpoints import load, save
from vaelib.vae import VAE, MaskDecoder


@pytest.fixture(scope="module")
def top(tmp_path_factory):
    """A cohort called synthetic, a model of it, and what its evaluation left."""
    top = tmp_path_factory.mktemp("top")
    make_patients(top / "cohort", range(1, 8))
    (top / "cohort" / "SYNTHETIC.md").write_text("# Synthetic patients\n\nMade by a test: seed 7.\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VAELIB_HOME", str(top))
        for name in ("copies", "mask_epochs"):
            patch.setitem(recipes.RECIPE, name, 1)
        recipes.train(top / "cohort", out=top / "m.safetensors", level=5, latent=4, epochs=2, seed=3)
        patch.chdir(top)
        assert cli.main(["evaluate", "cohort", "--checkpoint", "m.safetensors", "--out", "scores"]) == 0
    return top


@pytest.fixture
def here(top, monkeypatch):
    monkeypatch.setenv("VAELIB_HOME", str(top))
    return top


def numbers(text):
    return {name: float(value) for name, value in re.findall(r"\| ([^|]+ \| \d+) \| ([\d.]+)", text)}


def test_an_evaluation_leaves_a_table_a_scoreboard_and_the_worst_cases(here):
    out = here / "scores"
    assert sorted(path.name for path in out.iterdir()) == ["scoreboard.json", "scores.csv", "worst.png"]
    said, table = json.loads((out / "scoreboard.json").read_text()), pd.read_csv(out / "scores.csv")
    patients = open_cohort(here / "cohort").parts["test"]
    assert [*table] == ["method", "side", "patient", "dice", "iou", "hd95"] and said["patients"] == patients
    assert len(table) == len(said["methods"]) * 2 * len(patients)
    for (method, side), rows in table.groupby(["method", "side"]):
        scores = said["methods"][method][str(side)]
        assert [*rows.patient] == patients and [*rows.dice] == scores["dice"]["values"]
        assert [*rows.hd95] == [np.inf if mm is None else mm for mm in scores["hd95"]["values"]]
    assert (out / "worst.png").read_bytes().startswith(b"\x89PNG")


def test_the_worst_cases_are_drawn_worst_first_at_their_own_shape(here, monkeypatch):
    from vaelib import pictures

    drawn, real = [], pictures.gallery
    monkeypatch.setattr(pictures, "gallery", lambda *layers: drawn.append(layers) or real(*layers), raising=False)
    board = recipes.evaluate(here / "cohort", checkpoint=here / "m.safetensors", out=here / "again")
    images, truths, found, titles, spacings = drawn[0]
    dice = board[recipes.DETACHED]["512"]["dice"]["values"]
    patients = open_cohort(here / "cohort").parts["test"]
    order = np.argsort(dice, kind="stable")
    assert [title.split("\n")[0] for title in titles] == [patients[at] for at in order]
    assert [float(re.search(r"Dice (\S+),", title)[1]) for title in titles] == pytest.approx(
        [round(dice[at], 2) for at in order]
    )
    assert all(a.shape == (512, 512) for layer in (images, truths, found) for a in layer)
    assert all(truth.any() or mask.any() for truth, mask in zip(truths, found, strict=True))
    flat = [(2.5, 0.8, 0.8), (2.5, 0.8, 0.5)][: len(images)]
    aspects = [ax.get_aspect() for ax in real(*(layer[:2] for layer in drawn[0][:4]), flat).axes]
    assert aspects == pytest.approx([1, 1.6]) and len(spacings) == len(images) == 2
    shutil.rmtree(here / "again")


def test_a_file_in_the_place_of_the_folder_is_refused_before_anything_is_computed(here, monkeypatch, capsys):
    monkeypatch.setattr(recipes, "usable", lambda *_: pytest.fail("too late"))
    out = here / "cohort" / "SYNTHETIC.md"
    with pytest.raises(InputError, match="out="):
        recipes.evaluate(here / "cohort", checkpoint=here / "m.safetensors", out=out)
    assert cli.main(["evaluate", str(here / "cohort"), "--out", str(out)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_card_says_data_recipe_scores_limits_and_use(here, capsys):
    words = ["card", str(here / "m.safetensors"), "--scores", str(here / "scores" / "scoreboard.json")]
    assert cli.main([*words, "--out", str(here / "card.md")]) == 0
    text = (here / "card.md").read_text()
    networks, meta = load(here / "m.safetensors")
    assert meta["cohort"] | {"note": ""} == {"cohort": "cohort", "organ": "Pancreas", "kind": "synthetic", "note": ""}
    assert "**Synthetic patients**" in text and "> Made by a test: seed 7." in text
    people = {part: len(names) for part, names in meta["patients"].items()}
    assert f"{people['train']} learned from, {people['val']} chose the thresholds, {people['test']} held out" in text
    for line in ("model: vector", "slices: 32 x 32 pixels", "window: HU -160 to 240", "beta: 0.01", "seed: 3",
                 "epochs of the VAE: 2", "batch size: 64; learning rate: 0.002; precision: 32-true"):  # fmt: skip
        assert line in text
    assert f"{sum(p.numel() for p in networks['vae'].parameters()):,} parameters" in text
    assert all(f"{cut:.2f} at {side}" in text for side, cut in meta["thresholds"].items())
    assert "torch 2" in text and "Never for the care of a patient" in text
    board = json.loads((here / "scores" / "scoreboard.json").read_text())["methods"]
    means = {f"{name} | {side}": row[side]["dice"]["mean"] for name, row in board.items() for side in ("32", "512")}
    assert numbers(text) == pytest.approx(means, abs=6e-4)
    assert "vaelib segment SCAN --checkpoint m.safetensors" in text and str(here) not in text
    capsys.readouterr()
    assert cli.main([*words, "--out", str(here / "card.md")]) == 2  # somebody may have written into it
    assert "card.md: is there, and stays" in capsys.readouterr().err
    (here / "card.md").unlink()


def test_a_scoreboard_beside_is_taken_if_it_is_of_this_checkpoint(here, tmp_path):
    checkpoint = shutil.copy(here / "m.safetensors", tmp_path / "m.safetensors")
    assert "Not known here" in cards.card(checkpoint)
    shutil.copy(here / "scores" / "scoreboard.json", tmp_path)
    assert "VAE, detached decoder | 512" in cards.card(checkpoint)
    networks, meta = load(checkpoint)
    save(checkpoint, networks, **{name: value for name, value in meta.items() if name != "networks"} | {"seed": 4})
    assert "Not known here" in cards.card(checkpoint)  # these are another's scores
    with pytest.raises(InputError, match="scoreboard.json: is no scoreboard of .*m.safetensors"):
        cards.card(checkpoint, tmp_path / "scoreboard.json")


@pytest.mark.parametrize("text", [None, "", "[]", "{}", "{", "\x00"])
def test_a_scoreboard_that_is_none_is_named(here, tmp_path, text):
    path = tmp_path / "board.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match="board.json: is no scoreboard of"):
        cards.card(here / "m.safetensors", path)


@pytest.mark.parametrize("damage", ["gone", "text", "cut"])
def test_a_checkpoint_that_is_none_is_one_line_and_nothing_is_written(here, tmp_path, damage, capsys):
    path = tmp_path / "c.safetensors"
    if damage != "gone":
        path.write_bytes(b"no weights here" if damage == "text" else (here / "m.safetensors").read_bytes()[:-50])
    assert cli.main(["card", str(path), "--out", str(tmp_path / "card.md")]) == 2
    said = capsys.readouterr().err
    assert "c.safetensors: " in said and said.count("\n") == 1 and not (tmp_path / "card.md").exists()


def test_what_a_checkpoint_does_not_say_is_not_known(tmp_path):
    bare = save(tmp_path / "bare.safetensors", {"vae": VAE(32, channels=2, latent=4)})
    text = cards.card(bare)
    assert "Whether these are real patients or synthetic ones, the checkpoint does not say" in text
    assert "licence of the data is not known" in text and "holds no mask decoder" in text
    known = [line for line in text.split("## Recipe")[1].split("##")[0].splitlines() if line.startswith("- ")]
    assert sum("not known" not in line for line in known) == 2  # the networks and their side
    both = {"vae": VAE(32, channels=2, latent=4), "mask": MaskDecoder(32, channels=2, latent=4)}
    kept = save(tmp_path / "kept.safetensors", both, made_by={"recipe": {"epochs": 25}, "data": "0"})
    assert "epochs of the VAE: 25" in cards.card(kept) and "vaelib segment SCAN" in cards.card(kept)


@pytest.mark.parametrize(
    ("files", "layout", "kind", "said"),
    [
        ({"ATTRIBUTION.md": "# Pancreas-CT\n\nCC BY 3.0"}, "idc", "real", "CC BY 3.0"),
        ({"ATTRIBUTION.md": "# Another"}, "idc", "unknown", "# Another"),
        ({"dataset.json": json.dumps({"name": "P", "licence": "CC-BY-SA 4.0", "training": ["s"]})}, "pairs", "unknown",
         "name: P\n\nlicence: CC-BY-SA 4.0"),
        ({"dataset.json": "no JSON"}, "pairs", "unknown", ""),
        ({}, "tcia", "unknown", ""),
        ({"SYNTHETIC.md": "# Drawn"}, "synthetic", "synthetic", "# Drawn"),
    ],
)  # fmt: skip
def test_a_cohort_is_called_real_or_synthetic_only_where_that_is_known(
    here, tmp_path, monkeypatch, files, layout, kind, said
):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    lab, real = open_cohort(here / "cohort"), cards.meta_of
    lab.folder = tmp_path
    monkeypatch.setattr(cards, "meta_of", lambda *which: real(*which) | {"layout": layout})
    found = cards.cohort_of(lab)
    assert found["kind"] == kind and (said in found["note"] if said else not found["note"]) and "[" not in found["note"]


def test_two_stages_say_their_grids_in_mm(here, tmp_path):
    from vaelib import two_stage
    from vaelib.cohorts.windows import GRIDS

    networks, meta = load(here / "m.safetensors")
    pair = {name: deepcopy(networks["mask" if name.endswith("mask") else "vae"]) for name in two_stage.NETWORKS}
    said = {name: value for name, value in meta.items() if name != "networks"}
    said |= {"grids": GRIDS, "level": 9, "thresholds": {"512": 0.4}}
    text = cards.card(save(tmp_path / "two.safetensors", pair, **said))
    assert "coarse 5.0 x 6.0 x 6.0 mm, 64 pixels a side, fine 2.5 x 1.5 x 1.5 mm, 128 pixels a side" in text
    assert "0.40 at 512" in text and "vaelib segment SCAN" in text
