"""Command line: `vaelib phantom | download | labels | check | prepare | train | evaluate | folds | segment | card`.

And `vaelib explorer`, which writes a page to play with.

Options and help come from the signatures and docstrings below. Nothing heavy is imported until a command
runs, so that `vaelib --help` answers at once.
"""

from collections.abc import Sequence
from json import dumps
from pathlib import Path
from typing import Any

from cyclopts import App, Parameter

from vaelib import InputError, __version__
from vaelib.cohorts.layout import cache_folder, data_folder, find_cases, home, models_folder, warn_if_elsewhere
from vaelib.engine import options as opt
from vaelib.engine.console import run

app = App(
    name="vaelib",
    help="Segment the pancreas in CT from the latent of a variational autoencoder.\n\n"
    "Any command takes --report FILE: as JSON, what was asked and printed, how it ended, and how long it took.",
    version=__version__,
    default_parameter=Parameter(negative=""),  # a flag has no --no- twin
    suppress_keyboard_interrupt=False,  # `run` knows what to answer
)  # fmt: skip


@app.command(sort_key=1)
def phantom(
    folder: opt.Folder = None, *, patients: opt.Some = None, seed: opt.Seed = 2026,
    workers: opt.Workers = None, whole: bool = False,
) -> None:  # fmt: skip
    """Make the synthetic cohort: DICOM CT series with the pancreas as DICOM SEG.

    Patients already made are kept, so an interrupted run can be started again.

    Parameters
    ----------
    folder : Path, optional
        Where the patients go; by default data/synthetic, or data/synthetic_whole.
    patients : int, optional
        How many; by default 48, or 24 whole ones.
    seed : int
        The same seed gives the same bytes.
    workers : int, optional
        Processes over patients; by default one a core.
    whole : bool
        Make the second cohort, other patients, scanned as people are: from the base of the lungs to the pelvis.
    """
    from vaelib.phantom import make_cohort

    name, usual = ("synthetic_whole", 24) if whole else ("synthetic", 48)
    folder, patients = folder or home() / "data" / name, patients or usual
    made = make_cohort(folder, patients=patients, seed=seed, workers=workers, whole=whole)
    print(f"{made}: holds the synthetic cohort, patients 1 to {patients}")
    warn_if_elsewhere(made)


@app.command(sort_key=2)
def download(folder: opt.Folder = None, *, patients: str | None = None, dry_run: bool = False) -> None:
    """Fetch Pancreas-CT from the Imaging Data Commons: CT and masks, 10.2 GB, CC BY 3.0 and 4.0.

    What is there and whole is kept, so an interrupted download can be started again.

    Parameters
    ----------
    folder : Path, optional
        Where the patients go; by default data/pancreas_ct.
    patients : str, optional
        Some of them, by number, such as 1-4 or 1-4,7; by default all.
    dry_run : bool
        Say what would be fetched, and stop.
    """
    from vaelib.cohorts.download import download as fetch

    folder = folder or home() / "data" / "pancreas_ct"
    fetch(folder, patients, dry_run=dry_run)
    warn_if_elsewhere(folder)


@app.command(sort_key=2)
def labels(archive: Path, folder: Path | None = None) -> None:
    """Unpack TCIA's zip of labels beside the scans of Pancreas-CT.

    Each label goes to the scan of its number; the withdrawn ones, 25 and 70, are left out. Labels that are there
    already are never overwritten.

    Parameters
    ----------
    archive : Path
        The zip, as downloaded from TCIA: TCIA_pancreas_labels-02-05-2017.zip.
    folder : Path, optional
        The cohort, or the folder above the patients'; by default data/pancreas_ct.
    """
    from vaelib.cohorts.labels import unpack

    folder = folder or home() / "data" / "pancreas_ct"
    print(f"{len(unpack(archive, folder))} labels are in {folder}")


