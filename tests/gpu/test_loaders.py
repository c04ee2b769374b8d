"""Every loader's batches are made where they are needed, and nothing waits for them."""

from pathlib import Path

import pytest
import torch
from tests.data.streams import CLASSES, SMALL, write_folder
from tests.gpu.places import Place
from tests.support.detection_parts import scenes

from rlkd.data import StreamLoader
from rlkd.data.datasets import imagenet
from rlkd.data.detection.loader import DetectionLoader

pytestmark = pytest.mark.usefixtures("plainly")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("images"))


def test_streamed_batches_and_their_partners(images: Path, place: Place) -> None:
    train = imagenet(root=images, **SMALL).train
    loader = StreamLoader(
        train,
        batch_size=6,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        shuffle=True,
        strong_view=True,
        device=place.device,
    )
    partner = torch.full((len(train),), -1)
    partner[: len(train) // 2] = 1
    loader.partner = partner
    with place.without_waiting():
        for batch in loader:
            mixed = loader.partner_batch(batch)
            assert batch.strong is not None
            place.check(batch.image, batch.target, batch.index, batch.strong, mixed.image)
    assert train.num_classes == len(CLASSES)


def test_scenes_and_their_boxes(place: Place) -> None:
    loader = DetectionLoader(scenes(), batch_size=2, shuffle=True, flip=True, device=place.device)
    with place.without_waiting():
        batches = list(loader)
    for batch in batches:
        place.check(*batch.image, batch.index)
        place.check(*(each for boxes in batch.boxes for each in (boxes.box, boxes.label)))
    assert len(batches) == 4
