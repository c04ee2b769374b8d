"""The ranks of a run: what torchrun or SLURM started together finds itself."""

import os
import re
from dataclasses import dataclass
from datetime import timedelta

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch import distributed

from rlkd import ranks
from rlkd.errors import UserError

_PATIENCE = timedelta(minutes=30)
"""How long a rank waits for the others: one may still be reading data."""


@dataclass(frozen=True, slots=True)
class Launch:
    """Who started this process, and how many beside it."""

    environment: ClusterEnvironment | None = None
    """None for a process alone."""
    per_node: int = 1
    """Ranks on each machine."""
    nodes: int = 1

    @classmethod
    def found(cls) -> "Launch":
        """Read the variables that torchrun, or srun with several tasks, sets.

        Raises:
            UserError: if machines have different numbers of ranks.
        """
        world, nodes = 1, 1
        environment: ClusterEnvironment | None = None
        if TorchElasticEnvironment.detect():
            environment = TorchElasticEnvironment()
            world = environment.world_size()
            nodes = world // int(os.environ.get("LOCAL_WORLD_SIZE", world))
        elif int(os.environ.get("SLURM_NTASKS", 1)) > 1 and SLURMEnvironment.detect():
            environment = SLURMEnvironment(auto_requeue=False)
            world = environment.world_size()
            nodes = int(os.environ.get("SLURM_NNODES", 1))
        if world == 1:
            return cls()
        if world % nodes:
            raise UserError(
                f"{world} ranks on {nodes} machines: start as many on each, such as "
                "torchrun --nproc-per-node 8, or srun --ntasks-per-node 8"
            )
        return cls(environment, world // nodes, nodes)

    def join(self, device: torch.device) -> None:
        """Meet the other ranks; each then has a GPU of its own, where there are any.

        Raises:
            UserError: if a machine has fewer GPUs than ranks.
        """
        if self.environment is None or distributed.is_initialized():
            return
        local = self.environment.local_rank()
        if device.type == "cuda":
            if local >= torch.cuda.device_count():
                raise UserError(
                    f"{self.per_node} ranks on a machine with {torch.cuda.device_count()} GPUs: "
                    "start one for each GPU, or use trainer.accelerator=cpu"
                )
            torch.cuda.set_device(local)
        os.environ["MASTER_ADDR"] = self.environment.main_address
        os.environ["MASTER_PORT"] = str(self.environment.main_port)
        distributed.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            rank=self.environment.global_rank(),
            world_size=self.environment.world_size(),
            timeout=_PATIENCE,
        )

    def strategy(self) -> str | Strategy:
        """Return how Lightning is to train: gradients averaged over the ranks, if several."""
        if self.environment is None:
            return "auto"
        return DDPStrategy(
            cluster_environment=self.environment, process_group_backend=distributed.get_backend()
        )


def lost(error: BaseException) -> UserError | None:
    """Return what to tell of an error that says that another rank is gone; None for any other."""
    if ranks.here().world == 1 or not isinstance(error, RuntimeError):
        return None
    said = " ".join(str(error).split())
    reason = re.sub(r"^\[[^]]*\] *", "", said).partition(". ")[0]
    told = ("gloo", "NCCL", "Connection closed", "Connection reset", "Broken pipe")
    if not isinstance(error, distributed.DistError) and not any(each in said for each in told):
        return None
    return UserError(
        f"rank {ranks.here().rank} of {ranks.here().world} stops: another one is gone ({reason}); "
        "the same command goes on from the last checkpoint"
    )
