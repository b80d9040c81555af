"""Hand over the state of a run: from a rank that has it to the ranks of its group that do not.

Ranks that have the state take no part, so they send and receive nothing. On the CPU the state travels along a tree
whose root is the rank with the state: each rank passes on what it has received. Tensors on GPUs are broadcast, in which
all ranks of the group must take part; so all do if one of them uses CUDA. Large tensors are sent from where they are,
and received where they stay, so that no copy of them is made.
"""

from __future__ import annotations

import io
import itertools
import pickle
from collections.abc import Iterator, Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from powerflow.elastic.group import PATIENCE_S
from powerflow.elastic.state import State, TensorPickler, TensorUnpickler, Training

#: Most bytes of one message: enough to use the network well, and few enough that no message takes long.
BUCKET_BYTES = 64 << 20
#: Tensors with this many bytes are sent without a copy. Smaller ones are copied, and several of them sent as one.
ALONE_BYTES = 1 << 20
#: Longest wait for one message. Without it, gloo would wait only as long as for a connection.
_PATIENCE = timedelta(seconds=PATIENCE_S)
#: What another rank must know of a tensor before it comes: type, shape, and kind of device.
_Kind = tuple[torch.dtype, tuple[int, ...], str]


def share(training: Training, rank: int, ranks: int) -> State | None:
    """Send the state of the rank with the most steps to all ranks with fewer steps.

    Returns:
        The state if this rank has received it; otherwise None.

    Raises:
        RuntimeError: A rank was lost (`powerflow.elastic.group.lost_peer`).
    """
    told = torch.zeros(2, ranks, dtype=torch.int64)  # steps, 0 if a rank has no state of the run; 1 if it uses CUDA
    told[0, rank] = training.position.step + 1 if training.joined else 0
    told[1, rank] = training.on_cuda() or torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    if ranks > 1:
        dist.all_reduce(told)
    steps = told[0]
    source, most = int(steps.argmax()), int(steps.max())
    others = [number for number in range(ranks) if number != source]
    behind = [number for number in others if int(steps[number]) < most or not most]
    takers = others if told[1].any() else behind
    if not behind or rank not in (source, *takers):
        return None
    way = Way([source, *takers], rank)
    if rank == source:
        send(training.state(), way)
        return None
    return receive(way, keep=rank in behind)


class Way:
    """The way of messages from one rank to some others: along a tree, in which this rank has its place."""

    def __init__(self, members: Sequence[int], rank: int) -> None:
        """Find the place of this rank.

        Args:
            members: Numbers of all ranks that take part. The first one sends.
            rank: Number of this rank.
        """
        place = members.index(rank)
        depth = place.bit_length()
        self.source = members[0]
        self.parent = members[place - (1 << (depth - 1))] if place else None
        places = itertools.takewhile(lambda at: at < len(members), (place + (1 << k) for k in itertools.count(depth)))
        self.children = [members[at] for at in places]
        self._tags = itertools.count()

    def carry(self, parcels: Sequence[Tensor]) -> None:
        """Fill these tensors with those of the source, and pass them on. All ranks of the way must call this.

        Raises:
            RuntimeError: A rank was lost (`powerflow.elastic.group.lost_peer`).
        """
        on_cpu = [parcel for parcel in parcels if parcel.device.type == "cpu"]
        tags = [next(self._tags) for _ in on_cpu]
        coming = [] if self.parent is None else list(map(self._expect, on_cpu, tags))
        going: list[dist.Work] = []
        for number, (parcel, tag) in enumerate(zip(on_cpu, tags, strict=True)):
            if coming:
                coming[number].wait(_PATIENCE)
            going += [_begun(dist.isend(parcel, child, tag=tag)) for child in self.children]
        for work in going:
            work.wait(_PATIENCE)
        for parcel in parcels:
            if parcel.device.type != "cpu":
                dist.broadcast(parcel, self.source)

    def _expect(self, parcel: Tensor, tag: int) -> dist.Work:
        assert self.parent is not None
        return _begun(dist.irecv(parcel, self.parent, tag=tag))


