"""Trains the same network on as many GPUs as PowerFlow gives it; they may change at any step.

Alone it is a plain run: python examples/elastic/train.py
"""

import torch
from torch import nn
from torch.utils import data

from powerflow import elastic


def main() -> None:
    """Ten epochs."""
    run = elastic.init()
    torch.manual_seed(0)
    x = torch.randn(4096, 16)
    dataset = data.TensorDataset(x, x.sum(1, keepdim=True).tanh())
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 100, gamma=0.5)
    model = run.wrap(model, optimizer, scheduler)
    for epoch in run.epochs(10):
        for inputs, targets in run.batches(dataset, global_batch=512):
            loss = nn.functional.mse_loss(model(inputs), targets)
            run.backward(loss)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        print(f"epoch {epoch}: loss {loss.item():.4f}", flush=True)


if __name__ == "__main__":
    main()
