"""RLKD in a loop of your own: no Lightning, no configuration, five lines more than plain KD.

python examples/plain_loop.py
"""

import torch
from torch import nn
from torch.nn import functional as F

import rlkd
from rlkd.data import MemoryLoader
from rlkd.data.datasets import digits


def main(epochs: int = 3) -> float:
    """Distil a small network into a tiny one on digits; return the student's test accuracy."""
    torch.manual_seed(0)
    data = digits()
    options = {"mean": data.mean, "std": data.std}
    loader = MemoryLoader(data.train, batch_size=64, shuffle=True, crop_padding=1, **options)
    test = next(iter(MemoryLoader(data.test, batch_size=360, shuffle=False, **options)))
    teacher = rlkd.models.create("convnet_small", num_classes=10, in_channels=1)
    student = rlkd.models.create("convnet_tiny", num_classes=10, in_channels=1)
    fit_teacher(teacher, loader)

    agent = rlkd.TemperatureAgent(base_temperature=4.0, update_interval=4)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for epoch in range(epochs):
        loader.set_epoch(epoch)
        agent.start_epoch(epoch + 1)
        for batch in loader:
            student_logits = student(batch.image)
            with torch.no_grad():
                teacher_logits = teacher(batch.image)
            temperature = agent(student_logits, teacher_logits, batch.target)
            loss = 0.1 * F.cross_entropy(student_logits, batch.target)
            loss = loss + 0.9 * rlkd.losses.kd(student_logits, teacher_logits, temperature)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    student.eval()
    accuracy = (student(test.image).argmax(1) == test.target).float().mean().item()
    print(f"student {100 * accuracy:.1f} %, {agent.updates} updates of the agent")
    return accuracy


def fit_teacher(teacher: nn.Module, loader: MemoryLoader) -> None:
    """Train the teacher for two epochs."""
    optimizer = torch.optim.SGD(teacher.parameters(), lr=0.05, momentum=0.9)
    for _ in range(2):
        for batch in loader:
            optimizer.zero_grad()
            F.cross_entropy(teacher(batch.image), batch.target).backward()
            optimizer.step()
    teacher.eval()


if __name__ == "__main__":
    main()