def _begun(work: dist.Work | None) -> dist.Work:
    assert work is not None  # this rank is in the group
    return work


def send(state: State, way: Way) -> None:
    """Send the state of the run along a way that begins at this rank."""
    file = io.BytesIO()
    pickler = TensorPickler(file)
    pickler.dump(state)
    kinds: list[_Kind] = [(tensor.dtype, tuple(tensor.shape), tensor.device.type) for tensor in pickler.tensors]
    head = torch.frombuffer(bytearray(pickle.dumps((file.getvalue(), kinds))), dtype=torch.uint8)
    way.carry([torch.tensor([len(head)])])
    way.carry([head])
    flats = []
    for bucket in _buckets(kinds):
        pieces = [_bytes_of(pickler.tensors[i].contiguous()) for i in bucket]
        flats.append(pieces[0] if len(pieces) == 1 else torch.cat(pieces))
    way.carry(_parcels(flats))


def receive(way: Way, *, keep: bool) -> State | None:
    """Receive the state that comes along a way. Return it if ``keep`` is True, otherwise only pass it on."""
    length = torch.zeros(1, dtype=torch.int64)
    way.carry([length])
    head = torch.empty(int(length), dtype=torch.uint8)
    way.carry([head])
    content, kinds = pickle.loads(head.numpy().tobytes())
    tensors = [torch.empty(shape if 0 in shape else 0, dtype=dtype, device=at) for dtype, shape, at in kinds]
    if not keep:  # one after the other, or the whole state would stand in this rank's memory a second time
        for bucket in _buckets(kinds):
            size, device = sum(_size(kinds[i]) for i in bucket), kinds[bucket[0]][2]
            way.carry(_parcels([torch.empty(size, dtype=torch.uint8, device=device)]))
        return None
    flats: list[tuple[Tensor, list[int]]] = []
    for bucket in _buckets(kinds):
        dtype, shape, device = kinds[bucket[0]]
        if len(bucket) == 1:
            tensors[bucket[0]] = torch.empty(shape, dtype=dtype, device=device)
            flats.append((_bytes_of(tensors[bucket[0]]), []))
        else:
            size = sum(_size(kinds[i]) for i in bucket)
            flats.append((torch.empty(size, dtype=torch.uint8, device=device), bucket))
    way.carry(_parcels([flat for flat, _ in flats]))
    for flat, bucket in flats:
        pieces = torch.split(flat, [_size(kinds[i]) for i in bucket]) if bucket else ()
        for i, piece in zip(bucket, pieces, strict=True):
            tensors[i] = piece.clone().view(kinds[i][0]).reshape(kinds[i][1])
    state: State = TensorUnpickler(io.BytesIO(content), tensors).load()
    return state


def _size(kind: _Kind) -> int:
    """Return the bytes of a tensor."""
    dtype, shape, _ = kind
    count = 1
    for length in shape:
        count *= length
    return count * dtype.itemsize


def _bytes_of(tensor: Tensor) -> Tensor:
    """Return the bytes of a contiguous tensor, in the same memory."""
    return tensor.reshape(-1).view(torch.uint8)


def _parcels(flats: Sequence[Tensor]) -> list[Tensor]:
    """Divide bytes into messages of at most `BUCKET_BYTES`."""
    return [parcel for flat in flats for parcel in torch.split(flat, BUCKET_BYTES)]


def _buckets(kinds: Sequence[_Kind]) -> Iterator[list[int]]:
    """Yield the indices of tensors to send together: a large one alone, or small ones of one kind of device."""
    for device in sorted({kind[2] for kind in kinds}):
        bucket: list[int] = []
        size = 0
        for i, kind in enumerate(kinds):
            if kind[2] != device or not _size(kind):
                continue
            if _size(kind) >= ALONE_BYTES:
                yield [i]
                continue
            if bucket and size + _size(kind) > BUCKET_BYTES:
                yield bucket
                bucket, size = [], 0
            bucket.append(i)
            size += _size(kind)
        if bucket:
            yield bucket
