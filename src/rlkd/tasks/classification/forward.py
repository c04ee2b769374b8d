"""The forward passes of classification: logits, and features where a loss asks for them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import one_hot

from rlkd import distributed
from rlkd.agent import LookAhead
from rlkd.agent.look_ahead import check_student, moving
from rlkd.data import BatchLoader
from rlkd.engine.forward import Forward, Forwarded, Head, Scored, rehearsed_temperatures
from rlkd.engine.scoring import scored_logits
from rlkd.errors import UserError
from rlkd.losses import LossInputs, Objective, Pair
from rlkd.losses.inputs import EMBEDDING as EMBEDDING_INPUTS
from rlkd.losses.inputs import FEATURE, FEATURES, HEAD
from rlkd.models import Teacher
from rlkd.models.eval_mode import evaluating
from rlkd.models.features import EMBEDDING as EMBEDDING_TAP
from rlkd.models.features import FINAL, Taps, module_at, named_taps
from rlkd.models.outputs import check_logits
from rlkd.teacher_cache.stored import StoredTeacher
from rlkd.temperature import TemperatureSource
from rlkd.temperature.look_ahead import HeldOut
from rlkd.types import Batch

_MOST_LOOKED_AT = 256
"""Images of the next batch: every rank calls the student on those of all."""
_STAGE = "stage"
_NO_MAPS = (
    "it needs feature maps, and {network} has no stages of them that were found: give its term "
    "layers, a list of module paths"
)


class Upcoming:
    """Looks ahead at images of the next batch, at most 256, which come next in this epoch.

    Args:
        student: in the mode that it trains in.
        loader: the training batches; peeks from now on.
        held_out: what the loss is, see `held_out_loss`.

    Raises:
        UserError: for a student whose logits do not follow short steps, or where the next batch is
            of the same step, or never comes.
    """

    def __init__(self, student: nn.Module, loader: BatchLoader, held_out: HeldOut) -> None:
        check_student(student)
        if loader.plan.passes > 1 or len(loader) < 2:
            raise UserError(
                "probe.source=upcoming looks at the next batch, which here is of the same step or "
                "of the next epoch: give trainer.accumulate=1 and more than one batch an epoch, or "
                "probe.source=held_out"
            )
        loader.peeks = True
        self.student, self.loader = student, loader
        self.held_out: HeldOut = held_out

    def __call__(
        self, image: Float[Tensor, "batch c h w"], *, turn: int
    ) -> Float[Tensor, "batch classes"] | None:
        """Return z' of a batch, see `response`; None for the last of an epoch."""
        coming = self.loader.upcoming
        if coming is None:
            return None
        share = max(_MOST_LOOKED_AT // distributed.this_rank().world_size, 1)
        held, target = (
            distributed.gather_rows(each[:share]) for each in (coming.image, coming.target)
        )
        return moving(self.student, image, held, target, self.held_out)


@dataclass(frozen=True)
class Labels:
    """How the cross-entropy with the labels is to take them, see `losses.cross_entropy`."""

    smoothing: float = 0.0
    class_weights: Float[Tensor, " classes"] | None = None

    def check(self, objective: Objective) -> None:
        """Refuse what no loss would read.

        Raises:
            UserError: if it is asked for, and no term of the method asks for it.
        """
        asked = {"label_smoothing": self.smoothing != 0, "class_weights": self.class_weights}
        for name, value in asked.items():
            if value is not None and value is not False and name not in objective.names:
                raise UserError(
                    f"task.{name} is of the cross-entropy with the labels, which no term of this "
                    "method is: give the method a term rlkd.losses.supervised, or leave it out"
                )

    def on(self, device: torch.device) -> "Labels":
        """Return the same on a device."""
        weights = self.class_weights
        if weights is None or weights.device == device:
            return self
        return Labels(self.smoothing, weights.to(device))


class ClassifierForward(Forward):
    """Calls student and teacher on images and gathers what the losses ask for.

    Args:
        student: returns logits.
        teacher: a frozen network; None where the student trains alone.
        names: what the losses ask for, of `losses.inputs.NAMES`.
        student_taps: paths of the student's modules whose features are wanted.
        teacher_taps: the same of the teacher.
        student_embedding: path of what goes into the student's classifier, where it is wanted.
        teacher_embedding: the same of the teacher.
        needs_head: whether the losses ask for the teacher's classifier.
        strong: whether they ask for the logits of the second view, where a batch has one.
        probe: images held out of training, on which a reward is measured; None to measure it on
            the batch.
    """

    looks_ahead = True

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None,
        *,
        student_taps: Sequence[str] = (),
        teacher_taps: Sequence[str] = (),
        student_embedding: str | None = None,
        teacher_embedding: str | None = None,
        needs_head: bool = False,
        strong: bool = False,
        probe: Batch | None = None,
    ) -> None:
        self.student, self.probe = student, probe
        self.labels = Labels()
        self.stored: StoredTeacher | None = None
        """Gives the teacher's logits in its place; None to call it on every batch."""
        self._strong = strong
        self.ahead: LookAhead | Upcoming | None = None
        """Looks ahead where the source asks for it."""
        self._student_embedding, self._teacher_embedding = student_embedding, teacher_embedding
        self._student = Taps(student, _all(student_taps, student_embedding))
        self._teacher, self._head = None, None
        self.needs_features = bool(teacher_taps or teacher_embedding)
        """Whether the losses ask for more of the teacher than its logits."""
        if teacher is not None:
            network = teacher.network if isinstance(teacher, Teacher) else teacher
            paths = _all(teacher_taps, teacher_embedding)
            self._teacher = Taps(network, paths, call=teacher)
            if needs_head and teacher_embedding is not None:
                self._head = Head(module_at(network, teacher_embedding))

    def __call__(self, batch: Batch) -> Forwarded:
        """Call both networks on a batch."""
        student_logits, student_maps = self._student(batch.image)
        self.labels = self.labels.on(batch.image.device)
        teacher_logits, teacher_maps = None, dict[str, Tensor]()
        if self.stored is not None and batch.view is not None:
            teacher_logits = self.stored(batch)
        elif self._teacher is not None:
            with torch.no_grad():
                teacher_logits, teacher_maps = self._teacher(batch.image)
        strong = batch.strong if self._strong else None
        student_strong, teacher_strong = None, None
        if strong is not None:
            student_strong, _ = self._student(strong)
        if strong is not None and self._teacher is not None:
            with torch.no_grad():
                teacher_strong, _ = self._teacher(strong)
        inputs = LossInputs(
            student_logits=student_logits,
            target=batch.target,
            teacher_logits=teacher_logits,
            index=batch.index,
            student_embedding=_flat(student_maps, self._student_embedding),
            teacher_embedding=_flat(teacher_maps, self._teacher_embedding),
            teacher_head=self._head,
            student_logits_strong=student_strong,
            teacher_logits_strong=teacher_strong,
            label_smoothing=self.labels.smoothing,
            class_weights=self.labels.class_weights,
            student_maps=student_maps,
            teacher_maps=teacher_maps,
        )
        return Forwarded(inputs, batch.target)

    def moving(
        self, source: TemperatureSource, batch: Batch
    ) -> Float[Tensor, "batch classes"] | None:
        """Return how a batch's logits move as the held-out loss falls, where that is asked."""
        if not source.look_ahead_due or self.ahead is None:
            return None
        return self.ahead(batch.image, turn=source.updates)

    def score(self, batch: Batch, forwarded: Forwarded) -> Scored:
        """Call the student again: on the probe if there is one, else on the batch."""
        scored = batch if self.probe is None else self.probe
        return scored_logits(self.student, scored.image), scored.target


