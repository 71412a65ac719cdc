"""Moving slices and changing their grey values at random: what a network should not mind."""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vaelib.engine import checkpoints, finite, memory, parallel
from vaelib.engine.errors import InputError
from vaelib.engine.workers import progress_bar as progress_bar
from vaelib.losses import beta_at, mask_loss, vae_loss


def augment(x: Tensor, mask: Tensor | None = None, *, shift=0.08, scale=0.12, degrees=8.0, generator=None):
    """Move, scale and turn each image at random, as if the patient lay differently in the scanner.

    No flips: the liver is on the right. Labels are not needed, so the VAE may use it too.

    Parameters
    ----------
    x, mask : Tensor, (N, C, H, W)
        Images in [0, 1], and masks to move along with them; all channels of an image move as one.
    shift, scale : float
        Largest shift as a share of the image, and largest relative change of size.
    degrees : float
        Largest rotation.

    Returns
    -------
    Tensor, or a pair of them where `mask` is given
    """
    n = len(x)
    draw = (torch.rand(n, 4, generator=generator) * 2 - 1).to(x.device)
    angle, zoom = draw[:, 0] * math.radians(degrees), 1 + draw[:, 1] * scale
    theta = torch.zeros(n, 2, 3, device=x.device)
    theta[:, 0, 0] = theta[:, 1, 1] = angle.cos() * zoom
    theta[:, 0, 1], theta[:, 1, 0] = -angle.sin() * zoom, angle.sin() * zoom
    theta[:, :, 2] = draw[:, 2:] * 2 * shift
    both = x if mask is None else torch.cat([x, mask], 1)
    moved = F.grid_sample(both, F.affine_grid(theta, list(both.shape), False), align_corners=False)
    return (moved,) if mask is None else (moved[:, : x.shape[1]], moved[:, x.shape[1] :])


def jitter(x: Tensor) -> Tensor:
    """Change the grey values of each image at random, as if another scanner, or another dose, had made it.

    Contrast (0.7 to 1.2 times), brightness (0.1 up or down), a blur over 3 x 3 pixels mixed in, and noise (a standard
    deviation of up to 0.06). What lies below the window, air, stays black. It needs no labels, as `augment`.

    Parameters
    ----------
    x : Tensor, (N, C, H, W)
        In [0, 1]; all channels of an image are changed alike.
    """
    draw = torch.rand(4, len(x), 1, 1, 1, device=x.device)
    y = x + draw[0] * (F.avg_pool2d(x, 3, 1, 1, count_include_pad=False) - x)
    y = 0.5 + (y - 0.5) * (0.7 + 0.5 * draw[1]) + 0.2 * (draw[2] - 0.5)
    y = y + 0.06 * draw[3] * torch.randn_like(x)
    return (y * (x > 0)).clamp(0, 1)


AT_ONCE = 128  # images that a CPU takes at once: more are no faster, and take memory
Step = Callable[[nn.Module, Sequence[Tensor], float], dict]


def vae_step(beta: float, warmup: float = 0.2) -> Step:
    """The step of a `VAE` on batches ``(x,)``: reconstruction, KL and their weighted sum.

    On batches ``(seen, x)`` it reads one and reconstructs the other (a denoising VAE, Im et al. 2017,
    arXiv:1511.06406).
    """

    def step(model, batch, progress):
        return vae_loss(model(batch[0]), batch[-1], beta_at(progress, beta, warmup))._asdict()

    return step


def mask_step(model, batch, progress) -> dict:
    """The step of a mask decoder on batches ``(z, mask)``, or of `Supervised` on ``(x, mask)``."""
    return {"total": mask_loss(model(batch[0]), batch[1])}


