"""RLKD with another loss, networks and data of your own: DKD in a plain PyTorch loop.

python examples/plain_loop_dkd.py [FILE]    # FILE takes the student's weights
"""

import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import rlkd


def convnet(width: int) -> nn.Sequential:
    """A network for 8 x 8 images, with nothing of rlkd in it."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * width, 10),
    )


def main(file: str | Path = "student.pt", *, epochs: int = 3, warmup_epochs: int = 2) -> nn.Module:
    """Distil a wide network into a narrow one on digits; save and return the narrow one."""
    torch.manual_seed(0)
    pixels, labels = load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 1
    targets = torch.tensor(labels)
    loader = DataLoader(TensorDataset(images[:1400], targets[:1400]), batch_size=64, shuffle=True)

    teacher, student = convnet(width=32), convnet(width=4)
    fit_teacher(teacher, loader)
    agent = rlkd.TemperatureAgent(base_temperature=4.0, update_interval=4)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)
    for epoch in range(epochs):
        agent.start_epoch(epoch + 1)
        warmup = min((epoch + 1) / warmup_epochs, 1.0)  # as DKD's authors do, in their first 20
        for image, target in loader:
            student_logits = student(image)
            with torch.no_grad():
                teacher_logits = teacher(image)
            temperature = agent(student_logits, teacher_logits, target)
            dkd = rlkd.losses.dkd(student_logits, teacher_logits, target, temperature, beta=2.0)
            loss = F.cross_entropy(student_logits, target) + warmup * dkd
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    student.eval()
    right = student(images[1400:]).argmax(1) == targets[1400:]
    torch.save(student.state_dict(), file)  # plain PyTorch: whoever loads it needs no rlkd
    print(f"student {100 * right.float().mean():.1f} %, {agent.updates} updates, saved to {file}")
    return student


def fit_teacher(teacher: nn.Module, loader: DataLoader[tuple[torch.Tensor, ...]]) -> None:
    """Train the teacher for three epochs."""
    optimizer = torch.optim.SGD(teacher.parameters(), lr=0.02, momentum=0.9)
    for _ in range(3):
        for image, target in loader:
            optimizer.zero_grad()
            F.cross_entropy(teacher(image), target).backward()
            optimizer.step()
    teacher.eval()


if __name__ == "__main__":
    main(*sys.argv[1:])
