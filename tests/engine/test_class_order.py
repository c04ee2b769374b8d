"""The order of the classes, left with a run and held against other data."""

import json
import shutil
from pathlib import Path

import pytest
from tests.support.detection_runs import tiny_detection, without_shapes, write_own
from tests.support.refusal import Refuse, assert_told

from rlkd.cli import main
from rlkd.data.imagenet_names import WNIDS, readable
from rlkd.engine.class_names import check_order, keep_order
from rlkd.engine.run_folder import RunFolder
from rlkd.errors import UserError
from rlkd.text_files import write_object


def test_a_class_order_is_found_beside_a_file_and_others_are_not_refused(tmp_path: Path) -> None:
    run, names = RunFolder(tmp_path / "run"), ["cat", "dog"]
    run.path.mkdir()
    keep_order(run, names)
    keep_order(run, names)
    with pytest.raises(UserError, match=r"class 0 is cat, of the data ant"):
        keep_order(run, ["ant", "cat"])
    for path in (run.student, run.path / "checkpoints" / "step-6.ckpt"):
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
    with pytest.raises(UserError, match=r"class_names\.json is not valid JSON .*; fix or"):
        check_order(tmp_path / "foreign.pth", ["anything"])
    write_object(tmp_path / "class_names.json", {"class_names": "cat"})
    with pytest.raises(UserError, match=r"class_names\.json does not name the classes of the run:"):
        keep_order(RunFolder(tmp_path), ["anything"])


def test_the_ids_of_imagenet_and_its_names_are_told_apart(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    keep_order(run, WNIDS)
    with pytest.raises(UserError, match=r"of the data tench.* data\.class_names=imagenet$"):
        check_order(run.student, readable(WNIDS))
    with pytest.raises(UserError, match=r"give the data that it was trained on$"):
        check_order(run.student, WNIDS[::-1])


@pytest.mark.long
@pytest.mark.usefixtures("plainly")
def test_a_detector_of_another_class_order_is_refused_as_teacher_as_student_and_on_resuming(
    tmp_path: Path, detector_file: Path, refuse: Refuse
) -> None:
    def order(*names: str) -> None:
        path = tmp_path / "earlier" / "class_names.json"
        write_object(path, {"class_names": ["background", *names]})

    own = write_own(tmp_path / "own")
    (tmp_path / "earlier").mkdir()
    weights = shutil.copy(detector_file, tmp_path / "earlier" / "student.safetensors")
    order("ball", "tent", "box", "plus", "sea star")
    given = ["data=coco", f"data.root={own}", "temperature=constant"]
    foreign = [*without_shapes(tiny_detection(detector_file, tmp_path / "earlier")), *given]
    told = r"class order than the data: class 2 is tent, of the data box \(see [^)]*/class_names\."
    for role in ("teacher", "student"):
        settings = tiny_detection(detector_file, tmp_path / "new", f"{role}.checkpoint={weights}")
        for verb in ("distill", "evaluate"):
            assert_told(refuse(verb, *without_shapes(settings), *given), f"{role}: .*{told}")
    assert_told(refuse("distill", *foreign), f"earlier/class_names.json has another {told}")
    order("ball", "box", "tent", "plus")
    assert_told(refuse("evaluate", *without_shapes(settings), *given), "has 5 classes, the data 6")
    order("ball", "box", "tent", "plus", "sea star")
    assert main(["evaluate", *without_shapes(settings), *given]) == 0
