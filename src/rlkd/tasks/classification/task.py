"""Classification: images of one size, a label each."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import torch
from omegaconf import DictConfig
from rich.console import Console
from torch import nn

from rlkd import arguments, distributed, models
from rlkd.config.settings import asks_for_store, trusted_by
from rlkd.data import BatchLoader
from rlkd.data.dataset import Dataset
from rlkd.data.transforms.mixing import Mix, Mixing
from rlkd.engine import build
from rlkd.engine.assembly import TaskParts, assemble
from rlkd.engine.class_names import check_run_order
from rlkd.engine.compile import compiled
from rlkd.engine.finished_run import require_student, with_weights
from rlkd.engine.forward import Forward, rehearsed_temperatures
from rlkd.engine.module import StudentModule
from rlkd.engine.normalisation import renormalisation, resolution
from rlkd.engine.rank_checks import require_same_data
from rlkd.engine.run_folder import RunFolder
from rlkd.engine.scoring import probe_for
from rlkd.engine.task import Asked, Exportable, Prepared
from rlkd.errors import UserError, notice
from rlkd.exploration import Explorer
from rlkd.losses import Objective
from rlkd.models import Teacher
from rlkd.reporting import AnyScores, ImageCounts
from rlkd.reporting.escaping import say
from rlkd.reporting.results.files import read_fields, write_fields
from rlkd.reporting.results.scores import Scores
from rlkd.tasks.classification.data import (
    Sets,
    class_weights,
    count_readable,
    data_sha256,
    example_batch,
    leave_unreadable,
    load_dataset,
    load_sets,
    probe_batch,
    share_unreadable,
    take_up_unreadable,
    train_loader,
)
from rlkd.tasks.classification.evaluate import score
from rlkd.tasks.classification.export import exportable_classifier
from rlkd.tasks.classification.forward import Labels, Upcoming, prepare_forward
from rlkd.tasks.classification.predict import predict_classes
from rlkd.tasks.classification.preprocessing import keep_preprocessing, kept_preprocessing
from rlkd.tasks.classification.stored import stored_for
from rlkd.teacher_cache.stored import StoredTeacher
from rlkd.temperature import TemperatureSource
from rlkd.types import Batch


@dataclass(frozen=True)
class Classification:
    """The task of classifying images.

    Args:
        base_temperature: T of the constant source, and what the agent starts from.
        probe_size: images held out of training for a reward that is measured on a probe, unless
            `probe.size` says otherwise.
        max_instances: of a batch in the agent's trajectory, unless the source says otherwise; None
            for all.
        label_smoothing: of the cross-entropy with the labels, in [0, 1); rewards, look-aheads and
            scores know none.
        class_weights: what each class's part of it is multiplied by, above 0, in the order of the
            classes; `balanced` for n / (classes * images of the class), as scikit-learn has it;
            None for 1.
        mix: `mixup` or `cutmix`, see `Mixing`: the images of each training batch are mixed, and a
            teacher sees what the student sees. Probes and look-aheads see images as they are.
        mix_alpha: of the distribution of the shares, above 0.

    Raises:
        UserError: for a number out of range.
    """

    base_temperature: float
    probe_size: int
    max_instances: int | None
    label_smoothing: float
    class_weights: list[float] | str | None
    mix: Mix | None
    mix_alpha: float

    def __post_init__(self) -> None:
        arguments.number("task.base_temperature", self.base_temperature, above=0)
        arguments.count("task.probe_size", self.probe_size, least=0)
        arguments.count("task.max_instances", self.max_instances, optional=True)
        arguments.number("task.label_smoothing", self.label_smoothing, least=0, below=1)
        if self.mix not in (None, *get_args(Mix)):
            raise UserError(f"task.mix={self.mix}: choose one of {', '.join(get_args(Mix))}, null")
        arguments.number("task.mix_alpha", self.mix_alpha, above=0)
        given = self.class_weights
        if isinstance(given, list):
            for each in given:
                arguments.number("task.class_weights", each, above=0)
        elif given not in (None, "balanced"):
            raise UserError(
                f"task.class_weights={given}: give a number for each class, balanced or null"
            )

    def prepare(self, config: DictConfig, options: build.TrainerOptions) -> Prepared:
        """Load the data, make the networks and find out whether all fits together."""
        sets = load_sets(config, options)
        require_same_data(
            {"training images": sets.train.target, "test images": sets.test.target},
            sets.dataset.class_names,
        )
        folder = RunFolder(Path(config.output))
        check_run_order(folder, sets.dataset.class_names)
        parts = _Parts(self, config, sets, options)
        module = assemble(config, options, parts)
        for line in _cautions(self, sets, options, taught=module.teacher is not None):
            notice(line)
        compiled(module, options, teacher=parts.stored is None)
        return PreparedClassification(module, sets, options, folder, parts.stored)

    def score_checkpoints(
        self, config: DictConfig, options: build.TrainerOptions, console: Console
    ) -> dict[str, AnyScores]:
        """Score the checkpoints that are given on the test set, by role, and print them."""
        given = build.given_checkpoints(config)
        sets = load_sets(config, options)
        scored: dict[str, AnyScores] = {}
        for role, node in given.items():
            several = node.get("also") and build.teacher(node, sets.dataset, options, fuse=False)
            made = several or build.network(node, role, sets.dataset)
            if role == "teacher" and not several:
                made = Teacher(
                    made,
                    renormalise=renormalisation(node, sets.dataset),
                    image_size=resolution(node),
                )
            made = made.to(options.device)
            made = made.to(memory_format=options.memory_format)  # pyright: ignore[reportCallIssue]
            scores = score(made, sets.test, sets.dataset, options)
            scored[role] = scores
            say(
                console,
                f"{role} {node.name}: {scores.summary}, loss {scores.loss:.4f} "
                f"on {count_readable(sets.test, sets.dataset)} test images",
            )
            written = models.read_metadata(str(node.checkpoint)).get("accuracy")
            if isinstance(written, int | float) and 0 <= written <= 100:
                percent = written if written > 1 else 100 * written
                say(console, f"  its file says {percent:.2f} %")
            say(console, f"  hardest classes: {scores.hardest}")
        for line in _remarks(sets.dataset):
            say(console, line)
        return scored

    def validate(self, config: DictConfig) -> None:
        """Build all parts but the data, on small stand-ins."""
        made, source = build.objective(config), build.temperature(config, num_classes=100)
        student, teacher = (
            None
            if config[role].name is None
            else models.create(config[role].name, num_classes=100, trusted=trusted_by(config))
            for role in ("student", "teacher")
        )
        if student is not None and teacher is not None:
            image, row = torch.randn(8, 3, 32, 32), torch.arange(8)
            batch = Batch(image, row, row, image.flip(3) if made.strong else None)
            targets = torch.arange(100).repeat(2)
            forward_pass = prepare_forward(
                made,
                student,
                teacher,
                batch=batch,
                train_targets=targets,
                num_classes=100,
                temperature=source,
            )
            seen = forward_pass(batch).inputs
            assert seen.teacher_logits is not None
            temperatures = rehearsed_temperatures(source, seen)
            made(replace(seen, temperature=temperatures))
        build.scheduler(config)[0](build.optimizer(config)(nn.Linear(1, 1).parameters()))
        assert build.exploration_options(config.exploration).bands

    def predict(
        self, config: DictConfig, options: build.TrainerOptions, asked: Asked, console: Console
    ) -> None:
        """Write the likeliest classes of somebody's images."""
        require_student(config)
        kept = None if asked.run is None else kept_preprocessing(RunFolder(asked.run))
        dataset = kept or load_dataset(config)
        student = build.network(config.student, "student", dataset)
        predict_classes(student, dataset, options, asked, console)

    def exportable(
        self, config: DictConfig, options: build.TrainerOptions, run: Path | None
    ) -> Exportable:
        """Make the student ready to be written, on the CPU; a run's also where its data are not."""
        require_student(config)
        try:
            dataset = load_dataset(config)
        except UserError as error:
            kept = None if run is None else kept_preprocessing(RunFolder(run))
            if kept is None:
                raise
            notice(f"{error}; without images, files are compared on random pixels")
            dataset = kept

        def make(path: Path | None) -> nn.Module:
            return build.network(with_weights(config.student, path), "student", dataset)

        return exportable_classifier(config.student.name, make, dataset, options)


