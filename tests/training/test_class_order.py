"""The order of the classes, left with a run and held against other data."""

import json
from pathlib import Path

import pytest

from rlkd.data.imagenet_names import WNIDS, readable
from rlkd.errors import UserError
from rlkd.training.class_order import check_order, keep_order
from rlkd.training.run_folder import RunFolder


def test_a_class_order_is_found_beside_a_file_and_others_are_not_refused(tmp_path: Path) -> None:
    run, names = RunFolder(tmp_path / "run"), ["cat", "dog"]
    run.path.mkdir()
    keep_order(run, names)
    keep_order(run, names)
    with pytest.raises(UserError, match=r"class 0 is cat, of the data ant"):
        keep_order(run, ["ant", "cat"])
    for path in (run.student, run.path / "checkpoints" / "last.ckpt"):
        check_order(path, names)
        with pytest.raises(UserError, match=r"class 1 is dog, of the data cow"):
            check_order(path, ["cat", "cow"])
        with pytest.raises(UserError, match=r"has 2 classes, the data 3"):
            check_order(path, ["cat", "dog", "eel"])
    exported = tmp_path / "student.onnx"
    exported.with_name("student.onnx.json").write_text(json.dumps({"class_names": names}))
    with pytest.raises(UserError, match=r"student\.onnx has another class order .*\.json\)"):
        check_order(exported, names[::-1])
    check_order(tmp_path / "foreign.pth", ["anything"])
    (tmp_path / "class_names.json").write_text("{")
    with pytest.raises(UserError, match=r"class_names\.json .* cannot be read: mend or remove"):
        check_order(tmp_path / "foreign.pth", ["anything"])


def test_the_ids_of_imagenet_and_its_names_are_told_apart(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    keep_order(run, WNIDS)
    with pytest.raises(UserError, match=r"of the data tench.* data\.class_names=imagenet$"):
        check_order(run.student, readable(WNIDS))
    with pytest.raises(UserError, match=r"give the data that it was trained on$"):
        check_order(run.student, WNIDS[::-1])