@app.command(sort_key=3)
def check(
    folder: Path | None = None, *, out: opt.Folder = None, segment: opt.Segment = "Pancreas",
    reorient: opt.Reorient = None, workers: opt.Workers = None,
) -> None:  # fmt: skip
    """Look a cohort over: one line a patient, what is odd about it, and one sheet of pictures.

    Headers that tell more of a patient than a research ID are named, by attribute and never by value, and so are
    overlays and what looks like writing in the pixels. Nothing is changed, and nothing leaves this machine.

    Parameters
    ----------
    folder : Path, optional
        The cohort; by default $VAELIB_DATA, or else data/synthetic.
    out : Path, optional
        A folder for check.csv and check.png; by default nothing is written.
    segment : str
        Which segments of a mask are the pancreas: a label, a number, or several, such as 1+2.
    reorient : str, optional
        What to believe where a label's header disagrees with its scan: header, axes, index, or flip-y and the like.
    workers : int, optional
        Processes over patients; by default one a core.
    """
    from vaelib.cohorts.survey import survey, table, write_csv

    rows = survey(find_cases(folder or data_folder()), segment=segment, reorient=reorient, workers=workers)
    print(table(rows))
    if out is not None:
        from vaelib.engine.files import write_file
        from vaelib.pictures import contact_sheet, png

        write_csv(rows, out / "check.csv")
        write_file(out / "check.png", png(contact_sheet(rows)))


@app.command(sort_key=4)
def prepare(
    folder: Path | None = None, *, cache: opt.Folder = None, patient: opt.Names = None,
    segment: opt.Segment = None, reorient: opt.Reorient = None, workers: opt.Workers = None,
) -> None:  # fmt: skip
    """Downscale every scan and mask of a cohort into the on-disk cache.

    Parameters
    ----------
    folder : Path, optional
        The cohort; by default $VAELIB_DATA, or else data/synthetic.
    cache : Path, optional
        Where the levels go; by default the cohort's own folder for them.
    patient : list of str, optional
        These patients alone.
    segment : str, optional
        Which segments of a mask are the pancreas: a label, a number, or several, such as 1+2; by default Pancreas.
    reorient : str, optional
        What to believe where a label's header disagrees with its scan: header, axes, index, or flip-y and the like.
        Both are remembered for each patient that they were said of.
    workers : int, optional
        Processes over patients; by default one a core.
    """
    from vaelib.engine.shards import prepare as write_levels

    folder = folder or data_folder()
    cases = find_cases(folder)
    if unknown := {*(patient or ())} - {case.patient for case in cases}:
        raise InputError(f"{folder}: no patient {', '.join(sorted(unknown))} in it; name them as their folders are")
    cases = [case for case in cases if not patient or case.patient in patient]
    shards = write_levels(cases, cache or cache_folder(folder), segment=segment, reorient=reorient, workers=workers)
    print(f"{shards}: holds all levels of {len(cases)} patients of {folder}")


