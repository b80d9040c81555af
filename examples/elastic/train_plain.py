"""Trains a small network with plain DDP.

torchrun --nproc-per-node 2 examples/elastic/train_plain.py
"""

import torch
from torch import nn
from torch.utils import data


def main() -> None:
    """Ten epochs."""
    torch.distributed.init_process_group("gloo")
    torch.manual_seed(0)
    x = torch.randn(4096, 16)
    dataset = data.TensorDataset(x, x.sum(1, keepdim=True).tanh())
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 100, gamma=0.5)
    model = nn.parallel.DistributedDataParallel(model)
    loader = data.DataLoader(dataset, batch_size=256, sampler=data.DistributedSampler(dataset))
    for epoch in range(10):
        loader.sampler.set_epoch(epoch)
        for inputs, targets in loader:
            loss = nn.functional.mse_loss(model(inputs), targets)
            loss.backward()
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        print(f"epoch {epoch}: loss {loss.item():.4f}", flush=True)


if __name__ == "__main__":
    main()
