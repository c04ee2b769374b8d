"""`teacher.classes` and `student.head`: checkpoints of other classes than the data's."""

import json
from pathlib import Path

import pytest
import torch
from tests.support.refusal import Refuse, assert_told, pictures
from tests.support.runs import tiny, tiny_config
from torch import nn

from rlkd import models
from rlkd.cli import main
from rlkd.data.dataset import Dataset
from rlkd.engine import build
from rlkd.engine.class_names import taught_rows
from rlkd.engine.run_folder import RunFolder
from rlkd.errors import Notice, UserError
from rlkd.tasks.classification.data import load_dataset
from rlkd.text_files import write_object

pytestmark = pytest.mark.usefixtures("plainly")

ROWS = [11, 3, 0, 7, 5, 2, 9, 1, 8, 6]
NAMES = [f"class {number}" for number in range(12)]


@pytest.fixture
def bigger(tmp_path: Path) -> Path:
    """Write a teacher of twelve classes."""
    torch.manual_seed(0)
    network = models.create("convnet_small", num_classes=12, in_channels=1)
    torch.save({"model": network.state_dict()}, tmp_path / "bigger.pth")
    return tmp_path / "bigger.pth"


def _whole(path: Path) -> nn.Module:
    network = models.create("convnet_small", num_classes=12, in_channels=1)
    models.load_weights(network, path)
    return network.eval()


def _digits(bigger: Path, *more: str) -> tuple[build.DictConfig, Dataset]:
    config = tiny_config(bigger, bigger.parent / "run", *more)
    return config, load_dataset(config)


def test_a_bigger_teacher_gives_the_logits_of_the_datas_classes_by_index(bigger: Path) -> None:
    config, dataset = _digits(bigger, f"teacher.classes={ROWS}".replace(" ", ""))
    teacher = build.teacher(config.teacher, dataset, build.trainer_options(config))
    assert teacher is not None
    image = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(teacher(image), _whole(bigger)(image)[:, ROWS])


def test_a_bigger_teacher_is_refused_with_the_remedy(refuse: Refuse, bigger: Path) -> None:
    settings = tiny(bigger, bigger.parent / "run", "temperature=constant")
    assert_told(
        refuse("distill", *settings),
        r"checkpoint has 12 classes, the data 10; .*, or teacher\.classes=\[\.\.\.\] for the",
    )
    settings[settings.index(f"teacher.checkpoint='{bigger}'")] = "method=alone"
    given = [f"student.checkpoint='{bigger}'", "student=convnet_small", "teacher=none"]
    told = refuse("train", *settings, *given)
    assert_told(told, r"checkpoint has 12 classes, the data 10; .*, or student\.head=new for all")


@pytest.mark.parametrize("method", ["kd", "srrl", "crd", "simkd"])
def test_losses_of_embeddings_and_heads_work_with_a_bigger_teacher(
    bigger: Path, method: str
) -> None:
    classes = f"teacher.classes={ROWS}".replace(" ", "")
    given = tiny(bigger, bigger.parent / "run", classes, f"method={method}", "temperature=constant")
    assert main(["distill", *given, "trainer.max_steps=2", "trainer.epochs=1"]) == 0
    result = json.loads((bigger.parent / "run" / "result.json").read_text())
    _, dataset = _digits(bigger)
    assert isinstance(dataset.test.image, torch.Tensor)
    image = dataset.test.image.float() / 255
    image = (image - dataset.mean[0]) / dataset.std[0]
    with torch.no_grad():
        answers = _whole(bigger)(image)[:, ROWS].argmax(1)
    right = (answers == dataset.test.target).float().mean()
    assert result["teacher"]["top1"] == pytest.approx(right.item())


