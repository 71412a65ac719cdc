"""One visible training loop, augmentation, and checkpoints that load without executing code."""

import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vaelib.errors import InputError
from vaelib.losses import beta_at, mask_loss, vae_loss
from vaelib.memory import explained
from vaelib.models import VAE, MaskDecoder, Supervised
from vaelib.progress import progress as progress_bar
from vaelib.residual import ResidualMaskDecoder, ResidualVAE
from vaelib.sequence import SequenceDecoder
from vaelib.unet import UNet

CLASSES = (VAE, MaskDecoder, Supervised, ResidualVAE, ResidualMaskDecoder, SequenceDecoder, UNet)
NETWORKS = {c.__name__: c for c in CLASSES}

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
    return moved if mask is None else (moved[:, : x.shape[1]], moved[:, x.shape[1] :])


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
    label: str = "training",
) -> list[dict]:
    """Train `model` in place, and return its history: one dict an epoch.

    Parameters
    ----------
    model : nn.Module
    step : callable
        ``step(model, batch, progress)`` returns named scalars; the one named ``total`` is minimized.
    data, val : sequence of Tensor or Rows
        Of equal length; a batch takes the same rows of each, which `Rows` read from disk as they are asked for.
    epochs, batch_size, lr
        Length of training, images a step, and peak learning rate (Adam; see `learning_rate`).
    augmentation : callable, optional
        Applied to each training batch, as `augment` is.
    patience : int, optional
        Stop after so many epochs without a better ``val/total``, and go back to the best weights.
    seed : int
        Each epoch draws from (seed, epoch) alone, so a resumed run repeats an undisturbed one bit for bit.
    state : path, optional
        Where to keep the state after each epoch. If the file exists, training resumes from it.
    accelerator : str
        As Lightning Fabric names it: "auto", "cpu", "cuda", "mps".

    Raises
    ------
    InputError
        If `state` belongs to a run with other settings, or a step runs out of memory: it says what would fit.
    FloatingPointError
        If the loss is not finite; the last good state is kept on disk.
    """
    fabric = Fabric(accelerator=accelerator, devices=1)
    settings = dict(epochs=epochs, batch_size=batch_size, lr=lr, seed=seed, n=len(data[0]), patience=patience)
    if any(p.ndim == 4 for p in model.parameters()):
        # the same numbers in an order that CPUs go through up to 1.4 times faster
        model.to(memory_format=torch.channels_last)
    bare, optimizer = model, torch.optim.Adam(model.parameters(), lr=lr)
    model, optimizer = fabric.setup(model, optimizer)
    history, best = _resume(state, settings, bare, optimizer)
    per_epoch = -(-len(data[0]) // batch_size)

    with progress_bar(total=epochs, initial=len(history), desc=label, unit="epoch") as bar:
        for epoch in range(len(history), epochs):
            if patience and history and len(history) - 1 - best["epoch"] >= patience:
                break
            torch.manual_seed(seed * 1_000_003 + epoch)
            order, sums = torch.randperm(len(data[0])), {}
            model.train()
            for i, rows in enumerate(order.split(batch_size)):
                progress = (epoch + i / per_epoch) / epochs
                optimizer.param_groups[0]["lr"] = learning_rate(progress, lr)
                batch = [fabric.to_device(torch.as_tensor(t[rows])) for t in data]
                if augmentation is not None:
                    batch = augmentation(*batch) if len(batch) > 1 else [augmentation(*batch)]
                with explained(bare, step, batch, label):
                    parts = step(model, batch, progress)
                    if not torch.isfinite(parts["total"]):
                        raise FloatingPointError(f"{label}: the loss is {parts['total']} in epoch {epoch}, batch {i}")
                    optimizer.zero_grad(set_to_none=True)
                    fabric.backward(parts["total"])
                    optimizer.step()
                _add(sums, parts, len(rows))
            record = {"epoch": epoch, "lr": optimizer.param_groups[0]["lr"], **_mean(sums, "train")}
            if val is not None:
                record |= _mean(_evaluate(fabric, model, step, val, batch_size, (epoch + 1) / epochs), "val")
            history.append(record)
            if patience and (not best or record["val/total"] < history[best["epoch"]]["val/total"]):
                best = {"epoch": epoch, "weights": {k: v.detach().clone() for k, v in bare.state_dict().items()}}
            _keep(state, settings, bare, optimizer, history, best)
            bar.update()
            bar.set_postfix({k: f"{v:.4g}" for k, v in record.items() if k.endswith("total")})
    if best:
        bare.load_state_dict(best["weights"])
    bare.eval()
    return history


@torch.no_grad()
def _evaluate(fabric, model, step, val, batch_size, progress) -> dict:
    model.eval()
    sums = {}
    for rows in torch.arange(len(val[0])).split(batch_size):
        _add(sums, step(model, [fabric.to_device(torch.as_tensor(t[rows])) for t in val], progress), len(rows))
    return sums


def _add(sums: dict, parts: dict, n: int) -> None:
    for name, value in parts.items():
        sums[name] = sums.get(name, 0.0) + float(torch.as_tensor(value).detach()) * n
    sums["n"] = sums.get("n", 0) + n


def _mean(sums: dict, prefix: str) -> dict:
    return {f"{prefix}/{name}": value / sums["n"] for name, value in sums.items() if name != "n"}


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict) -> None:
    """Write safetensors atomically: a reader sees the old file or the new one, never a half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f".{path.name}.{os.getpid()}")
    save_file({k: v.contiguous() for k, v in tensors.items()}, tmp, {k: json.dumps(v) for k, v in metadata.items()})
    os.replace(tmp, path)


def _read(path: Path) -> tuple[dict[str, Tensor], dict]:
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint; train one first (`vaelib train`)")
    try:
        with safe_open(path, "pt") as f:
            metadata = {k: json.loads(v) for k, v in (f.metadata() or {}).items()}
            return {k: f.get_tensor(k) for k in f.keys()}, metadata
    except (SafetensorError, ValueError) as e:
        raise InputError(f"{path}: not a whole safetensors file ({e}); delete it and train again") from e


def _keep(state, settings, model, optimizer, history, best) -> None:
    if state is None:
        return
    tensors = {f"model/{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"best/{k}": v for k, v in best.get("weights", {}).items()}
    for i, slots in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{i}/{k}": torch.as_tensor(v) for k, v in slots.items()}
    _write(Path(state), tensors, {"settings": settings, "history": history, "best": best.get("epoch")})


def _resume(state, settings, model, optimizer) -> tuple[list[dict], dict]:
    if state is None or not Path(state).exists():
        return [], {}
    tensors, meta = _read(Path(state))
    if meta.get("settings") != settings:
        raise InputError(
            f"{state}: belongs to a run with {meta.get('settings')}, not {settings}; delete it to begin anew"
        )
    part = lambda name: {k.removeprefix(name): v for k, v in tensors.items() if k.startswith(name)}  # noqa: E731
    _load_weights(state, model, part("model/"))
    slots: dict = {}
    for key, value in part("optimizer/").items():
        i, name = key.split("/")
        slots.setdefault(int(i), {})[name] = value
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    best = {} if meta["best"] is None else {"epoch": meta["best"], "weights": part("best/")}
    return meta["history"], best


def _load_weights(path, model: nn.Module, weights: dict[str, Tensor]) -> None:
    try:
        model.load_state_dict(weights)
    except RuntimeError as e:
        raise InputError(f"{path}: made by another architecture than {type(model).__name__}; {_first_line(e)}") from e


def _first_line(e: Exception) -> str:
    return " ".join(str(e).split())[:200]


def save(path: str | Path, networks: dict[str, nn.Module], *, half: bool = False, **metadata) -> Path:
    """Save networks to one safetensors file with all that is needed to rebuild them.

    Parameters
    ----------
    path : path
    networks : dict of str to nn.Module
        For instance ``{"vae": vae, "mask": decoder}``; each class is one of `NETWORKS`.
    half : bool
        Keep the weights as float16, half the size; they are float32 again when loaded.
    **metadata
        Anything JSON can hold: the data's identity, the window, the metrics.
    """
    tensors = {f"{name}/{k}": v for name, net in networks.items() for k, v in net.state_dict().items()}
    if half:
        tensors = {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
    classes = {name: [type(net).__name__, net.config] for name, net in networks.items()}
    _write(Path(path), tensors, {"networks": classes, **metadata})
    return Path(path)


def load(path: str | Path, *names: str) -> tuple[dict[str, nn.Module], dict]:
    """Rebuild the networks of a checkpoint, in evaluation mode, from the file alone and without executing code.

    Parameters
    ----------
    path : path
    *names : str
        Networks that the caller needs, such as ``"vae", "mask"``.

    Returns
    -------
    networks : dict of str to nn.Module
    metadata : dict

    Raises
    ------
    InputError
        If the file is missing, damaged, of another architecture, or lacks a network that was asked for.
    """
    tensors, metadata = _read(Path(path))
    classes = metadata.get("networks", {})
    if missing := [n for n in names if n not in classes]:
        raise InputError(
            f"{path}: holds {sorted(classes) or 'no networks'}, not {missing}; train them with `vaelib train`"
        )
    networks = {}
    for name, (kind, config) in classes.items():
        if kind not in NETWORKS:
            raise InputError(f"{path}: network {name!r} is a {kind!r}, which this vaelib does not know; update vaelib")
        networks[name] = NETWORKS[kind](**config)
        prefix = f"{name}/"
        weights = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        _load_weights(path, networks[name], weights)
        networks[name].eval()
    return networks, metadata