class PreparedClassification(Prepared):
    """A classification run that is ready to train.

    Args:
        module: trains the student.
        sets: the images, by their part in the run.
        options: of the run.
        folder: of the run.
        stored: keeps the teacher's logits; None where nothing does.
    """

    def __init__(
        self,
        module: StudentModule,
        sets: Sets,
        options: build.TrainerOptions,
        folder: RunFolder,
        stored: StoredTeacher | None = None,
    ) -> None:
        # The probe's loss beside the test split's shows whether rewards fit its images.
        held_out = {"test": sets.test, "validation": sets.validation, "probe": sets.probe}
        super().__init__(
            module,
            {name: each for name, each in held_out.items() if each is not None},
            images=_counted(sets, module.explorer, options.epochs),
            sha256=data_sha256(sets.dataset),
            class_names=sets.dataset.class_names,
        )
        self.dataset, self.train, self.options = sets.dataset, sets.train, options
        self.folder, self.stored = folder, stored
        self._lost = 0
        """Images that are known to be no image."""

    def score(self, network: nn.Module, name: str) -> AnyScores:
        """Score a network on a held-out set."""
        return score(network, self.held_out[name], self.dataset, self.options)

    def teacher_scores(self) -> AnyScores | None:
        """Score the teacher on the test set, or read what was kept of an earlier time."""
        if self.stored is None:
            return super().teacher_scores()
        store = self.stored.store
        path = store.scores(f"{self.sha256}, {self.dataset.evaluation}")
        if distributed.on_rank_zero(path.is_file):
            return read_fields(Scores, path, "remove it")
        scores = super().teacher_scores()

        def keep() -> None:
            with suppress(UserError):  # of a folder that may not be written, or is full
                if store.records.writable:
                    write_fields(path, scores)

        distributed.on_rank_zero(keep)
        return scores

    def scores(self) -> dict[str, AnyScores]:
        """Score the student on each held-out set, and write which images cannot be decoded.

        Those are not counted as trained on any more.
        """
        scored, met = super().scores(), self.dataset.unreadable
        share_unreadable(self.dataset)
        if met is not None and len(met.places) > self._lost:
            self._lost = len(met.places)
            self.images = replace(self.images, training=count_readable(self.train, self.dataset))
        distributed.on_rank_zero(lambda: self.leave(self.folder))
        return scored

    def enter(self, folder: RunFolder) -> None:
        """Write what a prediction needs, and take up which images could not be decoded earlier."""
        super().enter(folder)
        keep_preprocessing(folder, self.dataset)
        take_up_unreadable(folder, self.dataset)

    def leave(self, folder: RunFolder) -> None:
        """Write which images cannot be decoded."""
        leave_unreadable(folder, self.dataset)

    def remarks(self) -> list[str]:
        """Return how many images it is scored on, the loss on the probe, and what was skipped."""
        scored = f"scored on {len(self.dataset.test):,} test images"
        return [scored, *_probe_remark(self.module, self.images), *_remarks(self.dataset)]


