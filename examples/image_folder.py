"""A timm student from a torchvision teacher, on an image folder of your own.

python examples/image_folder.py [FOLDER TEACHER]

FOLDER holds train/CLASS/*.png (or .jpg) and test/CLASS/*.png; TEACHER is a checkpoint of
torchvision's resnet18 for its classes. Without them it draws images and trains a teacher.
"""

import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw

import rlkd
from rlkd.engine.run import train
from rlkd.reporting import Result

TEACHER, STUDENT = "torchvision:resnet18", "timm:resnet10t"
FRUIT = {"apple": (200, 40, 40), "lemon": (230, 210, 60), "plum": (110, 50, 130)}


def main(
    folder: str | None = None,
    checkpoint: str | None = None,
    *,
    output: str | Path | None = None,
    epochs: int = 4,
) -> Result:
    """Distil by attention transfer and KD, at the agent's temperatures; say where the student is.

    Args:
        folder: the images; None for drawn ones.
        checkpoint: the teacher's weights; None to train it first.
        output: takes all that is made; None for a new temporary folder.
        epochs: of teacher and student, enough for drawn images.
    """
    work = Path(output or tempfile.mkdtemp(prefix="rlkd_"))
    data = ["data=folder", f"data.root='{folder or draw_images(work / 'images')}'"]
    data += ["data.image_size=32", "trainer.batch_size=8", "optimizer.lr=0.02"]
    data += [f"trainer.epochs={epochs}"]
    if checkpoint is None:
        train([*data, f"student={TEACHER}", f"output='{work / 'teacher'}'"])
        checkpoint = str(work / "teacher" / "student.safetensors")
    result = rlkd.distill(
        [
            *data,
            f"teacher={TEACHER}",
            f"teacher.checkpoint='{checkpoint}'",
            f"student={STUDENT}",
            "method=at",  # maps of both networks, by module path; neither is changed
            "temperature=rlkd",
            f"output='{work / 'student'}'",
            # So few steps want a small probe, often: with 1,000 images or more leave these out.
            "probe.size=12",
            "temperature.probe_interval=1",
            "temperature.update_interval=4",
        ]
    )
    print(f"student {100 * result.test.top1:.1f} %, in {work / 'student' / 'student.safetensors'}")
    return result


def draw_images(folder: Path) -> Path:
    """Draw fruit, here and there, in brighter and darker places; 20 of each to train on."""
    for split, count in (("train", 20), ("test", 8)):
        for name, colour in FRUIT.items():
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                x, y, grey = 3 + number % 18, 2 + number % 11, 11 * number
                image = Image.new("RGB", (40, 32), (grey, grey, grey))
                ImageDraw.Draw(image).ellipse((x, y, x + 16, y + 16), colour)
                image.save(folder / split / name / f"{number}.png")
    return folder


if __name__ == "__main__":
    main(*sys.argv[1:])
