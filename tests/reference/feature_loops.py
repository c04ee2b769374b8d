"""The feature losses one instance, pair or triangle at a time: slow, and plain to read."""

from itertools import product

import torch
from torch import Tensor


def unit(vector: Tensor) -> Tensor:
    return vector / torch.sqrt((vector * vector).sum())


def attention(maps: Tensor) -> Tensor:
    """Return one instance's sum of squared channels, as a vector of norm 1."""
    total = torch.zeros(maps.shape[1:], dtype=maps.dtype)
    for channel in maps:
        total = total + channel * channel
    return unit(total.reshape(-1))


def at_slowly(student: Tensor, teacher: Tensor) -> Tensor:
    pairs = zip(student, teacher, strict=True)
    return torch.stack([((attention(s) - attention(t)) ** 2).mean() for s, t in pairs])


def ft_slowly(student: Tensor, teacher: Tensor) -> Tensor:
    pairs = zip(student, teacher, strict=True)
    return torch.stack([(attention(s) - attention(t)).abs().mean() for s, t in pairs])


def nst_slowly(student: Tensor, teacher: Tensor) -> Tensor:
    def mean_kernel(ones: list[Tensor], others: list[Tensor]) -> Tensor:
        return torch.stack([(a @ b) ** 2 for a, b in product(ones, others)]).mean()

    rows: list[Tensor] = []
    for s_maps, t_maps in zip(student, teacher, strict=True):
        s = [unit(channel.reshape(-1)) for channel in s_maps]
        t = [unit(channel.reshape(-1)) for channel in t_maps]
        rows.append(mean_kernel(s, s) + mean_kernel(t, t) - 2 * mean_kernel(s, t))
    return torch.stack(rows)


def sp_slowly(student: Tensor, teacher: Tensor) -> Tensor:
    def similarities(feature: Tensor) -> list[Tensor]:
        rows = [row.reshape(-1) for row in feature]
        return [unit(torch.stack([a @ b for b in rows])) for a in rows]

    pairs = zip(similarities(student), similarities(teacher), strict=True)
    return torch.stack([((s - t) ** 2).sum() for s, t in pairs]).sum() / len(student) ** 2


def cc_slowly(student: Tensor, teacher: Tensor) -> Tensor:
    gaps = [(s - t).abs() for s, t in zip(student, teacher, strict=True)]
    return torch.stack([(gaps[i] * gaps[i + 1]).sum() for i in range(len(gaps) - 1)]).mean()


def huber(difference: Tensor) -> Tensor:
    size = difference.abs()
    return 0.5 * size**2 if size < 1 else size - 0.5


def rkd_slowly(student: Tensor, teacher: Tensor) -> Tensor:
    count = len(student)

    def distance(rows: Tensor, i: int, j: int) -> Tensor:
        return torch.sqrt(((rows[i] - rows[j]) ** 2).sum())

    def mean_distance(rows: Tensor) -> Tensor:
        pairs = [(i, j) for i, j in product(range(count), repeat=2) if i != j]
        return torch.stack([distance(rows, i, j) for i, j in pairs]).mean()

    def cosine(rows: Tensor, i: int, j: int, k: int) -> Tensor:
        return unit(rows[j] - rows[i]) @ unit(rows[k] - rows[i])

    s_mean, t_mean = mean_distance(student), mean_distance(teacher)
    distances = torch.zeros((), dtype=student.dtype)
    angles = torch.zeros((), dtype=student.dtype)
    for i, j in product(range(count), repeat=2):
        if i == j:
            continue
        gap = distance(student, i, j) / s_mean - distance(teacher, i, j) / t_mean
        distances = distances + huber(gap)
        for k in range(count):
            if k != i:
                angles = angles + huber(cosine(student, i, j, k) - cosine(teacher, i, j, k))
    return 25 * distances / count**2 + 50 * angles / count**3


def pkt_slowly(student: Tensor, teacher: Tensor) -> Tensor:
    eps = 1e-7

    def row(rows: Tensor, i: int) -> list[Tensor]:
        cosines = [unit(rows[i]) @ unit(each) for each in rows]
        total = torch.stack([(1 + each) / 2 for each in cosines]).sum()
        return [(1 + each) / 2 / total for each in cosines]

    total = torch.zeros((), dtype=student.dtype)
    for i in range(len(student)):
        for s, t in zip(row(student, i), row(teacher, i), strict=True):
            total = total + t * torch.log((t + eps) / (s + eps))
    return total / len(student) ** 2