def _cautions(
    task: Classification, sets: Sets, options: build.TrainerOptions, *, taught: bool
) -> Iterator[str]:
    if options.batch_size > len(sets.train):
        yield (
            f"trainer.batch_size={options.batch_size} is above the {len(sets.train)} training "
            "images: an epoch is one step"
        )
    if taught and task.class_weights is not None:
        yield (
            "task.class_weights is of the labels' term alone, and a student learns to neglect what "
            "its teacher neglects: a teacher is best trained with them too"
        )


def _counted(sets: Sets, explorer: Explorer | None, epochs: int) -> ImageCounts:
    return ImageCounts(
        training=len(sets.train),
        probe=len(sets.probe or ()),
        validation=len(sets.validation or ()),
        mixed=0 if explorer is None else explorer.mixed_rows,
        mixed_epochs=0 if explorer is None else explorer.mixed_epochs(epochs),
    )


def _probe_remark(module: StudentModule, images: ImageCounts) -> list[str]:
    last, forward = module.history[-1], module.forward_pass
    if "probe/loss" not in last or getattr(forward, "probe", None) is None:
        return []
    return [
        f"loss on the probe's {images.probe} images, which rewards are measured on: "
        f"{last['probe/loss']:.4f}; on the test split: {last['test/loss']:.4f}"
    ]


