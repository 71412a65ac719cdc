"""Segment the pancreas in CT from the latent of a variational autoencoder.

The VAE learns from slices alone. A second decoder draws the mask from the same latent, which is detached: no label
reaches the encoder. Held-out data are scored in 3D, at a threshold that was chosen beforehand.

    python 10_segment.py CACHE        a folder of patients, each with image_8.npy and mask_8.npy (S, 256, 256)
"""

import copy
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset

SIZE, LATENT, BETA, BATCH = 64, 32, 0.01, 32
TRUTH = 0.2  # a coarse pixel counts as pancreas if a fifth of it is
THRESHOLDS = np.arange(0.02, 0.97, 0.02)


# --- data ------------------------------------------------------------------------------------------------


def shrink(volume):
    """Average blocks of pixels: (S, H, W) to (S, 64, 64)."""
    n = volume.shape[-1] // SIZE
    return volume.reshape(-1, SIZE, n, SIZE, n).mean((2, 4), dtype=np.float32)


def prepare(scan, mask):
    """Bring a scan, 0 to 1, and its labels, both (S, H, W), to 64 x 64."""
    images = shrink(scan)
    masks = shrink(mask)
    return images, masks


class SliceDataset(Dataset):
    """Slices (N, 64, 64) with their masks, and the patient that each belongs to."""

    def __init__(self, images, masks, patient):
        self.images, self.masks, self.patient = images, masks, patient

    @classmethod
    def read(cls, folders):
        """All slices of the patients in these folders."""
        images, masks, patient = [], [], []
        for folder in folders:
            image, mask = prepare(np.load(folder / "image_8.npy"), np.load(folder / "mask_8.npy"))
            images.append(image)
            masks.append(mask)
            patient += [folder.name] * len(image)
        return cls(np.concatenate(images), np.concatenate(masks), np.array(patient))

    def __len__(self):
        return len(self.images)

    def __getitem__(self, k):
        return self.images[k][None], self.masks[k][None]

    def subset(self, rows):
        """The same with these slices only."""
        return SliceDataset(self.images[rows], self.masks[rows], self.patient[rows])


def split(patient, seed=0):
    """Rows for training (70%), validation (10%) and test (20%), drawn by lot."""

    def cut(lots):
        return np.split(lots, [round(0.7 * len(lots)), round(0.8 * len(lots))])

    rng = np.random.default_rng(seed)
    return [np.flatnonzero(np.isin(patient, part)) for part in cut(rng.permutation(np.unique(patient)))]


# --- the networks ----------------------------------------------------------------------------------------


class Encoder(nn.Module):
    """Slices (N, 1, 64, 64) to the mean and the log variance of z, each (N, 32)."""

    def __init__(self):
        super().__init__()
        layers = []
        for i, o in [(1, 16), (16, 32), (32, 64)]:  # 64 => 32 => 16 => 8
            layers += [nn.Conv2d(i, o, 4, stride=2, padding=1), nn.BatchNorm2d(o), nn.ELU()]
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.mu, self.logvar = nn.Linear(64 * 8 * 8, LATENT), nn.Linear(64 * 8 * 8, LATENT)

    def forward(self, x):
        h = self.body(x)
        return self.mu(h), self.logvar(h)


class Decoder(nn.Module):
    """Latents (N, 32) to pictures (N, 1, 64, 64) of numbers from 0 to 1."""

    def __init__(self, start):
        super().__init__()
        layers = [nn.Linear(LATENT, 64 * 8 * 8), nn.Unflatten(1, (64, 8, 8))]
        for i, o in [(64, 32), (32, 16), (16, 1)]:  # 8 => 16 => 32 => 64
            layers += [nn.ELU(), nn.ConvTranspose2d(i, o, 4, stride=2, padding=1)]
        nn.init.constant_(layers[-1].bias, np.log(start / (1 - start)))
        self.body = nn.Sequential(*layers)

    def forward(self, z):
        return torch.sigmoid(self.body(z))