def learning_rate(progress: float, peak: float, warmup: float = 0.05) -> float:
    """Linear rise over the first `warmup` of training, then half a cosine to zero."""
    if progress < warmup:
        return peak * (progress + 1e-3) / (warmup + 1e-3)
    return peak * 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def fit(
    model: nn.Module,
    step: Step,
    data: Sequence[Tensor],
    *,
    val: Sequence[Tensor] | None = None,
    epochs: int = 30,
    batch_size: int = 64,
    lr: float = 2e-3,
    augmentation: Callable | None = None,
    patience: int | None = None,
    seed: int = 0,
    state: str | Path | None = None,
    accelerator: str = "auto",
    precision: str = "32-true",
    compiled: bool = False,
    at_once: int | None = None,
    label: str = "training",
) -> list[dict]:
    """Train `model` in place, and return its history: one dict an epoch.

    Started by `torchrun` or `srun`, each process takes its share of every batch and the gradients are averaged: the
    result is that of one process with the same `batch_size`, but for what is drawn at random, which each draws itself.

    Parameters
    ----------
    model : nn.Module
    step : callable
        ``step(model, batch, progress)`` returns named scalars, each a mean over the images of the batch; the one named
        ``total`` is minimized.
    data, val : sequence of Tensor or Rows
        Of equal length; a batch takes the same rows of each, which `Rows` read from disk as they are asked for.
    epochs, batch_size, lr
        Length of training, images a step (in all processes together), and peak learning rate of Adam.
    augmentation : callable, optional
        Applied to each training batch, as `augment` is.
    patience : int, optional
        Stop after so many epochs without a better ``val/total``, and go back to the best weights.
    seed : int
        Each epoch draws from (seed, epoch) alone, so a resumed run repeats an undisturbed one bit for bit.
    state : path, optional
        Where to keep the state after each epoch, in sight of all processes. If it exists, training resumes from it.
    accelerator, precision : str
        As Lightning Fabric names them: "auto", "cpu", "cuda", "mps"; "32-true", "bf16-mixed", "16-mixed".
    compiled : bool
        Try `torch.compile`; where it fails, the model runs as it is.
    at_once : int, optional
        Images that are gone through at once; the gradients of a larger batch are added up over its parts. By default
        128 on a CPU, and all of them on a GPU.

    Raises
    ------
    InputError
        If `state` belongs to a run with other settings, or a step runs out of memory: it says what would fit.
    NotFinite
        At NaN or Inf in a batch, its loss or its gradients, or in validation. The model keeps the weights that it had
        before the batch, and `state` the last epoch in which all was finite.
    """
    fabric = parallel.fabric(accelerator, precision)
    settings = dict(epochs=epochs, batch_size=batch_size, lr=lr, seed=seed, n=len(data[0]), patience=patience)
    settings |= {} if precision == "32-true" else {"precision": precision}
    if any(p.ndim == 4 for p in model.parameters()):
        # the same numbers in an order that CPUs go through up to 1.4 times faster
        model.to(memory_format=torch.channels_last)
    bare, optimizer = model, torch.optim.Adam(model.parameters(), lr=lr)
    model, optimizer = fabric.setup(torch.compile(model) if compiled else model, optimizer)
    scaler = getattr(fabric.strategy.precision, "scaler", None)  # of 16-mixed, and of all runs in this process
    scaled = scaler and scaler.state_dict()
    history, best = _resume(state, settings, bare, optimizer, scaler)
    at_once = at_once or (AT_ONCE if fabric.device.type == "cpu" else batch_size)
    data = _at_hand(data, fabric.device)

    bar = progress_bar(total=epochs, initial=len(history), desc=label, unit="epoch")
    with bar, _falling_back(compiled), ExitStack() as after:
        if scaler:
            after.callback(scaler.load_state_dict, scaled)  # the next run begins as this one did
        for epoch in range(len(history), epochs):
            if patience and history and len(history) - 1 - best["epoch"] >= patience:
                break
            order, seen = parallel.shuffled(len(data[0]), seed, epoch), []
            plan = [parallel.parts(rows, at_once) for rows in order.split(batch_size)]
            batches = _read_ahead(fabric, data, [rows for parts in plan for rows, _ in parts])
            model.train()
            for i, parts in enumerate(plan):
                progress = (epoch + i / len(plan)) / epochs
                optimizer.param_groups[0]["lr"] = learning_rate(progress, lr)
                doubts = []
                for k, (rows, weight) in enumerate(parts):
                    raw = batch = next(batches)
                    if augmentation is not None:
                        batch = augmentation(*batch)
                    with (
                        memory.explain_out_of_memory(bare, step, batch, label),
                        _averaged(fabric, model, k == len(parts) - 1),
                    ):
                        found = step(model, batch, progress)
                        doubts.append(finite.nan_flag(found["total"], raw))
                        fabric.backward(found["total"] * weight)
                    found = {name: torch.as_tensor(value).detach() for name, value in found.items()}
                    seen.append((len(rows) if weight else 0, found))
                if wrong := finite.wrong(fabric, bare, doubts):
                    losses, rows = [found for _, found in seen[-len(parts) :]], torch.cat([rows for rows, _ in parts])
                    what = finite.where(data, rows, losses, bare if wrong == "gradient" else None)
                    optimizer.zero_grad(set_to_none=True)
                    raise finite.stopped(label, f"epoch {epoch}, batch {i}", what, state, history)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            record = {"epoch": epoch, "lr": optimizer.param_groups[0]["lr"], **_mean(fabric, seen, "train")}
            if val is not None:
                found = _evaluate(fabric, model, step, val, batch_size, (epoch + 1) / epochs)
                record |= _mean(fabric, found, "val")
                if not math.isfinite(record["val/total"]):
                    at, what = _where_in(val, found, batch_size)
                    raise finite.stopped(label, f"validation after epoch {epoch}, batch {at}", what, state, history)
            history.append(record)
            if patience and (not best or record["val/total"] < history[best["epoch"]]["val/total"]):
                best = {"epoch": epoch, "weights": {k: v.detach().clone() for k, v in bare.state_dict().items()}}
            _keep(state, settings, bare, optimizer, scaler, history, best)
            bar.update()
            bar.set_postfix({k: f"{v:.4g}" for k, v in record.items() if k.endswith("total")})
    if best:
        bare.load_state_dict(best["weights"])
    bare.eval()
    return history


