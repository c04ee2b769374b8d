"""Training steps without a Trainer around them, for timing: the module's own step and loader."""

import resource
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from rlkd import models
from rlkd.config.compose import configure
from rlkd.data import ImageSet, MemoryLoader
from rlkd.data.cifar import CIFAR100_MEAN, CIFAR100_STD
from rlkd.engine import build
from rlkd.engine.compile import compiled
from rlkd.engine.module import StudentModule
from rlkd.engine.scoring import probe_for
from rlkd.exploration import Bands, Explorer
from rlkd.models import Teacher
from rlkd.tasks.classification.forward import prepare_forward
from rlkd.teacher_cache.stored import StoredTeacher, stored_teacher
from rlkd.types import Batch
from timing import Kinds


def without_trainer(module: StudentModule, optimizer: torch.optim.Optimizer) -> None:
    """Let a module step by torch's own optimiser; the step itself is the package's."""

    def backward(loss: Tensor, *args: object, **kwargs: object) -> None:
        loss.backward()

    vars(module)["optimizers"] = lambda: optimizer
    vars(module)["manual_backward"] = backward
    vars(module)["_trainer"] = SimpleNamespace(strategy=None, global_step=0)


def peak_of_process(script: str, overrides: Sequence[str]) -> float:
    """Return what `script --peak OVERRIDES` prints, in a process of its own: MiB."""
    command = [sys.executable, script, "--peak", *overrides]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def print_peak() -> None:
    """Print the peak memory of this process in MiB; on a GPU, what torch allocated at most."""
    if torch.cuda.is_available():
        print(torch.cuda.max_memory_allocated() / 2**20)
    else:
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)


_DRAWN = 4096


def random_images(count: int, *, classes: int = 100, seed: int = 0) -> ImageSet:
    """Make images of CIFAR's size; a step takes as long as on real ones.

    Above a few thousand they are all one image in memory: what grows is their index.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = count if count <= _DRAWN else 1
    image = torch.randint(0, 256, (drawn, 3, 32, 32), dtype=torch.uint8, generator=generator)
    target = torch.randint(0, classes, (count,), generator=generator)
    return ImageSet(image.expand(count, -1, -1, -1), target, tuple(map(str, range(classes))))


def warm_store(folder: Path, teacher: Teacher, loader: MemoryLoader, classes: int) -> StoredTeacher:
    """Return a store that is full, of random logits: to read them takes as long."""
    digests = loader.images.digests()
    identity = {"views": loader.views, "classes": classes, "cache_dtype": "float16"}
    stored = stored_teacher(
        folder, identity, digests, digests, teacher, loader, Console(quiet=True)
    )
    records, generator = stored.store.records, np.random.default_rng(0)
    drawn = generator.normal(scale=3, size=(1 << 14, classes)).astype(records.dtype)
    for start in range(0, records.rows, len(drawn)):
        rows = np.arange(start, min(start + len(drawn), records.rows))
        records.write(rows, drawn[: len(rows)])
    return stored


class Steps:
    """Endless training steps of a configuration, on random images, past the warm-up.

    Args:
        overrides: Hydra's; `trainer.precision` and `trainer.channels_last` among them.
        images: size of the training set.
        classes: that the images are of.
        explore: whether every epoch is an exploration epoch; otherwise none is.
        store: a folder to keep the teacher's logits in, all of which are there from the start.
    """

    def __init__(
        self,
        overrides: list[str],
        *,
        images: int = _DRAWN,
        classes: int = 100,
        explore: bool = False,
        store: Path | None = None,
    ) -> None:
        config = configure(["teacher=resnet56", "student=resnet20", *overrides])
        options = build.trainer_options(config)
        objective = build.objective(config)
        torch.manual_seed(0)
        loading: dict[str, Any] = {
            "mean": CIFAR100_MEAN,
            "std": CIFAR100_STD,
            "memory_format": options.memory_format,
            "device": options.device,
        }
        loader = MemoryLoader(
            random_images(images, classes=classes),
            batch_size=options.batch_size,
            shuffle=True,
            crop_padding=4,
            flip=True,
            strong_view=objective.strong,
            **loading,
        )
        probe = None
        if config.probe.size:
            held = random_images(config.probe.size, classes=classes, seed=1)
            probe = next(iter(MemoryLoader(held, batch_size=len(held), shuffle=False, **loading)))
        low = options.precision.startswith("bf16")
        teacher = Teacher(
            models.create(config.teacher.name, num_classes=classes),
            dtype=torch.bfloat16 if low else None,
            fuse=not objective.taps,
        )
        explorer = Explorer(
            instances=images,
            num_classes=classes,
            first_epoch=1,
            epochs=10**6 if explore else 0,
            bands=Bands(),
        )
        student = models.create(config.student.name, num_classes=classes)
        temperature = build.temperature(config, num_classes=classes)
        some = next(iter(loader))
        forward_pass = prepare_forward(
            objective,
            student,
            teacher,
            batch=Batch(some.image[:8].cpu(), some.target[:8].cpu(), some.index[:8].cpu()),
            train_targets=loader.images.target.cpu(),
            num_classes=classes,
            temperature=temperature,
            probe=probe_for(temperature, probe),
            looked_at=options.batch_size,
        )
        if store is not None:
            forward_pass.stored = warm_store(store, teacher, loader, classes)
        self.distiller = StudentModule(
            student=student,
            forward_pass=forward_pass,
            loader=loader,
            objective=objective,
            optimizer=build.optimizer(config),
            teacher=teacher,
            temperature=temperature,
            explorer=explorer if config.exploration.enabled else None,
        )
        self.distiller.to(options.device).to(memory_format=options.memory_format)
        compiled(self.distiller, options, teacher=store is None)
        trained = [student, objective]
        parameters = [each for module in trained for each in module.parameters()]
        optimizer = build.optimizer(config)([*parameters, *temperature.trained_parameters()])
        without_trainer(self.distiller, optimizer)
        self.kinds = Kinds(temperature)
        self.autocast = torch.autocast(
            options.device.type, dtype=torch.bfloat16, enabled=options.precision == "bf16-mixed"
        )
        self.batch_size = options.batch_size
        self._batches = self._endless()

    def __call__(self, count: int) -> None:
        """Do some steps, loading and augmenting included."""
        for _ in range(count):
            batch = next(self._batches)
            with self.autocast:
                self.distiller.training_step(batch, 0)
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def _endless(self) -> Iterator[Batch]:
        epoch = 0
        while True:
            self.distiller.enter_epoch(epoch, start=0)
            yield from self.distiller.loader
            epoch += 1
