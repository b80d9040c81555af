"""Train a small PyTorch model on random data. The demo's jobs run this script; they can be rescaled."""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from powerflow import elastic


class Recurrent(nn.Module):
    """A small LSTM that classifies sequences."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 16, batch_first=True)
        self.head = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return class scores ``[B, classes]`` for sequences ``[B, T, 8]``."""
        states, _ = self.lstm(x)
        scores: Tensor = self.head(states[:, -1])
        return scores


class Attention(nn.Module):
    """One transformer layer that classifies sequences."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return class scores ``[B, classes]`` for sequences ``[B, T, 8]``."""
        scores: Tensor = self.head(self.layer(x).mean(dim=1))
        return scores


def model_of(kind: str, classes: int) -> nn.Module:
    """Return a new model of a kind. All models take an input of shape ``[B, 8, 8]``."""
    match kind:
        case "conv":
            return nn.Sequential(
                nn.Unflatten(1, (1, 8)), nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, classes)
            )
        case "lstm":
            return Recurrent(classes)
        case "attention":
            return Attention(classes)
        case _:
            return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, classes))


def main() -> None:
    """Train the model that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=("mlp", "conv", "lstm", "attention"), default="mlp")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--steps", type=int, default=50, help="steps per epoch")
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args()

    torch.manual_seed(0)
    samples = options.steps * options.batch
    inputs = torch.randn(min(samples, 4096), 8, 8)
    labels = (inputs.mean(dim=(1, 2)) > 0).long()
    rows = torch.arange(samples) % len(inputs)
    dataset = TensorDataset(inputs[rows], labels[rows])

    run = elastic.init()
    plain = model_of(options.kind, 2)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs)
    model = run.wrap(plain, optimizer, scheduler)
    for epoch in run.epochs(options.epochs):
        total = torch.zeros(())
        for x, y in run.batches(dataset, global_batch=options.batch, seed=0):
            loss = nn.functional.cross_entropy(model(x), y)
            run.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            total += loss.detach()
        scheduler.step()
        if run.rank == 0:
            print(f"epoch {epoch}: loss {total.item() / options.steps:.4f} on {run.ranks} GPUs", flush=True)


if __name__ == "__main__":
    main()