def _at_hand(data, device) -> list:
    """Tensors go to a GPU as a whole where they take a quarter of its free memory at most: no batch is sent then."""
    tensors = [t for t in data if isinstance(t, Tensor)]
    if device.type == "cpu" or sum(t.nbytes for t in tensors) > (memory.free_bytes(device) or 0) / 4:
        return list(data)
    return [t.to(device) if isinstance(t, Tensor) else t for t in data]


def _read_ahead(fabric, data, parts: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The rows of each part; those of `Rows`, which come from the disk, are read while the part before is worked on."""
    read = lambda rows: [torch.as_tensor(t[rows]) for t in data]  # noqa: E731
    if all(isinstance(t, Tensor) for t in data):
        yield from (fabric.to_device(read(rows)) for rows in parts)
        return
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(read, parts[0])
        for k in range(len(parts)):
            batch = coming.result()
            if k + 1 < len(parts):
                coming = reader.submit(read, parts[k + 1])
            yield fabric.to_device(batch)


def _averaged(fabric, model, last: bool):
    """Processes average their gradients once a batch, with its last part."""
    return nullcontext() if last or fabric.world_size == 1 else fabric.no_backward_sync(model)


def _falling_back(compiled: bool):
    if not compiled:
        return nullcontext()
    import torch._dynamo  # takes a second to import

    return torch._dynamo.config.patch(suppress_errors=True)


@torch.no_grad()
def _evaluate(fabric, model, step, val, batch_size, progress) -> list:
    model.eval()
    parts = parallel.parts(torch.arange(len(val[0])), batch_size)
    batches = _read_ahead(fabric, val, [rows for rows, _ in parts])
    found = []
    for (rows, weight), batch in zip(parts, batches, strict=True):
        losses = step(model, batch, progress)
        trusted = losses["total"] + finite.nan_flag(torch.zeros_like(losses["total"]), batch)  # NaN for what is in it
        found.append((len(rows) if weight else 0, losses | {"total": trusted}))
    return found


def _where_in(val, found: list, batch_size: int) -> tuple:
    """The first batch of validation that is not finite, in this process, and what about it."""
    parts = parallel.parts(torch.arange(len(val[0])), batch_size)
    bad = [k for k, (_, losses) in enumerate(found) if not losses["total"].isfinite()]
    rows = parts[bad[0]][0] if bad else torch.arange(0)
    return bad[0] if bad else "?", finite.where(val, rows, [found[k][1] for k in bad[:1]], name="val")


def _mean(fabric, seen: list, prefix: str) -> dict:
    """Means over all images, and over all processes, of what the steps found."""
    sums = {name: sum(float(found[name]) * n for n, found in seen) for name in seen[0][1]}
    sums = parallel.total(fabric, sums | {"n": sum(n for n, _ in seen)})
    return {f"{prefix}/{name}": value / sums["n"] for name, value in sums.items() if name != "n"}


def _keep(state, settings, model, optimizer, scaler, history, best) -> None:
    if state is None or not parallel.is_first():
        return
    tensors = {f"model/{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"best/{k}": v for k, v in best.get("weights", {}).items()}
    for i, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{i}/{k}": torch.as_tensor(v) for k, v in slots.items()}
    meta = {"settings": settings, "history": history, "best": best.get("epoch")}
    checkpoints.write(Path(state), tensors, meta | ({"scaler": scaler.state_dict()} if scaler else {}))


def _resume(state, settings, model, optimizer, scaler) -> tuple[list[dict], dict]:
    if state is None or not Path(state).exists():
        return [], {}
    tensors, meta = checkpoints.read(Path(state))
    if meta.get("settings") != settings:
        raise InputError(
            f"{state}: belongs to a run with {meta.get('settings')}, not {settings}; delete it to begin anew"
        )
    part = lambda name: {k.removeprefix(name): v for k, v in tensors.items() if k.startswith(name)}  # noqa: E731
    checkpoints.load_weights(state, model, part("model/"))
    slots: dict = {}
    for key, value in part("optimizer/").items():
        i, name = key.split("/")
        slots.setdefault(int(i), {})[name] = value
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    if scaler:
        scaler.load_state_dict(meta["scaler"])
    best = {} if meta["best"] is None else {"epoch": meta["best"], "weights": part("best/")}
    return meta["history"], best
