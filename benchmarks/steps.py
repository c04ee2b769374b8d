"""Training steps without a Trainer around them, for timing: the module's own step and loader."""

from collections.abc import Iterator

import torch
from torch import Tensor

from rlkd import models
from rlkd.data import ImageSet, MemoryLoader
from rlkd.data.cifar import CIFAR100_MEAN, CIFAR100_STD
from rlkd.exploration import Bands, Explorer
from rlkd.models import Teacher
from rlkd.training import build
from rlkd.training.compose import configure
from rlkd.training.distiller import Distiller
from rlkd.training.observed import observe
from rlkd.types import Batch


class BareDistiller(Distiller):
    """A distiller whose optimiser is torch's own; the step itself is the package's."""

    def optimizers(self, use_pl_optimizer: bool = True) -> torch.optim.Optimizer:
        """Return the student's optimiser."""
        return self.optimizer

    def manual_backward(self, loss: Tensor, *args: object, **kwargs: object) -> None:
        """Go backward."""
        loss.backward()


def random_images(count: int, *, seed: int = 0) -> ImageSet:
    """Make images of CIFAR's size and number of classes; a step takes as long as on real ones."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    target = torch.randint(0, 100, (count,), generator=generator)
    return ImageSet(image, target, tuple(map(str, range(100))))


class Steps:
    """Endless training steps of a configuration, on random images, past the warm-up.

    Args:
        overrides: Hydra's; `trainer.precision` and `trainer.channels_last` among them.
        images: size of the training set.
        explore: whether every epoch is an exploration epoch; otherwise none is.
    """

    def __init__(self, overrides: list[str], *, images: int = 4096, explore: bool = False) -> None:
        config = configure(["teacher=resnet56", "student=resnet20", *overrides])
        options = build.trainer_options(config)
        objective = build.objective(config)
        torch.manual_seed(0)
        loading = {
            "mean": CIFAR100_MEAN,
            "std": CIFAR100_STD,
            "memory_format": options.memory_format,
            "device": options.device,
        }
        loader = MemoryLoader(
            random_images(images),
            batch_size=options.batch_size,
            shuffle=True,
            crop_padding=4,
            flip=True,
            strong_view=objective.strong,
            **loading,
        )
        probe = None
        if config.probe.size:
            held = random_images(config.probe.size, seed=1)
            probe = next(iter(MemoryLoader(held, batch_size=len(held), shuffle=False, **loading)))
        low = options.precision.startswith("bf16")
        teacher = Teacher(
            models.create(config.teacher.name, num_classes=100),
            dtype=torch.bfloat16 if low else None,
            fuse=not objective.taps,
        )
        explorer = Explorer(
            instances=images,
            num_classes=100,
            first_epoch=1,
            epochs=10**6 if explore else 0,
            bands=Bands(),
        )
        student = models.create(config.student.name, num_classes=100)
        temperature = build.temperature(config)
        some = next(iter(loader))
        observed = observe(
            objective,
            student,
            teacher,
            batch=Batch(some.image[:8].cpu(), some.target[:8].cpu(), some.index[:8].cpu()),
            train_targets=loader.images.target.cpu(),
            num_classes=100,
            temperature=temperature,
        )
        self.distiller = BareDistiller(
            student=student,
            loader=loader,
            objective=objective,
            optimizer=build.optimizer(config),
            teacher=teacher,
            temperature=temperature,
            observed=observed,
            explorer=explorer if config.exploration.enabled else None,
            probe=probe,
        )
        self.distiller.to(options.device).to(memory_format=options.memory_format)
        trained = [student, objective]
        self.distiller.optimizer = build.optimizer(config)(
            [
                *(each for module in trained for each in module.parameters()),
                *temperature.trained_parameters(),
            ]
        )
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
