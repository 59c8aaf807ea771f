"""Training in several processes, as torchrun starts them: joining them, sharing values, noticing that one ended.

In a single process, nothing is exchanged: :func:`leads` returns True, :func:`gathered` the one value with a first
dimension of 1, and the other functions do nothing or return what they were given.
"""

import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from cheaplip.distributed import average, own, rank, ranks, union
from cheaplip.errors import RunError
from cheaplip.pairs import PairSet

__all__ = ["any_process", "broadcast", "gathered", "hold_all_", "hold_own_", "leads", "processes"]

_PARTS = ("u", "v", "age")
_BEAT = 0.5  # seconds between two heartbeats of a process
_SILENCE = 4 * _BEAT  # seconds without a heartbeat after which a process counts as ended
_CONNECTION = re.compile(r"connection|broken pipe|timed? ?out|socket|gloo|nccl|peer", re.IGNORECASE)


@contextmanager
def processes(device: str) -> Iterator[None]:
    """Join the processes that ``torchrun`` started, for the duration of the block.

    Args:
        device: the device to train on; processes communicate by gloo on cpu, and by nccl on cuda, where each process
            has a device of its own.

    Raises:
        RunError: another process ended; the message gives its rank.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield
        return
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    store, number, count = next(rendezvous("env://"))
    dist.init_process_group(
        "nccl" if on_gpu else "gloo", store=PrefixStore("group", store), rank=number, world_size=count
    )
    done = threading.Event()
    beats = PrefixStore("beats", store)
    threading.Thread(target=_beat, args=(beats, number, done), daemon=True).start()
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not _CONNECTION.search(str(error)):
            raise
        gone = [other for other in _silent(beats, count) if other != number]
        if not gone:
            raise
        names = f"process {gone[0]}" if len(gone) == 1 else f"processes {', '.join(map(str, gone))}"
        raise RunError(
            f"{names} of {count} (counted from 0) ended before the training did, so this one, {number}, stops: "
            "see its messages for the cause; the last checkpoint is kept, and --resume continues from it"
        ) from error
    else:
        dist.destroy_process_group()
    finally:
        done.set()


def _beat(store: Store, number: int, done: threading.Event) -> None:
    try:
        while not done.wait(_BEAT):
            store.add(str(number), 1)
    except RuntimeError:  # the store is gone, so that nobody could read the heartbeat
        return


def _silent(store: Store, count: int) -> list[int]:
    """Return the ranks without a heartbeat; rank 0 if the store, which it keeps, is gone."""
    try:
        before = [store.add(str(other), 0) for other in range(count)]
        time.sleep(_SILENCE)
        return [other for other in range(count) if store.add(str(other), 0) == before[other]]
    except RuntimeError:
        return [0]


def leads() -> bool:
    """Return whether this process is the first one, which writes the files."""
    return rank() == 0


def any_process(value: bool) -> bool:
    """Return, in every process, whether any of them passed True."""
    return value if ranks() == 1 else bool(average(torch.tensor(float(value), device=_device())) > 0)


def broadcast(content: bytes | None) -> bytes | None:
    """Return, in every process, the content that the first one passed."""
    if ranks() == 1:
        return content
    size = torch.tensor(-1 if content is None else len(content), device=_device())
    dist.broadcast(size, 0)
    if size < 0:
        return None
    if content is None or not leads():
        content = bytes(int(size))
    data = torch.frombuffer(bytearray(content), dtype=torch.uint8).to(_device())
    dist.broadcast(data, 0)
    return data.cpu().numpy().tobytes()


def gathered(value: Tensor) -> Tensor:
    r"""Return the values of all processes, (processes, \*shape), on the CPU."""
    return union(value.unsqueeze(0).to(_device())).cpu()


def hold_all_(pairs: PairSet) -> None:
    """Give this process the pairs of all processes, as a single process would hold them."""
    for name in _PARTS:
        setattr(pairs, name, union(getattr(pairs, name)))


def hold_own_(pairs: PairSet) -> None:
    """Give this process its own part of the pairs of all processes."""
    for name in _PARTS:
        setattr(pairs, name, own(getattr(pairs, name)))


def _device() -> torch.device:
    on_gpu = ranks() > 1 and dist.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
