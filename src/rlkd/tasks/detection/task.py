"""Detection: images of sizes of their own, objects in boxes, regions as instances."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from torch import nn
from torchvision.models.detection import FasterRCNN

from rlkd import distributed, models
from rlkd.config.options import TrainerOptions
from rlkd.config.settings import asks_for_store, trusted_by
from rlkd.data.detection.coco_set import CocoSet
from rlkd.data.detection.loader import DetectionLoader
from rlkd.engine import build
from rlkd.engine.assembly import TaskParts, assemble
from rlkd.engine.class_names import check_order, check_run_order
from rlkd.engine.finished_run import require_student, with_weights
from rlkd.engine.forward import Forward
from rlkd.engine.module import EpochLoader, StudentModule
from rlkd.engine.rank_checks import require_same_data
from rlkd.engine.run_folder import RunFolder
from rlkd.engine.scoring import probe_for
from rlkd.engine.task import Asked, Exportable, Prepared
from rlkd.errors import UserError, notice
from rlkd.exploration import Explorer
from rlkd.losses import Objective
from rlkd.models import Teacher, create_detector
from rlkd.reporting import AnyScores, ImageCounts, class_by_class, in_full, print_cells
from rlkd.reporting.escaping import say
from rlkd.reporting.predictions import write_predictions
from rlkd.tasks.detection.data import (
    Held,
    check_sizes,
    data_sha256,
    detection_sets,
    example_batch,
    hold_out,
    require_objects,
    whole_batch,
)
from rlkd.tasks.detection.evaluate import (
    CocoResult,
    evaluate_detector,
    require_pycocotools,
    write_detections,
)
from rlkd.tasks.detection.export import exportable_detector
from rlkd.tasks.detection.forward import prepare_forward
from rlkd.tasks.detection.options import PRETRAINED, REPLACED, DetectionOptions
from rlkd.tasks.detection.predict import predict_images, prediction_rows
from rlkd.temperature import TemperatureSource
from rlkd.trust import TRUST

_ROLES = ("teacher", "student")
_SHOWN = 12
"""Test images on the page of predictions."""
_CLASSIFIER = "roi_heads.box_predictor."
_THRESHOLD = 0.5
"""The lowest score of what is predicted, unless the user says otherwise."""


class PreparedDetection(Prepared):
    """A detection run that is ready to train.

    Args:
        module: trains the student.
        held: the images, by their part in the run.
        options: of the run.
    """

    def __init__(self, module: StudentModule, held: Held, options: TrainerOptions) -> None:
        held_out = {"test": held.test, "validation": held.validation}
        super().__init__(
            module,
            {name: each for name, each in held_out.items() if each is not None},
            images=ImageCounts(
                training=len(held.train),
                probe=len(held.probe or ()),
                validation=len(held.validation or ()),
            ),
            sha256=data_sha256(held),
            class_names=held.train.output_names,
        )
        self.options, self._found = options, list[CocoResult]()

    def score(self, network: nn.Module, name: str) -> AnyScores:
        """Score a detector on a held-out set."""
        scored, found = _scored(_detector(network), self.held_out[name], self.options)
        if name == "test" and network is self.module.evaluated:
            self._found = found
        return scored

    def leave(self, folder: RunFolder) -> None:
        """Write all detections in the test set, and a page with the first of its images."""
        write_detections(folder.path / "detections.json", self._found)
        module = self.module.to(self.options.device)  # a trainer puts it back on the CPU
        test: CocoSet = self.held_out["test"]
        rows = prediction_rows(
            None if module.teacher is None else _detector(module.teacher),
            module.evaluated,
            test,
            range(min(_SHOWN, len(test))),
            device=self.options.device,
            autocast=self.options.mixed,
        )
        title = f"rlkd: {folder.path.name}, the first test images"
        write_predictions(folder.path / "predictions.html", rows, title)


@dataclass(frozen=True)
class Detection(DetectionOptions):
    """The task of detecting objects with two-stage detectors; see configs/task/detection.yaml."""

    def prepare(self, config: DictConfig, options: TrainerOptions) -> Prepared:
        """Load the data, make the detectors and find out whether all fits together."""
        require_pycocotools()
        if options.compile:
            raise UserError("trainer.compile is for task=classification: leave it at false")
        held = hold_out(config, options)
        sizes = {"training images": held.train.sizes, "test images": held.test.sizes}
        require_same_data(sizes, held.train.output_names)
        check_run_order(RunFolder(Path(config.output)), held.train.output_names)
        module = assemble(config, options, _Parts(self, config, held, options))
        return PreparedDetection(module, held, options)

    def score_checkpoints(
        self, config: DictConfig, options: TrainerOptions, console: Console
    ) -> dict[str, AnyScores]:
        """Score the checkpoints that are given on the test set, by role, and print them."""
        given = build.given_checkpoints(config, published=self.published)
        test = detection_sets(config).test
        require_objects(test, "test")
        scored: dict[str, AnyScores] = {}
        for role, node in given.items():
            made = self.network(node, role, test, trains=False).to(options.device)
            check_sizes(test, made)
            scored[role], _ = _scored(made, test, options)
            say(console, f"{role} {node.name}: {scored[role].summary} on {len(test)} test images")
        named = {role: [scores] for role, scores in scored.items()}
        print_cells(in_full(named), "COCO's average precisions", left=("network",), console=console)
        if (words := class_by_class(named)) is not None:
            print_cells(words, "AP of each class, %", left=("class",), console=console)
        return scored

    def validate(self, config: DictConfig) -> None:
        """Build all parts but the data."""
        build.objective(config)
        build.temperature(config, num_classes=3)
        for role in _ROLES:
            if config[role].name is not None:
                create_detector(
                    config[role].name,
                    num_classes=3,
                    trusted=trusted_by(config),
                    **self.detector_options,
                )
        maker, _ = build.scheduler(config)
        maker(build.optimizer(config)(nn.Linear(1, 1).parameters()))
        assert build.exploration_options(config.exploration).bands

    def predict(
        self, config: DictConfig, options: TrainerOptions, asked: Asked, console: Console
    ) -> None:
        """Write what the student finds in somebody's images, as JSON and as pictures."""
        images = self._student_data(config)
        student = self.network(config.student, "student", images, trains=False)
        predict_images(
            student.to(options.device),
            asked.images,
            class_names=images.class_names,
            category_ids=images.category_ids,
            output=asked.output,
            device=options.device,
            console=console,
            threshold=_THRESHOLD if asked.threshold is None else asked.threshold,
            skip_unreadable=asked.skip_unreadable,
            autocast=options.mixed,
        )

    def exportable(
        self, config: DictConfig, options: TrainerOptions, run: Path | None
    ) -> Exportable:
        """Make the student ready to be written, on the CPU; compared on images of its data."""
        images = self._student_data(config)

        def make(path: Path | None) -> nn.Module:
            return self.network(with_weights(config.student, path), "student", images, trains=False)

        form = {**self.detector_options, **REPLACED[self.student_pretrained]}
        return exportable_detector(config.student.name, form, make, images)

    def network(
        self, node: DictConfig, role: str, images: CocoSet, *, trains: bool = True
    ) -> FasterRCNN:
        """Make a detector for the data, with the weights of its checkpoint if it has one.

        Args:
            node: the `teacher` or `student` node.
            role: its name, for messages.
            images: give the classes.
            trains: whether it goes on learning; if not, a checkpoint stands in for published
                weights, which then are not fetched.

        Raises:
            UserError: if it has no name, or its weights do not fit or are of another class order.
        """
        if node.name is None:
            raise UserError(f"{role}.name is missing: give {role}=fasterrcnn_resnet18, say")
        if asks_for_store(node.get("cache")):
            raise UserError(
                f"{role}.cache={node.cache}: a detector's teacher scores the regions that the "
                "student proposes, which are new in each step: leave it at null"
            )
        if node.get("image_size") is not None:
            raise UserError(
                f"{role}.image_size={node.image_size}: a detector resizes images itself: leave it "
                "at null, and give task.detector.min_size"
            )
        given = getattr(self, f"{role}_pretrained")
        further = {**self.detector_options, **PRETRAINED[given]}
        if not trains and node.checkpoint is not None:
            further = {**self.detector_options, **REPLACED[given]}
        if node.get("classes") is not None:
            raise UserError(f"{role}.classes is for task=classification: leave it at null")
        if node.get("also") is not None:
            raise UserError("teacher.also is for task=classification: leave it at null")
        path = None if node.checkpoint is None else Path(node.checkpoint)
        head = build.new_head(node, role)
        try:
            made = create_detector(
                node.name,
                num_classes=images.num_classes,
                trusted=OmegaConf.select(node, f"..{TRUST}") or (),
                **further,
            )
            if path is not None:
                classifier = [k for k in made.state_dict() if k.startswith(_CLASSIFIER)]
                loaded = models.load_weights(
                    made, path, classifier=(lambda: classifier) if head else None
                )
                if loaded.note:
                    notice(f"{role} {path}: {loaded.note}")
                if not head:
                    check_order(path, images.output_names)
        except models.ClassCountError as error:
            by_id = "; data.keep_ids=true numbers classes as COCO does, 91 in all"
            new = "; student.head=new takes all but the classifier" if role == "student" else ""
            raise UserError(
                f"{role}: {error} (the background counts){by_id if error.found == 91 else ''}{new}"
            ) from None
        except UserError as error:
            raise UserError(f"{role}: {error}") from None
        return made

    def _student_data(self, config: DictConfig) -> CocoSet:
        require_student(config, published=self.published)
        return detection_sets(config).test


