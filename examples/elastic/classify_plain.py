"""Trains a classifier with plain DDP: resume, validation on all ranks, best accuracy, clipping, a schedule per step.

torchrun --nproc-per-node 2 examples/elastic/classify_plain.py --out out
"""

import argparse
import os

import torch
import torch.distributed as dist
from torch import nn
from torch.utils import data


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=32, help="samples of a step on one GPU")
    parser.add_argument("--lr", type=float, default=5e-3)
    parser.add_argument("--clip", type=float, default=1.0, help="largest norm of the gradients")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="out", help="folder of the checkpoints")
    return parser.parse_args()


def make_data(samples: int, seed: int) -> data.TensorDataset:
    """Points in 20 dimensions, of five classes that a fixed network tells apart."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, 20, generator=generator)
    weights = torch.randn(20, 5, generator=torch.Generator().manual_seed(99))
    return data.TensorDataset(inputs, (inputs.tanh() @ weights).argmax(1))


def build_model() -> nn.Module:
    """Two layers."""
    return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 5))


def train_one_epoch(model, loader, optimizer, scheduler, device, clip):
    """Train on this rank's part of the data."""
    model.train()
    for inputs, labels in loader:
        loss = nn.functional.cross_entropy(model(inputs.to(device)), labels.to(device))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        scheduler.step()


@torch.no_grad()
def evaluate(model, loader, device):
    """Return the accuracy over the whole validation set; each rank looks at a part of it."""
    model.eval()
    counts = torch.zeros(2, device=device)
    for inputs, labels in loader:
        predicted = model(inputs.to(device)).argmax(1)
        counts[0] += (predicted == labels.to(device)).sum()
        counts[1] += len(labels)
    dist.all_reduce(counts)
    return (counts[0] / counts[1]).item()


def save(state, path):
    """Write a checkpoint so that the file is always a complete one."""
    torch.save(state, path + ".new")
    os.replace(path + ".new", path)


def main():
    """Train, validate after each epoch, and keep the best model."""
    args = parse_args()
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if torch.cuda.is_available() else torch.device("cpu")
    torch.manual_seed(args.seed)
    os.makedirs(args.out, exist_ok=True)
    last_path, best_path = os.path.join(args.out, "last.pt"), os.path.join(args.out, "best.pt")

    train_set, val_set = make_data(2048, args.seed), make_data(500, args.seed + 1)
    train_loader = data.DataLoader(train_set, batch_size=args.batch_size, sampler=data.DistributedSampler(train_set))
    val_loader = data.DataLoader(val_set, batch_size=256, sampler=data.DistributedSampler(val_set, shuffle=False))

    model = build_model().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs * len(train_loader))
    start_epoch, best = 0, 0.0
    model = nn.parallel.DistributedDataParallel(model)
    if os.path.exists(last_path):
        checkpoint = torch.load(last_path, map_location=device)
        model.module.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        scheduler.load_state_dict(checkpoint["scheduler"])
        start_epoch, best = checkpoint["epoch"], checkpoint["best"]

    for epoch in range(start_epoch, args.epochs):
        train_loader.sampler.set_epoch(epoch)
        train_one_epoch(model, train_loader, optimizer, scheduler, device, args.clip)
        accuracy = evaluate(model, val_loader, device)
        is_best = accuracy > best
        best = max(accuracy, best)
        if dist.get_rank() == 0:
            state = {
                "model": model.module.state_dict(),
                "optimizer": optimizer.state_dict(),
                "scheduler": scheduler.state_dict(),
                "epoch": epoch + 1,
                "best": best,
            }
            save(state, last_path)
            if is_best:
                save(state["model"], best_path)
            print(f"epoch {epoch}: accuracy {accuracy:.4f}, best {best:.4f}", flush=True)

    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
