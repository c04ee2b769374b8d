"""Data, checkpoints and folders that do not fit: one line, exit code 2, nothing harmed."""

import io
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from tests.support.refusal import Refuse, assert_told, pictures
from tests.support.runs import SOURCES, tiny

from rlkd import models
from rlkd.cli import main
from rlkd.engine.run_folder import RunFolder
from rlkd.models import save_weights

pytestmark = pytest.mark.usefixtures("plainly")


def without(key: str, settings: list[str]) -> list[str]:
    return [each for each in settings if each.partition("=")[0] != key]


def test_a_missing_data_folder_is_named(refuse: Refuse, teacher_file: Path, tmp_path: Path) -> None:
    settings = without("data.limit", tiny(teacher_file, tmp_path / "run"))
    absent = tmp_path / "absent"
    told = refuse("distill", *settings, "data=cifar100", f"data.root={absent}", "student=resnet8")
    assert f"no folder {absent}: fix data.root, or give data.download=true" in told
    told = refuse("distill", *settings, "data=folder", f"data.root={absent}", "data.image_size=8")
    assert str(absent) in told
    assert_told(refuse("distill", *settings, "data=cifar100"), "data.root is missing: give data")


def test_a_corrupt_image_is_named(refuse: Refuse, teacher_file: Path, tmp_path: Path) -> None:
    root = pictures(tmp_path)
    corrupt = root / "train" / "dog" / "1.png"
    corrupt.write_bytes(corrupt.read_bytes()[:40])
    settings = without("data.limit", tiny(teacher_file, tmp_path / "run"))
    told = refuse("distill", *settings, "data=folder", f"data.root={root}", "data.image_size=8")
    assert f"{corrupt} cannot be decoded" in told


def test_a_corrupt_row_of_parquet_is_named_with_its_file(
    refuse: Refuse, teacher_file: Path, tmp_path: Path
) -> None:
    content = io.BytesIO()
    Image.new("RGB", (32, 32)).save(content, format="PNG")
    cells = [{"bytes": content.getvalue(), "path": None} for _ in range(10)]
    for split in ("train", "test"):
        if split == "test":
            cells[7] = {"bytes": b"\x89PNG, not", "path": None}
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        table = pa.table({"img": pa.array(cells, type=kind), "label": list(range(10))})
        pq.write_table(table, tmp_path / f"{split}.parquet")
    settings = without("data.limit", tiny(teacher_file, tmp_path / "run"))
    told = refuse("distill", *settings, "data=cifar10", f"data.root={tmp_path}")
    assert f"{tmp_path / 'test.parquet'}, row 7 cannot be decoded (it is none of" in told


def test_a_teacher_that_does_not_fit_is_refused(
    refuse: Refuse, teacher_file: Path, tmp_path: Path
) -> None:
    def told(file: Path) -> str:
        return refuse("distill", *tiny(file, tmp_path / "run", "temperature=constant"))

    assert f"{tmp_path / 'absent.pth'}: no such file" in told(tmp_path / "absent.pth")
    other = tmp_path / "other.safetensors"
    save_weights(models.create("convnet_tiny", num_classes=10, in_channels=1), other)
    assert "another architecture than this SmallConvNet: layers.0.0.weight" in told(other)
    save_weights(models.create("convnet_small", num_classes=100, in_channels=1), other)
    assert "checkpoint has 100 classes, the data 10" in told(other)
    torch.save({"model": models.create("convnet_small", num_classes=10)}, tmp_path / "code.pth")
    assert "holds pickled code" in told(tmp_path / "code.pth")
    other.write_bytes(b"no weights")
    assert "is not a checkpoint" in told(other)


def test_a_teacher_without_weights_teaches_nothing(refuse: Refuse, tmp_path: Path) -> None:
    settings = without("teacher.checkpoint", tiny(tmp_path, tmp_path / "run"))
    settings.append("temperature=constant")
    assert_told(refuse("distill", *settings), "the teacher convnet_small has no weights: give")
    assert_told(refuse("distill", *settings, "teacher=none"), "this method needs a teacher")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_an_absent_gpu_is_refused(refuse: Refuse, teacher_file: Path, tmp_path: Path) -> None:
    settings = tiny(teacher_file, tmp_path / "run", "trainer.accelerator=gpu")
    assert_told(refuse("distill", *settings), "accelerator=gpu, but torch sees no GPU here: use")


def test_a_run_folder_is_nobody_elses(refuse: Refuse, teacher_file: Path, tmp_path: Path) -> None:
    settings = tiny(teacher_file, tmp_path / "run", *SOURCES["constant"], "trainer.epochs=1")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    assert_told(refuse("distill", *settings), "run holds files that are no run of rlkd: give ano")
    (tmp_path / "run" / "thesis.tex").unlink()
    assert main(["distill", *settings]) == 0
    assert_told(refuse("distill", *settings, "seed=1"), "run already holds a different run")
    (tmp_path / "file").write_text("a file")
    told = refuse("distill", *settings, f"output={tmp_path / 'file'}")
    assert f"cannot write in {tmp_path / 'file'}: " in told


def test_checkpoints_that_are_all_damaged_are_named_and_kept(
    refuse: Refuse, teacher_file: Path, tmp_path: Path
) -> None:
    settings = tiny(teacher_file, tmp_path / "run", *SOURCES["constant"], "trainer.epochs=2")
    assert main(["distill", *settings]) == 0
    (tmp_path / "run" / "result.json").unlink()
    store = RunFolder(tmp_path / "run").checkpoints
    for step in (3, 6):
        store.place(step).write_bytes(store.place(step).read_bytes()[:5000])
    told = refuse("distill", *settings)
    assert f"no checkpoint in {store.folder} is sound (step-6.ckpt is damaged" in told
    (store.folder / "SHA256SUMS").unlink()
    assert_told(refuse("distill", *settings), "SHA256SUMS is missing, so that no checkpoint")


def test_no_space_is_told_before_training(
    teacher_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2**20))
    settings = tiny(teacher_file, tmp_path / "run", *SOURCES["constant"])
    assert main(["distill", *settings]) == 2
    assert "run: 1 MiB free, a run needs 64: free some space" in capsys.readouterr().err
