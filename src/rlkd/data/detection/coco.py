"""Images with boxes in COCO's format, from any folder and annotation file."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from rlkd.data.detection.annotation_checks import read_tables
from rlkd.data.detection.coco_set import CocoSet
from rlkd.data.detection.images import FolderImages, check_files
from rlkd.errors import UserError


class DetectionSets:
    """Images to train and to test on; each is read when it is first asked for.

    Args:
        train: the images to train on, or what reads them.
        test: those to test on, or what reads them.
        name: of the data.
    """

    def __init__(
        self,
        train: CocoSet | Callable[[], CocoSet],
        test: CocoSet | Callable[[], CocoSet],
        name: str = "coco",
    ) -> None:
        self.name = name
        self._train, self._test = train, test

    @cached_property
    def test(self) -> CocoSet:
        """Images to test on.

        Raises:
            UserError: if they are missing or broken.
        """
        return self._test if isinstance(self._test, CocoSet) else self._test()

    @cached_property
    def train(self) -> CocoSet:
        """Images to train on.

        Raises:
            UserError: if they are missing or broken, or have other categories than the test set.
        """
        train = self._train if isinstance(self._train, CocoSet) else self._train()
        odd = sorted(train.categories.items() ^ self.test.categories.items())
        if odd:
            identity, name = odd[0]
            has, lacks = "training", "test"
            if train.categories.get(identity) != name:
                has, lacks = lacks, has
            raise UserError(
                f"category {name} with the id {identity} is in the {has} annotations but not in "
                f"the {lacks} ones: give both files the same categories"
            )
        return train

    @property
    def num_classes(self) -> int:
        """How many classes a detector tells apart, the background included."""
        return self.test.num_classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the labels 1, 2, ... are called."""
        return self.test.class_names


def read_coco(images: Path, annotations: Path, *, keep_ids: bool = False) -> CocoSet:
    """Read an annotation file, and find its images in a folder without decoding them.

    Args:
        images: the folder that the file's names start from.
        annotations: a JSON file of COCO's detection format.
        keep_ids: whether labels are the categories' ids, as weights published for COCO have them;
            otherwise they are 1, 2, ... in the order of the ids.

    Raises:
        UserError: if the file is missing or broken, a box is none, or an image is missing.

    Source: T.-Y. Lin et al., "Microsoft COCO: Common Objects in Context" (ECCV 2014); the format
    is described at cocodataset.org/#format-data.
    """
    table, objects, categories = read_tables(annotations)
    check_files(images, annotations, table)
    return CocoSet(FolderImages(images, table), table, objects, categories, keep_ids=keep_ids)


def coco(
    root: str | Path,
    train_images: str = "train2017",
    train_annotations: str = "annotations/instances_train2017.json",
    test_images: str = "val2017",
    test_annotations: str = "annotations/instances_val2017.json",
    keep_ids: bool = False,
) -> DetectionSets:
    """Read COCO, or a set of one's own in its format.

    Args:
        root: the folder; `~` is the home folder.
        train_images: folder of the training images, from `root` on.
        train_annotations: their annotation file, from `root` on.
        test_images: folder of the test images, from `root` on.
        test_annotations: their annotation file, from `root` on.
        keep_ids: whether labels are the categories' ids, as weights published for COCO have them.

    Returns:
        The two sets. What only scores or predicts never reads the training images.

    Raises:
        UserError: if `root` is no folder; by the sets, if a file is missing or broken, or the two
            files name different categories.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise UserError(f"no folder {root}: fix data.root")

    def reader(part: str, images: str, annotations: str) -> Callable[[], CocoSet]:
        def read() -> CocoSet:
            for option, path in ((f"{part}_images", images), (f"{part}_annotations", annotations)):
                if not (root / path).exists():
                    raise UserError(
                        f"{root} has no {path}: fix data.root, or give data.{option}=PATH"
                    )
            return read_coco(root / images, root / annotations, keep_ids=keep_ids)

        return read

    return DetectionSets(
        train=reader("train", train_images, train_annotations),
        test=reader("test", test_images, test_annotations),
    )
