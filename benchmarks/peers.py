"""What a reader would use instead of `vaelib.training`: a plain loop, pythae's trainer, and MONAI's.

Each is a function of images and masks (N, 1, H, W) in memory that trains for so many passes. The plain loop has modules
of its own, as one would write them; the other two are given ours.
"""

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

LR, LATENT = 1e-3, 64


class Slices(Dataset):
    """One slice and its mask at a time."""

    def __init__(self, images, masks):
        self.images, self.masks = images, masks

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return torch.from_numpy(self.images[i]), torch.from_numpy(self.masks[i])


class PlainVAE(nn.Module):
    """The same architecture as `vaelib.VAE` at 64 x 64: strided convolutions, a dense layer, and their transpose."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 16, 4, 2, 1), nn.ELU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ELU(),
            nn.Conv2d(32, 64, 4, 2, 1), nn.ELU(), nn.Conv2d(64, 128, 4, 2, 1), nn.ELU(), nn.Flatten(),
        )  # fmt: skip
        self.mu, self.logvar = nn.Linear(2048, LATENT), nn.Linear(2048, LATENT)
        self.decoder = plain_decoder()

    def forward(self, x):
        """(N, 1, 64, 64) to reconstruction, mu, logvar and z."""
        h = self.encoder(x)
        mu, logvar = self.mu(h), self.logvar(h)
        z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
        return self.decoder(z), mu, logvar, z


def plain_decoder():
    """Latents (N, 64) to probabilities (N, 1, 64, 64)."""
    return nn.Sequential(
        nn.Linear(LATENT, 2048), nn.Unflatten(1, (128, 4, 4)), nn.ELU(),
        nn.ConvTranspose2d(128, 64, 4, 2, 1), nn.ELU(), nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ELU(),
        nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.ELU(), nn.ConvTranspose2d(16, 1, 4, 2, 1), nn.Sigmoid(),
    )  # fmt: skip


def plain_loop(images, masks, *, epochs, batch_size, beta=0.01, workers=2, after=lambda epoch, vae, mask: None):
    """Train both with two backward passes a step; `after` is called once an epoch.

    The loss of the picture is summed over its pixels, or `beta` would mean something else than with us.
    """
    vae, mask = PlainVAE(), plain_decoder()
    for_vae, for_mask = torch.optim.Adam(vae.parameters(), lr=LR), torch.optim.Adam(mask.parameters(), lr=LR)
    criterion = nn.BCELoss()
    loader = DataLoader(Slices(images, masks), batch_size, shuffle=True, num_workers=workers,
                        persistent_workers=workers > 0)  # fmt: skip
    for epoch in range(epochs):
        for x, y in loader:
            recon, mu, logvar, z = vae(x)
            divergence = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp()) / len(x)
            loss = 0.5 * torch.sum((recon - x) ** 2) / len(x) + beta * divergence
            for_vae.zero_grad()
            loss.backward()
            for_vae.step()
            loss = criterion(mask(z.detach()), y)
            for_mask.zero_grad()
            loss.backward()
            for_mask.step()
        after(epoch, vae, mask)


def pythae_trainer(vae, images, *, epochs, batch_size, folder, beta=0.01):
    """Train our VAE with pythae's `BaseTrainer`, the model wrapped as its own are."""
    from pythae.data.datasets import BaseDataset
    from pythae.models import BetaVAE, BetaVAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    class Encoder(BaseEncoder):
        def __init__(self):
            super().__init__()
            self.inner = vae.encoder

        def forward(self, x):
            mu, logvar = self.inner(x)
            return ModelOutput(embedding=mu, log_covariance=logvar)

    class Decoder(BaseDecoder):
        def __init__(self):
            super().__init__()
            self.inner = vae.decoder

        def forward(self, z):
            return ModelOutput(reconstruction=torch.sigmoid(self.inner(z)))

    config = BetaVAEConfig(input_dim=images.shape[1:], latent_dim=LATENT, beta=beta)
    model = BetaVAE(config, encoder=Encoder(), decoder=Decoder())
    training = BaseTrainerConfig(output_dir=str(folder), num_epochs=epochs, learning_rate=LR, no_cuda=True,
                                 per_device_train_batch_size=batch_size, keep_best_on_train=True)  # fmt: skip
    data = torch.from_numpy(images)
    BaseTrainer(model, BaseDataset(data, torch.zeros(len(data))), training_config=training).train()


def monai_trainer(pair, loss, images, masks, *, epochs, batch_size, workers=2):
    """Train our pair with MONAI's `SupervisedTrainer`, the data coming through its `CacheDataset` and `DataLoader`.

    ``pair(x)`` is what it predicts, and ``loss(pair(x), y)`` is minimized.
    """
    from monai.data import CacheDataset, DataLoader
    from monai.engines import SupervisedTrainer

    items = [{"image": torch.from_numpy(x), "label": torch.from_numpy(y)} for x, y in zip(images, masks, strict=True)]
    loader = DataLoader(CacheDataset(items, progress=False), batch_size=batch_size, shuffle=True, num_workers=workers,
                        persistent_workers=workers > 0)  # fmt: skip
    SupervisedTrainer(
        device=torch.device("cpu"), max_epochs=epochs, train_data_loader=loader, network=pair,
        optimizer=torch.optim.Adam(pair.parameters(), lr=LR), loss_function=loss,
    ).run()  # fmt: skip
