"""What the controls train, by their recipes, or load where it is kept: codes, and the networks that read them."""

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from studies import _arms, _cells
from vaelib.cohort import Cohort
from vaelib.cohorts.layout import models_folder
from vaelib.engine.checkpoints import fingerprint, kept
from vaelib.engine.files import hash_of
from vaelib.engine.rows import mean
from vaelib.latent import active_units, decode
from vaelib.losses import kl, l2, mask_loss
from vaelib.rivals import parameters
from vaelib.spatial import ResidualVAE
from vaelib.training import augment


def vae_of(lab: Any, seed: int, options: dict[str, Any], plan: dict = _arms.PLAN) -> tuple[ResidualVAE, list[dict]]:
    """Train the VAE, or autoencoder, that an arm reads, on slices alone; or load it. With it, its curve."""
    options = {k: v for k, v in options.items() if k in ("beta", "noise", "seen")}
    how = {"steps": plan["VAE steps"], "batch": plan["batch"], "lr": plan["lr"], "seed": seed}

    def make() -> dict:
        torch.manual_seed(seed)
        images, val = torch.from_numpy(lab.train.images), torch.from_numpy(lab.val.images)
        vae = _arms.untrained(images)

        @torch.no_grad()
        def look() -> dict:
            mu, logvar = vae.encoder(val)
            z = mu if options["beta"] is not None else _arms.scaled(mu)  # as its decoder reads it in training
            alive = active_units(z.permute(0, 2, 3, 1).reshape(-1, _arms.NUMBERS).numpy()).sum()
            return {"error": l2(vae.decode(z), val).item(), "kl": kl(mu, logvar).item(), "active": int(alive)}

        return {"vae": vae, "curve": _arms.train(vae, _arms.unlabelled(**options), [images], look=look, **how)}

    made_by = {"code": options, "how": how, "with": _arms.made_with(), "data": fingerprint(lab.train, lab.val)}
    found = kept(_place("vae", made_by), made_by, make)
    return found["vae"], found["curve"]


def masks_of(lab: Cohort, seed: int, plan: dict = _arms.PLAN) -> nn.Module:
    """Train a VAE of masks alone, for the arm that maps one latent to the other; or load it."""
    how = {"steps": plan["VAE steps"] // 2, "batch": plan["batch"], "lr": plan["lr"], "seed": seed}

    def losses(vae: nn.Module, batch: Sequence[Tensor], progress: float) -> Tensor:
        (m,) = augment(batch[0])
        mu, logvar = vae.encoder(m)
        z = mu + torch.exp(logvar / 2) * torch.randn_like(mu)
        return mask_loss(vae.decoder(z), m) + plan["beta"] * kl(mu, logvar)

    def make() -> dict:
        torch.manual_seed(seed)
        vae = ResidualVAE(_arms.SIDE, latent=_arms.NUMBERS, grid=_arms.GRID, start=mean(lab.train.masks))
        _arms.train(vae, losses, [torch.from_numpy(lab.train.masks)], **how)
        return {"vae": vae}

    made_by = {"code": "of masks", "how": how, "beta": plan["beta"], "data": fingerprint(lab.train, lab.val)}
    return kept(_place("masks", made_by), made_by, make)["vae"]


def _place(kind: str, made_by: dict) -> Path:
    return models_folder() / "controls" / f"{re.sub('[ ,]+', '_', kind)}_{hash_of(made_by)[:12]}.safetensors"


def fitted(name: str, lab: Cohort, seed: int, options: dict, plan: dict = _arms.PLAN) -> tuple[nn.Module, dict]:
    """Train an arm with some options, or load it: network, ``curve`` on held-out patients, the ``threshold``."""
    arm: _arms.Arm = _arms.ARMS[name]
    vae, curve = vae_of(lab, seed, arm.options, plan) if arm.code == "vae" else (None, [])
    masks = masks_of(lab, seed, plan) if "mask latent" in arm.options else None
    model = _arms.build(arm, lab.train, seed, vae, masks)
    how = {"steps": plan["steps"], "batch": plan["batch"], "lr": plan["lr"], "seed": seed}
    made_by = {"arm": [name, *arm], "options": options, "how": how, "parents": plan, "with": _arms.made_with()}
    made_by["data"] = fingerprint(lab.train, lab.val)

    def make() -> dict:
        val, began = _cells.held_out(lab), time.process_time()
        shown = _arms.with_neighbours(val)

        def look() -> dict:
            return _cells.look(decode(model, shown), val)

        data = [_arms.with_neighbours(lab.train), torch.from_numpy(lab.train.masks)]
        joint = arm.options.get("beta") if "joint" in arm.options else None
        seen = _arms.train(model, _arms.labelled(**options, joint=joint), data, look=look, **how)
        facts = {"curve": seen, "cpu seconds": round(time.process_time() - began), "VAE's curve": curve}
        facts |= {"parameters": parameters({"net": model})}
        return facts | {key: value.cpu().numpy() for key, value in model.state_dict().items()}

    found = kept(_place(name, made_by), made_by, make)
    model.load_state_dict({k: torch.from_numpy(v) for k, v in found.items() if isinstance(v, np.ndarray)})
    facts = {k: v for k, v in found.items() if not isinstance(v, np.ndarray)}
    return model.eval(), facts | {"val": facts["curve"][-1]["dice"], "threshold": facts["curve"][-1]["threshold"]}