def prepare_forward(
    objective: Objective,
    student: nn.Module,
    teacher: nn.Module | None,
    *,
    batch: Batch,
    train_targets: Tensor,
    num_classes: int,
    temperature: TemperatureSource | None,
    mixes: bool = False,
    probe: Batch | None = None,
    looked_at: int = 64,
    labels: Labels = Labels(),
) -> ClassifierForward:
    """Tap both networks where the losses ask for features, and make the objective ready for them.

    Args:
        objective: the losses; those with weights are built.
        student: on the batch's device.
        teacher: the same; None where the student trains alone.
        batch: a few training instances as they are.
        train_targets: the class of every training instance.
        num_classes: of the data.
        temperature: the source; called once in evaluation mode.
        mixes: whether exploration will mix targets; every loss is then called with such ones too.
        probe: images held out of training, on which a reward is measured; None for the batch.
        looked_at: of the probe's images, those that a look-ahead takes at a time.
        labels: how the cross-entropy takes the labels.

    Raises:
        UserError: if a term names a place that a network does not have, or a network, the source
            or a loss does not fit.
    """
    labels.check(objective)
    forward, pairs = _tapped(objective, student, teacher, batch.image, probe)
    forward.labels = labels
    with evaluating(student):
        seen = forward(batch).inputs
    for role, logits in (("student", seen.student_logits), ("teacher", seen.teacher_logits)):
        if logits is not None:
            check_logits(role, logits, len(batch.index), num_classes)
    if temperature is not None and seen.teacher_logits is not None:
        seen = replace(seen, temperature=rehearsed_temperatures(temperature, seen))
    objective.prepare(replace(seen, train_targets=train_targets), pairs)
    if mixes:
        objective.rehearse(replace(seen, target=one_hot(seen.target, num_classes).float()))
    if temperature is not None and temperature.held_out is not None and probe is not None:
        kind, image = temperature.held_out, probe.image
        forward.ahead = LookAhead(student, image, probe.target, held_out=kind, at_once=looked_at)
    return forward