def test_names_are_looked_up_beside_the_teacher_or_in_the_list(tmp_path: Path) -> None:
    beside, alone = tmp_path / "run" / "student.safetensors", tmp_path / "alone.pth"
    beside.parent.mkdir()
    write_object(beside.parent / "class_names.json", {"class_names": ["ant", "cat", "dog", "eel"]})
    assert taught_rows([3, 0], alone, ["x", "y"]) == [3, 0]
    assert taught_rows(["dog", "cat"], beside, ["hound", "puss"]) == [2, 1]
    assert taught_rows(["ant", "cat", "dog", "eel"], alone, ["eel", "cat"]) == [3, 1]
    own = str(beside.parent / "class_names.json")
    assert taught_rows(own, alone, ["eel", "cat"]) == [3, 1]
    assert taught_rows(own, beside, ["eel", "cat"]) == [3, 1]
    (tmp_path / "list.txt").write_text("2\n0\n\n")
    assert taught_rows(str(tmp_path / "list.txt"), alone, ["x", "y"]) == [2, 0]
    (tmp_path / "names.txt").write_text("dog\nant\n")
    assert taught_rows(str(tmp_path / "names.txt"), beside, ["x", "y"]) == [2, 0]


def test_the_teachers_own_order_is_no_order_of_the_datas(tmp_path: Path) -> None:
    weights, own, data = tmp_path / "file.pth", ["ant", "bee", "cat"], ["cat", "ant", "bee"]
    write_object(tmp_path / "class_names.json", {"class_names": own})
    for given in (own, str(tmp_path / "class_names.json"), data):
        assert taught_rows(given, weights, data) == [2, 0, 1]
    with pytest.raises(UserError, match=r"neither theirs nor the teacher's \(see .*\): give them"):
        taught_rows(["bee", "ant", "cat"], weights, data)
    with pytest.raises(UserError, match="in an order that is neither"):
        taught_rows(["ant", "cat"], weights, ["cat", "ant"])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            ["dog", "cot"],
            r"there is no cot among the teacher's classes \(see .*\); did you mean cat",
        ),
        ([1, 2, 3], r"gives 3 indices, 3 of them different: give one for each of the data's 2"),
        ([1, 1], r"gives 2 indices, 1 of them different"),
        ([-1, 0], r"one for each of the data's 2 classes, from 0"),
        ([1, "cat"], r"give a list of indices or of names, such as \[281,207\]"),
        ([], r"give a list of indices or of names"),
        (3, r"teacher.classes=3: give a list"),
        ("absent.json", "absent.json does not exist; give a file of classes, or a list"),
    ],
)
def test_classes_that_do_not_fit_are_named(tmp_path: Path, given: object, told: str) -> None:
    write_object(tmp_path / "class_names.json", {"class_names": ["ant", "cat", "dog", "eel"]})
    with pytest.raises(UserError, match=told):
        taught_rows(given, tmp_path / "file.pth", ["cat", "dog"])