def _remarks(dataset: Dataset) -> list[str]:
    unreadable = dataset.unreadable
    return [unreadable.note] if unreadable is not None and unreadable.note else []


class _Parts(TaskParts):
    mixes = True

    def __init__(
        self,
        task: Classification,
        config: DictConfig,
        sets: Sets,
        options: build.TrainerOptions,
    ) -> None:
        self.task, self.config, self.sets, self.options = task, config, sets, options
        self.instances, self.num_classes = len(sets.train), sets.dataset.num_classes
        self.stored: StoredTeacher | None = None
        if task.mix is not None:
            self.mixing = Mixing(
                task.mix, alpha=task.mix_alpha, num_classes=self.num_classes, seed=config.seed
            )
        self._loader: BatchLoader | None = None

    def student(self) -> nn.Module:
        made = build.network(self.config.student, "student", self.sets.dataset, trains=True)
        layout = self.options.memory_format
        return made.to(memory_format=layout)  # pyright: ignore[reportCallIssue]

    def teacher(self, objective: Objective) -> Teacher:
        node, fuse = self.config.teacher, not objective.taps
        made = build.teacher(node, self.sets.dataset, self.options, fuse=fuse)
        if made is None:
            raise UserError("this method needs a teacher: give teacher=resnet56, or method=alone")
        if node.get("also") and objective.taps:
            raise UserError(
                "several teachers give the mean of their logits alone, and this method asks for a "
                "teacher's features: leave teacher.also out, or give method=kd"
            )
        return made

    def forward_pass(
        self,
        objective: Objective,
        student: nn.Module,
        teacher: Teacher | None,
        temperature: TemperatureSource | None,
        explorer: Explorer | None,
    ) -> Forward:
        if self.mixing is not None and explorer is not None:
            raise UserError(
                f"task.mix={self.task.mix} mixes every image, and exploration ranks them by what "
                "the student makes of each: give exploration.enabled=false, or task.mix=null"
            )
        by_row = [name for name, each in objective.asked.items() if "index" in each.when_called]
        if self.mixing is not None and by_row:
            raise UserError(
                f"task.mix={self.task.mix} makes one image of two, and loss {', '.join(by_row)} "
                "remembers each by its own row: give task.mix=null, or choose another method"
            )
        upcoming = build.probe_options(self.config.probe).upcoming
        probe = None
        if not upcoming:
            probe = probe_for(temperature, probe_batch(self.sets, self.options))
        forward = prepare_forward(
            objective,
            student,
            teacher,
            batch=example_batch(self.sets, self.options, strong_view=objective.strong),
            train_targets=self.sets.train.target,
            num_classes=self.num_classes,
            temperature=temperature,
            mixes=self.mixing is not None or (explorer is not None and explorer.mixed_rows > 0),
            probe=probe,
            looked_at=self.options.batch_size,
            labels=Labels(
                self.task.label_smoothing, class_weights(self.task.class_weights, self.sets)
            ),
        )
        if upcoming and temperature is not None and temperature.held_out is not None:
            forward.ahead = Upcoming(student, self.loader(objective), temperature.held_out)
        if teacher is None or not asks_for_store(self.config.teacher.get("cache")):
            return forward
        if forward.needs_features:
            notice(
                "teacher.cache keeps logits alone, and this method asks for the teacher's features "
                "too: its network runs in every step"
            )
            return forward
        if self.mixing is not None:
            notice(
                "teacher.cache keeps logits of images as they are, and task.mix mixes them: the "
                "teacher's network runs in every step"
            )
            return forward
        loader = self.loader(objective)
        self.stored = forward.stored = stored_for(
            self.config, self.sets, self.options, teacher, loader
        )
        return forward

    def loader(self, objective: Objective) -> BatchLoader:
        if self._loader is None:
            seed, strong = self.config.seed, objective.strong
            self._loader = train_loader(self.sets, self.options, seed=seed, strong_view=strong)
        return self._loader
