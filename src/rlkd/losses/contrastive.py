"""Contrastive representation distillation, with a memory of the whole training set."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from rlkd import arguments, distributed
from rlkd.errors import UserError


class CRD(nn.Module):
    r"""Pulls a student's embedding to the teacher's of the same instance, off other classes'.

    Each network's embedding goes through a linear head onto the unit sphere, and a bank keeps
    what its head last said of every training instance. An anchor v of instance i is compared with
    the other network's bank b: its own row is the positive, K rows of other classes are the
    negatives. With M training instances,

        loss_i = -log h(v, b_i) - sum_j log(1 - h(v, b_j)),
        h(v, b) = P / (P + K / M),  P = exp(v'b / nce_temperature) / Z.

    The student's and the teacher's anchors are added, each averaged over the batch. Z, one number
    for each bank, makes the mean P of the first batch 1 / M and then stays.

    A batch draws one random pool of instances, and each of its rows takes the pool's first K of
    other classes: for a row a uniform draw without replacement, as published, but not independent
    of the other rows'. So scores are one product with the pool, and no tensor of batch x K x
    dimension exists. Banks and Z move in training mode alone. Several ranks draw one pool, and the
    bank of each remembers what all of them saw.

    Args:
        student_embedding: an example of what goes into the student's classifier.
        teacher_embedding: the same of the teacher.
        train_targets: the class of every training instance.
        dimension: of the sphere's space.
        negatives: K; more contrast, more work. Capped to what the largest class leaves.
        momentum: how much of a bank's row stays at its update; in [0, 1).
        nce_temperature: divides the cosines, which smaller values spread; above 0.

    Raises:
        UserError: for a value out of range, or if there is one class only.

    Source: Tian et al., "Contrastive Representation Distillation" (ICLR 2020), section 3.1, in
    the `exact` mode of the published code.
    """

    train_targets: Tensor

    def __init__(
        self,
        student_embedding: Float[Tensor, "batch student_dim"],
        teacher_embedding: Float[Tensor, "batch teacher_dim"],
        train_targets: Int[Tensor, " instances"],
        *,
        dimension: int = 128,
        negatives: int = 16384,
        momentum: float = 0.5,
        nce_temperature: float = 0.07,
    ) -> None:
        super().__init__()
        arguments.count("dimension", dimension, most=arguments.WIDEST)
        arguments.count("negatives", negatives)
        arguments.number("momentum", momentum, least=0, below=1)
        arguments.number("nce_temperature", nce_temperature, least=1e-3)
        instances = len(train_targets)
        largest = int(train_targets.bincount().max())
        if largest == instances:
            raise UserError(
                "the training set has one class only, so no instance has a negative: train on "
                "two classes or more, or choose another method"
            )
        self.momentum, self.nce_temperature = momentum, nce_temperature
        self.negatives = min(negatives, instances - largest)
        self.pool_size = min(self.negatives + largest, instances)
        self.embed_student = nn.Linear(student_embedding.shape[1], dimension)
        self.embed_teacher = nn.Linear(teacher_embedding.shape[1], dimension)
        self.student_bank = MemoryBank(instances, dimension)
        self.teacher_bank = MemoryBank(instances, dimension)
        self.register_buffer("train_targets", train_targets, persistent=False)

    def forward(
        self,
        student_embedding: Float[Tensor, "batch student_dim"],
        teacher_embedding: Float[Tensor, "batch teacher_dim"],
        index: Int[Tensor, " batch"],
    ) -> Float[Tensor, ""]:
        """Return the loss of both anchors, in nats, and remember the batch.

        Args:
            student_embedding: what goes into the student's classifier.
            teacher_embedding: the same of the teacher.
            index: the row of each instance in the training set.
        """
        student = _on_sphere(self.embed_student, student_embedding)
        teacher = _on_sphere(self.embed_teacher, teacher_embedding.detach())
        pool, is_negative = self.draw_negatives(index)
        loss = torch.zeros((), dtype=student.dtype, device=student.device)
        for anchor, bank in ((student, self.teacher_bank), (teacher, self.student_bank)):
            positive = (anchor * bank.rows[index]).sum(dim=1) / self.nce_temperature
            negative = anchor @ bank.rows[pool].T / self.nce_temperature
            log_normalizer = bank.log_normalizer_for(positive, negative, is_negative)
            log_ratio = log_normalizer + math.log(self.negatives / len(bank.rows))
            # h is a sigmoid of log(P M / K), and its logarithm is taken without dividing.
            pulled = F.logsigmoid(positive - log_ratio).sum()
            pushed = (F.logsigmoid(log_ratio - negative) * is_negative).sum()
            loss = loss - (pulled + pushed) / len(index)
        if self.training:
            self.student_bank.update(index, student, momentum=self.momentum)
            self.teacher_bank.update(index, teacher, momentum=self.momentum)
        return loss

    def draw_negatives(
        self, index: Int[Tensor, " batch"]
    ) -> tuple[Int[Tensor, " pool"], Bool[Tensor, "batch pool"]]:
        """Draw a pool of training instances, and say which of them are a row's negatives.

        Args:
            index: the row of each instance in the training set.

        Returns:
            The pool's rows in the training set; and for each row of the batch a mask of K of
            them, all of other classes.
        """
        targets = self.train_targets
        drawn = torch.randperm(len(targets), device=targets.device)[: self.pool_size]
        pool = distributed.broadcast_rows(drawn)
        is_other = targets[pool] != targets[index][:, None]
        return pool, is_other & (is_other.cumsum(dim=1, dtype=torch.int32) <= self.negatives)


class MemoryBank(nn.Module):
    """One network's embedding of every training instance, on the unit sphere.

    Args:
        instances: size of the training set.
        dimension: of the sphere's space.
    """

    rows: Tensor
    log_normalizer: Tensor
    """log Z; NaN before the first batch."""

    def __init__(self, instances: int, dimension: int) -> None:
        super().__init__()
        self.register_buffer("rows", F.normalize(2 * torch.rand(instances, dimension) - 1, dim=1))
        self.register_buffer("log_normalizer", torch.tensor(math.nan))
        self.settled = False
        self.register_load_state_dict_post_hook(_unsettle)

    @torch.no_grad()
    def log_normalizer_for(
        self,
        positive: Float[Tensor, " batch"],
        negative: Float[Tensor, "batch pool"],
        is_negative: Bool[Tensor, "batch pool"],
    ) -> Float[Tensor, ""]:
        """Return log Z, which the first batch sets by those of its scores that are finite.

        Args:
            positive: cosines with the positives over the temperature.
            negative: the same with the pool.
            is_negative: what of the pool counts.
        """
        if self.settled:
            return self.log_normalizer
        counted = negative.masked_fill(~is_negative, -math.inf)
        scores = torch.cat([positive, counted.flatten()])
        finite = scores.isfinite()
        scores = scores.masked_fill(~finite, -math.inf)
        count = distributed.sum_over_ranks(finite.sum().to(scores.dtype))
        total = distributed.gather_rows(scores.logsumexp(dim=0, keepdim=True)).logsumexp(dim=0)
        first = total + (len(self.rows) / count).log()
        kept = torch.where(self.log_normalizer.isfinite(), self.log_normalizer, first)
        if self.training:
            self.log_normalizer.copy_(kept)
            self.settled = True
        return kept

    @torch.no_grad()
    def update(
        self,
        index: Int[Tensor, " batch"],
        embedding: Float[Tensor, "batch dimension"],
        *,
        momentum: float,
    ) -> None:
        """Move the rows of a batch, of all ranks, to its embeddings, along the sphere.

        A row whose embedding is not finite stays.

        Args:
            index: the rows; as many on every rank.
            embedding: of unit length.
            momentum: the share of the old rows; in [0, 1).
        """
        index, embedding = distributed.gather_rows(index), distributed.gather_rows(embedding)
        held = self.rows[index]
        moved = F.normalize(momentum * held + (1 - momentum) * embedding, dim=1)
        finite = moved.isfinite().all(dim=1, keepdim=True)
        self.rows.index_copy_(0, index, torch.where(finite, moved, held))


def _on_sphere(
    head: nn.Linear, embedding: Float[Tensor, "batch dim"]
) -> Float[Tensor, "batch dimension"]:
    return F.normalize(head(embedding.to(head.weight.dtype)), dim=1)


def _unsettle(bank: nn.Module, _: object) -> None:
    """Have a bank read again whether Z is set: what it loaded may have been saved before."""
    assert isinstance(bank, MemoryBank)
    bank.settled = False
