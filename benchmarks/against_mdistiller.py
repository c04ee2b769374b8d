"""How fast training is, against mdistiller's own loop and the conventional recipe. R56 -> R20.

mdistiller's trainer, distiller, networks and augmentation run from a checkout that the user names,
https://github.com/megvii-research/mdistiller; on a CPU its calls that move tensors to a GPU do
nothing. Its images are the same ones, in the arrays that torchvision's CIFAR-100 class holds. What
it needs for logs alone stands in for where it is not installed. See `throughput.py` for the rest.

    python benchmarks/against_mdistiller.py CHECKOUT
"""

import importlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import torch
from torch.utils.data import DataLoader

from steps import random_images
from throughput import BATCH, Conventional, measured, parser


class Mdistiller:
    """Steps of mdistiller's trainer, its progress bar and meters included.

    Args:
        checkout: the folder of its repository.
        student: name of the student.
        images: size of the training set.
    """

    def __init__(self, checkout: Path, student: str, images: int = 4096) -> None:
        sys.path.insert(0, str(checkout))
        for name in ("tensorboardX", "wandb", "yacs", "yacs.config", "tqdm"):
            try:
                importlib.import_module(name)
            except ImportError:
                sys.modules[name] = MagicMock()
        if not torch.cuda.is_available():
            # their loop moves each tensor to a GPU
            torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
        engine = importlib.import_module("mdistiller.engine.trainer")
        networks = importlib.import_module("mdistiller.models").cifar_model_dict
        distillers = importlib.import_module("mdistiller.distillers").distiller_dict
        data = importlib.import_module("mdistiller.dataset.cifar100")
        torch.manual_seed(0)
        drawn = random_images(images)
        held = data.CIFAR100Instance.__new__(data.CIFAR100Instance)
        held.data = drawn.image.permute(0, 2, 3, 1).contiguous().numpy()
        held.targets = drawn.target.tolist()
        held.transform, held.target_transform = data.get_cifar100_train_transform(), None
        held.train = True
        self.loader = DataLoader(
            held, batch_size=BATCH, shuffle=True, num_workers=2, drop_last=True
        )
        settings: Any = MagicMock()
        settings.KD.TEMPERATURE, settings.KD.LOSS.CE_WEIGHT = 4, 0.1
        settings.KD.LOSS.KD_WEIGHT = 0.9
        settings.SOLVER.TYPE, settings.SOLVER.LR = "SGD", 0.05
        settings.SOLVER.MOMENTUM, settings.SOLVER.WEIGHT_DECAY = 0.9, 5e-4
        settings.LOG.PREFIX = tempfile.mkdtemp()
        pair = (networks[name][0](num_classes=100) for name in (student, "resnet56"))
        distiller = torch.nn.DataParallel(distillers["KD"](*pair, settings))
        self.trainer = engine.BaseTrainer("throughput", distiller, self.loader, None, settings)
        distiller.train()
        self.meters = {
            name: engine.AverageMeter()
            for name in ("training_time", "data_time", "losses", "top1", "top5")
        }
        self._batches = self._endless()

    def __call__(self, count: int) -> None:
        """Do some steps."""
        for _ in range(count):
            self.trainer.train_iter(next(self._batches), 1, self.meters)

    def _endless(self) -> Iterator[Any]:
        while True:
            yield from self.loader


def main() -> None:
    made = parser(__doc__ or "", "benchmarks/results/against_mdistiller.json")
    made.add_argument("checkout", type=Path, help="folder of mdistiller's repository")
    arguments = made.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    others = {
        "mdistiller": Mdistiller(arguments.checkout, arguments.student),
        "conventional, fp32": Conventional(device, student=arguments.student),
    }
    measured(others, arguments, "against_mdistiller.py")


if __name__ == "__main__":
    main()
