"""Stand-ins for TensorRT-LLM's two programs, so that a lowered argv runs unchanged: `tests/fakes/bin` on the PATH.

`trtllm-serve` is the fake server. `trtllm-llmapi-launch` does as the real one does with an MPI job, whose script of
TensorRT-LLM 1.2 was read: all ranks meet, rank 0 starts the command beside itself with MPI's variables taken out of
its environment, and stays when the command ends; the others wait for work. Its ranks meet in the real Open MPI.
"""

import argparse
import asyncio
import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.fakes.tensorrt import Contexts, FakeTensorRt

MPI_LIBRARY = "libmpi.so.40"
MPI_VARIABLES = ("OMPI_", "PMIX_", "UCX_")


def serve() -> None:
    """`trtllm-serve MODEL --host ... --port ...`: serves until it is told to end."""
    parser = argparse.ArgumentParser(prog="trtllm-serve", allow_abbrev=False)
    parser.add_argument("model")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_known_args()[0]
    asyncio.run(_serve(options.host, options.port, Path(options.model).name))


async def _serve(host: str, port: int, model: str) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await FakeTensorRt(model, Contexts(), (model,), address=(host, port)).start()
    await stop.wait()


def launch() -> None:
    """`trtllm-llmapi-launch COMMAND...`, once for every rank."""
    rank, ranks = (os.environ[f"OMPI_COMM_WORLD_{name}"] for name in ("RANK", "SIZE"))
    _meet()
    sys.stdout.write(f"rank {rank} of {ranks} has met the others on {os.environ['POD_NAME']}\n")
    sys.stdout.flush()
    if rank == "0":
        kept = {name: value for name, value in os.environ.items() if not name.startswith(MPI_VARIABLES)}
        subprocess.Popen(sys.argv[1:], env=kept)
    while True:
        signal.pause()


def _meet() -> None:
    """MPI_Init and a barrier of all ranks, which opens the connections between machines."""
    library = ctypes.CDLL(MPI_LIBRARY, mode=ctypes.RTLD_GLOBAL)
    world = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.in_dll(library, "ompi_mpi_comm_world")))
    if library.MPI_Init(None, None) or library.MPI_Barrier(world):
        sys.exit("the ranks did not meet")
