"""Several processes on one machine, for tests of what runs under ``torch.distributed``."""

import multiprocessing
import os
import traceback
from pathlib import Path

import torch
import torch.distributed as dist

__all__ = ["on_ranks"]


def on_ranks(count, work, folder, *arguments):
    """Call ``work(*arguments)`` in ``count`` processes of one group, and return what each call returned, as tensors.

    The processes meet in ``folder``, an empty one.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cheaplip", "torch.distributed.fsdp", "cheaplip.training.loop"])
    processes = [
        context.Process(target=_enter, args=(rank, count, work, str(folder), *arguments)) for rank in range(count)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        process.kill()
    failures = [path.read_text() for path in sorted(folder.glob("failure*"))]
    assert not failures, "\n".join(failures)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(count)]


def _enter(rank, count, work, folder, *arguments):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=count)
    try:
        torch.save(work(*arguments), f"{folder}/rank{rank}.pt")
    except BaseException:
        Path(folder, f"failure{rank}").write_text(f"rank {rank}: {traceback.format_exc()}")
        os._exit(1)  # so that the others notice
    dist.destroy_process_group()