@app.command(sort_key=5)
def train(
    folder: Path | None = None, *, out: Path | None = None, level: opt.Level = 6, latent: opt.OfModel = None,
    beta: opt.Price = None, epochs: opt.Count = 25, batch_size: opt.OfModel = None, lr: opt.Rate = opt.LR,
    precision: opt.Precision = "32-true", seed: opt.Seed = 0, fold: opt.Fold = None, model: opt.Model = "vector",
    resume: bool = False, overwrite: bool = False,
) -> None:  # fmt: skip
    """Train the VAE and its mask decoder on the cohort's training patients.

    For masks, `--model spatial` is the better choice, and takes several times as long. `--model two-stage` is the best:
    it finds the organ in the whole scan and outlines it at full size, and takes some hours on two cores.

    On several GPUs, or nodes: torchrun --nproc-per-node 8 -m vaelib train --batch-size 512.

    Parameters
    ----------
    folder : Path, optional
        The cohort; by default $VAELIB_DATA, or else data/synthetic.
    out : Path, optional
        The checkpoint to write; by default trained.safetensors among the cohort's models, in data/models.
    level : int
        Slices are 2^level pixels a side. Two stages have grids of their own, in mm.
    latent : int, optional
        Numbers in the latent of a slice, by default 64; of the other models at each of its places, by default 8.
    beta : float, optional
        Weight of the KL term, by default 0.01, and 0.001 of the other models. At twice the side four times as much
        weighs the same.
    epochs : int
        Passes over the training slices.
    batch_size : int, optional
        Slices a step, in all processes together; by default 64, and 16 of two stages.
    lr : float
        Peak learning rate of Adam.
    precision : str
        As Lightning Fabric names it: 32-true, or bf16-mixed or 16-mixed for mixed precision on a GPU.
    seed : int
        The same seed on the same machine gives the same weights.
    fold : int, optional
        Leave out this fold of the cross-validation, 0 to 3, in place of the usual test patients.
    model : str
        vector, the VAE of the lessons; spatial, a residual one with a latent for every 4 x 4 pixels, whose mask
        decoder reads the slices below and above too; or two-stage, two of these: a coarse one on the whole scan, and
        a fine one on the window around what that finds.
    resume : bool
        Go on from where an interrupted run stopped.
    overwrite : bool
        Replace the checkpoint where other settings or data made it.
    """
    from vaelib import recipes

    out = _checkpoint(out, folder)
    how: dict[str, Any] = opt.usual(model, latent=latent, beta=beta, batch_size=batch_size)
    how |= dict(lr=lr, precision=precision, seed=seed, fold=fold, level=level, epochs=epochs, model=model)
    made = recipes.train(folder, out=out, resume=resume, overwrite=overwrite, **how)
    if made:  # else another process has the word
        cuts = ", ".join(f"{value:.2f} at {side}" for side, value in made["thresholds"].items())
        print(f"{out}: trained on {len(made['patients']['train'])} patients; best thresholds on validation {cuts}")


@app.command(sort_key=6)
def evaluate(
    folder: Path | None = None, *, checkpoint: Path | None = None, out: opt.Folder = None, json: bool = False
) -> None:
    """Score a checkpoint on the held-out patients: 3D Dice, IoU and HD95, beside the baselines.

    Parameters
    ----------
    folder : Path, optional
        The cohort; by default $VAELIB_DATA, or else data/synthetic.
    checkpoint : Path, optional
        The weights to score; by default what `vaelib train` has made of this cohort.
    out : Path, optional
        A folder for scores.csv, scoreboard.json and worst.png, the worst cases drawn; by default nothing is written.
    json : bool
        Print the scoreboard as JSON, and nothing else, on standard output.
    """
    from vaelib import recipes
    from vaelib.engine.boards import board_table

    board = recipes.evaluate(folder, checkpoint=_checkpoint(checkpoint, folder), out=out)
    print(dumps(board, indent=1) if json else board_table(board))


@app.command(sort_key=7)
def folds(
    folder: Path | None = None, *, out: opt.Folder = None, only: opt.Fold = None, level: opt.Level = 6,
    latent: opt.OfModel = None, beta: opt.Price = None, epochs: opt.Count = 25, batch_size: opt.OfModel = None,
    lr: opt.Rate = opt.LR, precision: opt.Precision = "32-true", seed: opt.Seed = 0, model: opt.Model = "vector",
) -> None:  # fmt: skip
    """Cross-validate: train and score four folds, so that every patient is tested once, and report.

    Folds that are finished are kept, and an interrupted one is resumed.

    Parameters
    ----------
    folder : Path, optional
        The cohort; by default $VAELIB_DATA, or else data/synthetic.
    out : Path, optional
        Folder of checkpoints, scores, pictures of the worst cases, scores.csv and report.json; by default folds/ beside
        the cohort's other models.
    only : int, optional
        Run this fold alone, 0 to 3: with several GPUs, one fold on each.
    level : int
        Slices are 2^level pixels a side.
    latent : int, optional
        Numbers in the latent, as in `vaelib train`.
    beta : float, optional
        Weight of the KL term, as in `vaelib train`.
    epochs : int
        Passes over the training slices.
    batch_size : int, optional
        Slices a step, as in `vaelib train`.
    lr : float
        Peak learning rate of Adam.
    precision : str
        As Lightning Fabric names it: 32-true, or bf16-mixed or 16-mixed for mixed precision on a GPU.
    seed : int
        The same seed on the same machine gives the same weights.
    model : str
        vector, spatial or two-stage, as in `vaelib train`.
    """
    from vaelib.recipes import cross_validate, fold_table

    out = out or models_folder(folder) / "folds"
    more = opt.usual(model, latent=latent, beta=beta, batch_size=batch_size)
    how: dict[str, Any] = dict(level=level, latent=more.pop("latent"), beta=more.pop("beta"), epochs=epochs, seed=seed)
    more |= dict(lr=lr, precision=precision, model=model)
    usual = dict(lr=opt.LR, batch_size=opt.BATCH, precision="32-true", model="vector")
    how |= {name: more[name] for name in more if more[name] != usual[name]}  # folds from before this choice are kept
    board = cross_validate(folder, out=out, only=only, **how)
    print(f"{out}: other folds are still to run" if board is None else fold_table(board))


