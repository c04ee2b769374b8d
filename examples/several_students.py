"""Several students of one teacher at once: a batch is made, and the teacher called, once for all.

python examples/several_students.py
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

import rlkd
from rlkd.data import MemoryLoader
from rlkd.data.datasets import digits
from rlkd.types import Batch

SOURCES = {
    "constant": lambda: rlkd.ConstantTemperature(4.0),
    "random": lambda: rlkd.RandomTemperature(),
    "agent": lambda: rlkd.TemperatureAgent(base_temperature=4.0, update_interval=4),
}


class Distilled:
    """A student with temperatures and an optimiser of its own, which knows of no other."""

    def __init__(self, name: str) -> None:
        torch.manual_seed(0)  # all start from the same weights
        self.student = rlkd.models.create("convnet_tiny", num_classes=10, in_channels=1)
        self.source = SOURCES[name]()
        self.optimizer = torch.optim.SGD(self.student.parameters(), lr=0.05, momentum=0.9)

    def step(self, batch: Batch, teacher_logits: Tensor) -> None:
        """Train on a batch."""
        student_logits = self.student(batch.image)
        temperature = self.source(student_logits, teacher_logits, batch.target)
        loss = 0.1 * F.cross_entropy(student_logits, batch.target)
        loss = loss + 0.9 * rlkd.losses.kd(student_logits, teacher_logits, temperature)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def main(epochs: int = 3, names: Sequence[str] = tuple(SOURCES)) -> dict[str, Distilled]:
    """Distil a small network into tiny ones on digits; return them by their temperatures."""
    data = digits()
    options = {"mean": data.mean, "std": data.std}
    loader = MemoryLoader(data.train, batch_size=64, shuffle=True, crop_padding=1, **options)
    test = next(iter(MemoryLoader(data.test, batch_size=360, shuffle=False, **options)))
    torch.manual_seed(0)
    teacher = rlkd.models.create("convnet_small", num_classes=10, in_channels=1)
    optimizer = torch.optim.SGD(teacher.parameters(), lr=0.05, momentum=0.9)
    for batch in loader:
        optimizer.zero_grad()
        F.cross_entropy(teacher(batch.image), batch.target).backward()
        optimizer.step()
    teacher.eval()

    students = {name: Distilled(name) for name in names}
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        for each in students.values():
            each.source.start_epoch(epoch + 1)
        for batch in loader:
            with torch.no_grad():
                teacher_logits = teacher(batch.image)
            for each in students.values():
                each.step(batch, teacher_logits)
    for name, each in students.items():
        predicted = each.student.eval()(test.image).argmax(1)
        print(f"{name}: {100 * (predicted == test.target).float().mean().item():.1f} %")
    return students


if __name__ == "__main__":
    main()
