"""Starts the processes for transformers' distributed suites: ranks on this machine's CPU, connected by gloo.

It replaces a module with the same interface, which transformers' source archive leaves out.
"""

import tempfile
from pathlib import Path

import torch
import torch.distributed as dist


def _get_distributed_backend():
    return "gloo"


def _get_distributed_device_type():
    return "cpu"


def _get_rank_device(rank):
    return torch.device("cpu")


def _set_rank_device(rank):
    torch.set_num_threads(1)  # ranks share the cores


def _start_rank_processes(function, args, nprocs):
    torch.multiprocessing.spawn(function, args=args, nprocs=nprocs)


def _run_rank(rank, function, world_size, rendezvous, args):
    _set_rank_device(rank)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world_size)
    try:
        function(rank, *args)
    finally:
        dist.destroy_process_group()


def run_distributed(world_size):
    """Decorates `function(rank, *args)`, so that calling it with `args` runs it in `world_size` processes."""

    def decorate(function):
        def run(*args):
            with tempfile.TemporaryDirectory() as folder:
                rendezvous = Path(folder) / "rendezvous"
                _start_rank_processes(_run_rank, (function, world_size, rendezvous, args), world_size)

        return run

    return decorate