class VAE(nn.Module):
    """The encoder with two decoders: one for the slice, one for the mask."""

    def __init__(self, grey=0.4, prevalence=0.01):
        super().__init__()
        self.encoder, self.decoder, self.mask = Encoder(), Decoder(grey), Decoder(prevalence)

    def sample(self, mu, logvar):
        """Draw z for training; in evaluation z is its mean."""
        noise = torch.randn_like(mu) if self.training else torch.zeros_like(mu)
        return mu + torch.exp(logvar / 2) * noise

    def forward(self, x):
        """Reconstruction, mask, mean and log variance."""
        mu, logvar = self.encoder(x)
        z = self.sample(mu, logvar)
        fixed = z.detach()  # the mask must not shape the encoder
        return self.decoder(z), self.mask(fixed), mu, logvar


# --- training --------------------------------------------------------------------------------------------


def vae_loss(recon, x, mu, logvar, beta=BETA):
    """Squared error of the reconstruction plus beta times the KL divergence, in nats a slice."""
    error = 0.5 * (recon - x).square().flatten(1).sum(1).mean()
    kl = 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum(1).mean()
    return error + beta * kl


def mask_loss(probability, mask):
    """Cross-entropy, in nats a slice."""
    return F.binary_cross_entropy(probability, mask, reduction="none").flatten(1).sum(1).mean()


def fit(model, train, held_out, epochs=6, lr=2e-3):
    """Train both decoders and the encoder; go back to the epoch with the best mask on the slices held out."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    least = np.inf
    for _ in range(epochs):
        model.train()
        for x, y in DataLoader(train, batch_size=BATCH, shuffle=True):
            recon, mask, mu, logvar = model(x)
            loss = vae_loss(recon, x, mu, logvar) + mask_loss(mask, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        now = mask_loss(*(torch.from_numpy(a) for a in (predict(model, held_out.images), held_out.masks)))
        if now < least:
            least, best = now, copy.deepcopy(model.state_dict())
    model.load_state_dict(best)


# --- evaluation ------------------------------------------------------------------------------------------


@torch.no_grad()
def predict(model, images):
    """The probability of pancreas in each pixel of slices (N, 64, 64)."""
    model.eval()
    batches = torch.from_numpy(images)[:, None].split(BATCH)
    masks = [model(x)[1] for x in batches]
    return torch.cat(masks)[:, 0].numpy()


def mean_dice(predicted, truth, patient):
    """Dice of each patient in 3D, then the mean."""
    groups = [patient == name for name in np.unique(patient)]
    both, one, other = (np.array([a[g].sum() for g in groups]) for a in (predicted & truth, predicted, truth))
    return np.where(one + other > 0, 2 * both / np.maximum(one + other, 1), 1.0).mean()


def mean_iou(predicted, truth, patient):
    """Intersection over union in 3D, the mean of all."""
    groups = [np.flatnonzero(patient == name) for name in np.unique(patient)]
    both, either = (np.array([a[g].sum() for g in groups]) for a in (predicted & truth, predicted | truth))
    return np.where(either > 0, both / np.maximum(either, 1), 1.0).mean()


def best_threshold(probability, data):
    """The threshold with the best mean Dice."""
    scores = [mean_dice(probability >= t, data.masks >= TRUTH, data.patient) for t in THRESHOLDS]
    return float(THRESHOLDS[np.argmax(scores)])


def evaluate(model, val, test):
    """Dice and IoU on the test set, and the threshold that they were found with."""
    probability = predict(model, test.images)
    threshold = best_threshold(predict(model, val.images), val)
    found = probability >= threshold, test.masks >= TRUTH, test.patient
    return {"threshold": threshold, "dice": float(mean_dice(*found)), "iou": float(mean_iou(*found))}


def experiment(data, epochs=6, seed=0):
    """Split, train and evaluate; returns the model and its scores."""
    torch.manual_seed(seed)
    train, val, test = (data.subset(rows) for rows in split(data.patient, seed))
    model = VAE(float(train.images.mean()), float(train.masks.mean()))
    fit(model, train, val, epochs)
    return model, evaluate(model, val, test)


if __name__ == "__main__":
    folders = sorted(p.parent for p in Path(sys.argv[1]).glob("*/image_8.npy"))
    print(experiment(SliceDataset.read(folders[:24]))[1])