def test_a_new_head_keeps_the_rest_and_is_no_part_of_the_run(
    bigger: Path, tmp_path: Path, teacher_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = ("student=convnet_small", f"student.checkpoint='{bigger}'", "student.head=new")
    config, dataset = _digits(bigger, *new)
    with pytest.warns(Notice, match=r"bigger\.pth: fc\.weight, fc\.bias are new, the rest is"):
        student = build.network(config.student, "student", dataset)
    whole = _whole(bigger).state_dict()
    state = student.state_dict()
    assert all(torch.equal(state[k], v) for k, v in whole.items() if not k.startswith("fc."))
    run = tmp_path / "run"
    given = tiny(teacher_file, run, *new, "temperature=constant", "trainer.epochs=1")
    assert main(["distill", *given]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        line == f"rlkd: note: student {bigger}: fc.weight, fc.bias are new, the rest is the file's"
    )
    assert main(["evaluate", f"run={run}"]) == 0
    told = capsys.readouterr()
    assert not told.err
    loss = json.loads((run / "result.json").read_text())["test"]["loss"]
    assert f"loss {loss:.4f}" in told.out


def test_a_head_is_new_where_its_classes_are_called_otherwise(tmp_path: Path) -> None:
    network = models.create("convnet_small", num_classes=10, in_channels=1)
    folder = RunFolder(tmp_path)
    models.save_weights(network, folder.student)
    write_object(tmp_path / "class_names.json", {"class_names": NAMES[:10]})
    config, dataset = _digits(folder.student, "student=convnet_small")
    config.student.checkpoint = str(folder.student)
    with pytest.raises(UserError, match="another class order than the data: class 0 is class 0"):
        build.network(config.student, "student", dataset)
    with pytest.raises(UserError, match=r"was trained on, or student\.head=new for all of it but"):
        build.network(config.student, "student", dataset, trains=True)
    config.student.head = "new"
    with pytest.warns(Notice, match="are new"):
        made = build.network(config.student, "student", dataset)
    assert torch.equal(made.state_dict()["layers.0.0.weight"], network.layers[0][0].weight)


@pytest.mark.parametrize("classes", [10, 12])
def test_a_teacher_of_other_class_names_is_refused_with_the_remedy(
    bigger: Path, classes: int
) -> None:
    write_object(bigger.parent / "class_names.json", {"class_names": NAMES[:classes]})
    config, dataset = _digits(bigger)
    with pytest.raises(UserError, match=r"it was trained on, or teacher\.classes=\[\.\.\.\] for"):
        build.teacher(config.teacher, dataset, build.trainer_options(config))


@pytest.mark.parametrize("verb", ["evaluate", "predict", "export"])
def test_a_new_head_is_refused_where_nothing_trains_it(
    refuse: Refuse, teacher_file: Path, tmp_path: Path, verb: str
) -> None:
    own = {
        "evaluate": [],
        "predict": [f"images={pictures(tmp_path)}"],
        "export": ["format=safetensors", f"to={tmp_path / 'a.safetensors'}"],
    }
    given = ["data=digits", "student=convnet_small", f"student.checkpoint='{teacher_file}'"]
    told = refuse(verb, *own[verb], *given, "student.head=new")
    assert "student.head=new is a classifier that has learnt nothing, and nothing trains" in told


def test_a_head_that_is_none_is_refused(refuse: Refuse, teacher_file: Path, tmp_path: Path) -> None:
    settings = tiny(teacher_file, tmp_path / "run", "temperature=constant", "student.head=new")
    told = refuse("distill", *settings)
    assert "student.head=new is for student.checkpoint=FILE: give both" in told
    settings += [f"student.checkpoint='{teacher_file}'", "student=convnet_small"]
    told = refuse("distill", *settings, "student.head=old")
    assert "student.head=old: give new, or checkpoint for all of its weights" in told


def test_a_teacher_with_nan_is_named_before_training(
    refuse: Refuse, teacher_file: Path, tmp_path: Path
) -> None:
    payload = torch.load(teacher_file, weights_only=True)
    payload["model"]["fc.bias"][2] = float("nan")
    broken = tmp_path / "broken.pth"
    torch.save(payload, broken)
    told = refuse("distill", *tiny(broken, tmp_path / "run", "temperature=constant"))
    assert f"{broken}: fc.bias holds NaN, as after a training that diverged" in told
    checkpoint = f"teacher.checkpoint='{broken}'"
    assert refuse("evaluate", "data=digits", "teacher=convnet_small", checkpoint) == told


def test_where_weights_were_found_is_said_in_one_line(
    teacher_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = torch.load(teacher_file, weights_only=True)["model"]
    prefixed = {f"backbone.{name}": tensor for name, tensor in state.items()}
    other = tmp_path / "other.pth"
    torch.save({"net": prefixed}, other)
    given = f"teacher.checkpoint='{other}'"
    assert main(["evaluate", "data=digits", "teacher=convnet_small", given]) == 0
    assert capsys.readouterr().err == (
        f"rlkd: note: teacher {other}: took the weights under 'net', without the prefix "
        "'backbone.'\n"
    )