class _Parts(TaskParts):
    mixes = False

    def __init__(
        self, task: Detection, config: DictConfig, held: Held, options: TrainerOptions
    ) -> None:
        self.task, self.config, self.held, self.options = task, config, held, options
        self.instances, self.num_classes = len(held.train), held.train.num_classes

    def student(self) -> nn.Module:
        held = self.held
        made = self.task.network(self.config.student, "student", held.train)
        for images in (held.train, held.test, held.validation, held.probe):
            if images is not None:
                check_sizes(images, made)
        return made

    def teacher(self, objective: Objective) -> Teacher:
        node = self.config.teacher
        if node.name is None:
            raise UserError(
                "this method needs a teacher: give teacher=fasterrcnn_resnet50, or method=alone"
            )
        if node.checkpoint is None and "teacher" not in self.task.published:
            raise UserError(
                f"the teacher {node.name} has no weights: give teacher.checkpoint=FILE (make one "
                f"with `rlkd train task=detection student={node.name} ...`)"
            )
        loaded = self.task.network(node, "teacher", self.held.train, trains=False)
        return Teacher(loaded, sha256=models.weights_sha256(loaded))

    def forward_pass(
        self,
        objective: Objective,
        student: nn.Module,
        teacher: Teacher | None,
        temperature: TemperatureSource | None,
        explorer: Explorer | None,
    ) -> Forward:
        if temperature is not None:
            self._check_reward(temperature)
        looks_ahead = temperature is not None and temperature.held_out is not None
        held = self.held.probe
        probe = None if held is None else whole_batch(held, self.options.device)
        return prepare_forward(
            objective,
            cast(FasterRCNN, student),
            teacher,
            batch=example_batch(self.held.train),
            num_classes=self.num_classes,
            temperature=temperature,
            # What looks ahead is refused, and needs none.
            probe=None if looks_ahead else probe_for(temperature, probe),
            measured=self.task.performance,
        )

    def loader(self, objective: Objective) -> EpochLoader:
        return DetectionLoader(
            self.held.train,
            batch_size=self.options.batch_size,
            shuffle=True,
            seed=self.config.seed,
            flip=self.task.flip,
            group_by_aspect=self.task.group_by_aspect,
            workers=self.task.workers,
            device=self.options.device,
            part=distributed.this_rank(),
            passes=self.options.accumulate,
        )

    def _check_reward(self, temperature: TemperatureSource) -> None:
        """Refuse a reward whose one measurement would be a loss and the other an accuracy."""
        source = self.config.temperature.get("reward_source")
        if self.task.performance == "loss" and source and not temperature.needs_probe:
            raise UserError(
                f"task.performance=loss is measured on a probe, not by reward_source={source}: "
                "give temperature.reward_source=probe, or task.performance=foreground"
            )


def _detector(network: nn.Module) -> nn.Module:
    return network.network if isinstance(network, Teacher) else network


def _scored(
    network: nn.Module, images: CocoSet, options: TrainerOptions
) -> tuple[AnyScores, list[Any]]:
    return evaluate_detector(
        network.to(options.device), images, device=options.device, autocast=options.mixed
    )
