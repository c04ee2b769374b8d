"""RLKD in a LightningModule of your own: one attribute, one line, one callback.

python examples/lightning_callback.py [FILE]    # FILE takes the student's weights
"""

import sys
from pathlib import Path

import lightning as L
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import rlkd
from rlkd.lightning_callback import TemperatureCallback


class Distillation(L.LightningModule):
    """A module as anybody would write it; the temperature is what rlkd adds."""

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        self.student = student
        self.teacher = rlkd.models.Teacher(teacher)  # frozen, and in no checkpoint
        self.temperature = rlkd.TemperatureAgent(reward_source="probe", probe_interval=2)

    def forward(self, image: Tensor) -> Tensor:
        """Return the student's logits, which the callback measures."""
        return self.student(image)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        """Return the loss; Lightning does the rest."""
        image, target = batch
        student_logits, teacher_logits = self(image), self.teacher(image)
        temperature = self.temperature(student_logits, teacher_logits, target)
        kd = rlkd.losses.kd(student_logits, teacher_logits, temperature)
        return 0.1 * F.cross_entropy(student_logits, target) + 0.9 * kd

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Train the student, and what the source has trained along: for the agent, nothing."""
        trained = [*self.student.parameters(), *self.temperature.trained_parameters()]
        return torch.optim.SGD(trained, lr=0.05, momentum=0.9)


def mlp(width: int) -> nn.Sequential:
    """A network for 8 x 8 images, with nothing of rlkd in it."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))


def main(file: str | Path = "student.pt", *, epochs: int = 3) -> Distillation:
    """Distil a wide network into a narrow one on digits; save the narrow one, return both."""
    torch.manual_seed(0)
    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 1
    targets = torch.tensor(labels)
    loader = DataLoader(TensorDataset(images[:1280], targets[:1280]), batch_size=64, shuffle=True)
    teacher = mlp(width=128)
    optimizer = torch.optim.SGD(teacher.parameters(), lr=0.05, momentum=0.9)
    for image, target in (batch for _ in range(5) for batch in loader):
        optimizer.zero_grad()
        F.cross_entropy(teacher(image), target).backward()
        optimizer.step()

    model = Distillation(student=mlp(width=16), teacher=teacher)
    probe = images[1280:1408], targets[1280:1408]
    callback = TemperatureCallback(model.temperature, probe=probe)
    L.Trainer(max_epochs=epochs, callbacks=[callback], log_every_n_steps=10).fit(model, loader)

    right = model(images[1408:]).argmax(1) == targets[1408:]
    torch.save(model.student.state_dict(), file)  # plain PyTorch: whoever loads it needs no rlkd
    updates = model.temperature.updates
    print(f"student {100 * right.float().mean():.1f} %, {updates} updates, saved to {file}")
    return model


if __name__ == "__main__":
    main(*sys.argv[1:])