@app.command(sort_key=8)
def segment(
    series: list[Path], *, out: Path, checkpoint: Path | None = None, threshold: opt.Threshold = None,
    overwrite: bool = False,
) -> None:  # fmt: skip
    """Put a predicted pancreas mask on the grid of any CT scan, or of several.

    Parameters
    ----------
    series : list of Path
        Folders with the DICOM files of one CT series each, or NIfTI files in HU.
    out : Path
        The mask to write: .nii.gz or .nii for NIfTI, .dcm for DICOM SEG. Of several scans, a folder for theirs, NIfTI.
    checkpoint : Path, optional
        The weights to use; by default what `vaelib train` has made of the cohort in $VAELIB_DATA, or else of
        data/synthetic.
    threshold : float, optional
        A pixel is pancreas from this probability on; by default what was best on validation patients.
    overwrite : bool
        Replace the mask where there is one.
    """
    from vaelib import recipes
    from vaelib.cohorts.layout import masks_of

    for scan, target in masks_of(series, out, overwrite).items():
        recipes.segment(scan, out=target, checkpoint=_checkpoint(checkpoint), threshold=threshold, overwrite=overwrite)


@app.command(sort_key=9)
def card(checkpoint: Path | None = None, *, scores: Path | None = None, out: Path | None = None) -> None:
    """Write a model card from what a checkpoint says: data, recipe, scores with intervals, limits, use.

    What the checkpoint does not know is said to be unknown. Read the card before you hand it on.

    Parameters
    ----------
    checkpoint : Path, optional
        The weights; by default what `vaelib train` has made of the cohort in $VAELIB_DATA, or else of data/synthetic.
    scores : Path, optional
        The scoreboard.json that `vaelib evaluate --out` has written of it; by default the one beside it, if any.
    out : Path, optional
        The Markdown file to write, such as card.md; one that is there stays. By default the card is printed.
    """
    from vaelib.engine.cards import leave

    leave(_checkpoint(checkpoint), scores, out)


@app.command(sort_key=10)
def explorer(out: Path, folder: Path | None = None, *, checkpoint: Path | None = None, overwrite: bool = False) -> None:
    """Write the latent space of a checkpoint as one page with sliders, which opens by a double click.

    The page needs no Python, no server and no network. It holds the networks, and of the cohort what the map shows.

    Parameters
    ----------
    out : Path
        The page to write, such as explorer.html, or a folder, which gets it as index.html.
    folder : Path, optional
        The cohort; by default $VAELIB_DATA, or else data/synthetic.
    checkpoint : Path, optional
        The weights to show; by default what `vaelib train` has made of this cohort.
    overwrite : bool
        Replace the page where there is one.
    """
    from vaelib.pictures.explorer import explore

    page = explore(folder, out, _checkpoint(checkpoint, folder), overwrite=overwrite)
    print(f"{page}: {page.stat().st_size / 1e6:.1f} MB; open it in a browser")


def _checkpoint(given: Path | None, folder: Path | None = None) -> Path:
    """Take the checkpoint that is given, or else the one among the cohort's models that `vaelib train` writes."""
    return given or models_folder(folder) / "trained.safetensors"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status; see `vaelib.engine.console.run`."""
    return run(app, argv)
