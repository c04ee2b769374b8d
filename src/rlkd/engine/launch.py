"""The ranks of a run: what torchrun or SLURM started together finds itself."""

import os
import re
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy, Strategy

from rlkd import distributed
from rlkd.errors import UserError, one_line

_PATIENCE = timedelta(minutes=30)
"""How long a rank waits for the others: one may still be reading data."""


_GONE = ("closed by", "reset by", "broken pipe", "ncclRemoteError", "timed out", "timeout")
"""What gloo and NCCL say where a rank is gone, or late by more than that."""


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
        world, nodes, here = 1, 1, 1
        environment: ClusterEnvironment | None = None
        if TorchElasticEnvironment.detect():
            environment = TorchElasticEnvironment()
            world = environment.world_size()
            here = int(os.environ.get("LOCAL_WORLD_SIZE", world))
        elif int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
            # Of a step: a batch script that starts rlkd without srun is one process.
            environment = _slurm()
            world = environment.world_size()
            nodes = int(os.environ.get("SLURM_STEP_NUM_NODES", 1))
            here = world // nodes if world % nodes == 0 else world + 1
        if world == 1:
            return cls()
        if world % here:
            raise UserError(
                f"{world} ranks, and not as many on each machine: start them alike, such as "
                "torchrun --nproc-per-node 8, or srun --ntasks-per-node 8"
            )
        return cls(environment, here, world // here)

    def join(self, device: torch.device) -> None:
        """Meet the other ranks; each then has a GPU of its own, where there are any.

        Raises:
            UserError: if a machine has fewer GPUs than ranks.
        """
        if self.environment is None or torch.distributed.is_initialized():
            return
        local = self.environment.local_rank()
        if device.type == "cuda":
            if self.per_node > torch.cuda.device_count():
                raise UserError(
                    f"{self.per_node} ranks on a machine see {torch.cuda.device_count()} GPUs: "
                    "start one for each (on SLURM with --gpus-per-node, so that each sees all), or "
                    "use trainer.accelerator=cpu"
                )
            torch.cuda.set_device(local)
        os.environ["MASTER_ADDR"] = self.environment.main_address
        os.environ["MASTER_PORT"] = str(self.environment.main_port)
        try:
            torch.distributed.init_process_group(
                "nccl" if device.type == "cuda" else "gloo",
                rank=self.environment.global_rank(),
                world_size=self.environment.world_size(),
                timeout=_PATIENCE,
            )
        except torch.distributed.DistError as error:
            raise UserError(
                f"the ranks do not meet at {self.environment.main_address}:"
                f"{self.environment.main_port} ({_reason(error)}): start all of them, with an "
                "address that every machine reaches and a port that is free"
            ) from error

    def strategy(self) -> str | Strategy:
        """Return how Lightning is to train: gradients averaged over the ranks, if several."""
        if self.environment is None:
            return "auto"
        return DDPStrategy(
            cluster_environment=self.environment,
            process_group_backend=torch.distributed.get_backend(),
        )


def lost(error: BaseException) -> UserError | None:
    """Return what to report of an error that says that another rank is gone; None for any other."""
    here = distributed.this_rank()
    if here.world_size == 1 or not isinstance(error, RuntimeError):
        return None
    if not any(each.lower() in str(error).lower() for each in _GONE):
        return None
    return UserError(
        f"rank {here.rank} of {here.world_size} stops: another one is gone or no longer answers "
        f"({_reason(error)}); the same command goes on from the last checkpoint"
    )


def _reason(error: BaseException) -> str:
    said = one_line(error)
    return re.sub(r"^\[[^]]*\] *", "", said).partition(". ")[0]


def _slurm() -> ClusterEnvironment:
    try:
        return SLURMEnvironment(auto_requeue=False)
    except RuntimeError as error:
        raise UserError(f"{_reason(error)}: give srun --ntasks-per-node") from error


def require_one_process() -> None:
    """Refuse to be started by torchrun or srun: what does many runs starts them itself.

    Raises:
        UserError: if it was.
    """
    if Launch.found().environment is not None:
        raise UserError(
            "several runs are started by one process: start it without torchrun or srun, and give "
            "each run its ranks by launcher=submitit_slurm launcher.tasks_per_node=8, say"
        )