def _tapped(
    objective: Objective,
    student: nn.Module,
    teacher: nn.Module | None,
    image: Tensor,
    probe: Batch | None,
) -> tuple[ClassifierForward, dict[str, list[Pair]]]:
    pairs: dict[str, list[Pair]] = {name: [] for name in objective.terms}
    if teacher is None or not objective.taps:
        return ClassifierForward(student, teacher, strong=objective.strong, probe=probe), pairs
    named = {
        "student": named_taps(student, image),
        "teacher": named_taps(
            _network(teacher), teacher.seen(image) if isinstance(teacher, Teacher) else image
        ),
    }
    networks = {"student": student, "teacher": _network(teacher)}
    for name, term in objective.terms.items():
        if objective.asked[name].names & (FEATURE | FEATURES):
            pairs[name] = _pairs(name, term.layers, named, networks)
    wanted = [pair for each in pairs.values() for pair in each]
    needs_head = HEAD in objective.names
    embedding: dict[str, str | None] = {}
    for role in ("student", "teacher"):
        asked = f"{role}_embedding" in objective.names or (role == "teacher" and needs_head)
        embedding[role] = named[role].get(EMBEDDING_TAP) if asked else None
        if asked and embedding[role] is None:
            wanting = EMBEDDING_INPUTS | {HEAD}
            asking = [name for name, each in objective.asked.items() if each.names & wanting]
            raise UserError(
                f"loss {', '.join(asking)}: the {role} has no linear classifier whose input is an "
                "embedding: choose a method without embeddings, or give the network `taps` of its "
                "own"
            )
    return ClassifierForward(
        student,
        teacher,
        student_taps=[pair[0] for pair in wanted],
        teacher_taps=[pair[1] for pair in wanted],
        student_embedding=embedding["student"],
        teacher_embedding=embedding["teacher"],
        needs_head=needs_head,
        strong=objective.strong,
        probe=probe,
    ), pairs


def _pairs(
    name: str,
    layers: Any,
    named: Mapping[str, Mapping[str, str]],
    networks: Mapping[str, nn.Module],
) -> list[Pair]:
    listed = list(layers) if isinstance(layers, list | tuple) else [layers]
    fine = all(
        isinstance(each, str) or (isinstance(each, Mapping) and all(map(_is_text, each.values())))
        for each in listed
    )
    if not listed or not fine:
        raise UserError(
            f"loss {name}: layers={layers}: give last, final, stages, a module path, a list of "
            "these, or {student: PATH, teacher: PATH}"
        )
    if listed == ["stages"]:
        student, teacher = (_stages(named[role]) for role in ("student", "teacher"))
        count = min(len(student), len(teacher))
        if not count:
            role = "teacher" if student else "student"
            fault = _NO_MAPS.format(network=type(networks[role]).__name__)
            raise UserError(f"loss {name}: {fault}")
        # From the deepest: that is where networks of different depths correspond.
        both = zip(student[-count:], teacher[-count:], strict=True)
        listed = [{"student": one, "teacher": other} for one, other in both]
    pairs: list[Pair] = []
    for one in listed:
        places = one if isinstance(one, Mapping) else {"student": one, "teacher": one}
        try:
            pairs.append(
                (
                    _path(places["student"], named["student"], networks["student"]),
                    _path(places["teacher"], named["teacher"], networks["teacher"]),
                )
            )
        except KeyError as error:
            raise UserError(
                f"loss {name}: a layer of its term lacks {error}: give student and teacher"
            ) from None
        except UserError as error:
            raise UserError(f"loss {name}: {error}") from None
    return pairs


def _path(place: str, named: Mapping[str, str], network: nn.Module) -> str:
    stages = _stages(named)
    if place == FINAL and FINAL not in named:
        place = "last"
    if place == "last" and stages:
        return named[stages[-1]]
    if place in named:
        return named[place]
    try:
        module_at(network, place)
    except UserError as error:
        if place == "last":
            raise UserError(_NO_MAPS.format(network=type(network).__name__)) from None
        raise UserError(f"{error}; by name there are {', '.join(named) or 'none'}") from None
    return place


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _stages(named: Mapping[str, str]) -> list[str]:
    return [each for each in named if each.startswith(_STAGE)]


def _network(teacher: nn.Module) -> nn.Module:
    return teacher.network if isinstance(teacher, Teacher) else teacher


def _all(paths: Sequence[str], embedding: str | None) -> list[str]:
    return [*paths, *([embedding] if embedding else [])]


def _flat(maps: dict[str, Tensor], path: str | None) -> Tensor | None:
    return maps[path].flatten(1) if path is not None and path in maps else None
