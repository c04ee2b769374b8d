"""Weights are found in a file by matching names and shapes, and what was found is reported."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlkd.errors import UserError
from rlkd.models import classifier_entries, create, load_weights, read_metadata

State = dict[str, Tensor]


def _prefixed(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def _other(state: State) -> State:
    return {name: tensor + 1 for name, tensor in state.items()}


def _saved(path: Path, payload: Any) -> Path:
    torch.save(payload, path / "file.pth")
    return path / "file.pth"


def _assert_loaded(model: nn.Module, state: State) -> None:
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def _classifier(model: nn.Module, classes: int) -> Callable[[], list[str]]:
    return partial(classifier_entries, model, classes, (3, 8, 8))


@pytest.mark.parametrize(
    ("wrap", "told"),
    [
        (lambda s: {"net": s, "acc": 0.5}, "took the weights under 'net'"),
        (
            lambda s: {"model_state_dict": s, "epoch": 1},
            "took the weights under 'model_state_dict'",
        ),
        (lambda s: {"model_ema": s}, "took the weights under 'model_ema'"),
        (lambda s: {"a": {"b": s}}, "took the weights under 'a.b'"),
        (lambda s: _prefixed("net.", s), "took the weights without the prefix 'net.'"),
        (
            lambda s: {"state_dict": _prefixed("architecture.", s)},
            "took the weights under 'state_dict', without the prefix 'architecture.'",
        ),
        (
            lambda s: {**_prefixed("backbone.module.", s), "head.weight": torch.ones(3)},
            "took the weights without the prefix 'backbone.module.'",
        ),
        (lambda s: {"student": s, "epoch": 3}, "took the weights under 'student'"),
        (lambda s: s, None),
        (lambda s: {"model": s, "optimizer": {"state": {0: {"m": torch.ones(2)}}}}, None),
        (lambda s: {"state_dict": _prefixed("module.", s)}, None),
        (lambda s: {"model": s, "model_ema": s}, None),
    ],
)
def test_the_holder_and_the_prefix_are_found_and_reported(
    resnet8: nn.Module, tmp_path: Path, wrap: Callable[[State], Any], told: str | None
) -> None:
    path = _saved(tmp_path, wrap(resnet8.state_dict()))
    model = create("resnet8", num_classes=10)
    assert load_weights(model, path).note == told
    _assert_loaded(model, resnet8.state_dict())


def test_a_prefix_on_the_networks_side_is_added(resnet8: nn.Module, tmp_path: Path) -> None:
    path = _saved(tmp_path, {"model": _prefixed("net.", dict(resnet8.state_dict()))})
    wrapped = nn.ModuleDict({"backbone": create("resnet8", num_classes=10)})
    told = load_weights(wrapped, path).note
    assert told is not None
    assert "without the prefix 'net.', with the prefix 'backbone.'" in told
    _assert_loaded(wrapped["backbone"], resnet8.state_dict())


def test_plain_weights_come_before_their_average_and_both_are_named(
    resnet8: nn.Module, tmp_path: Path
) -> None:
    state = dict(resnet8.state_dict())
    for payload in (
        {"state_dict_ema": _other(state), "state_dict": state},
        {"state_dict": {**_prefixed("ema.", _other(state)), **_prefixed("model.", state)}},
    ):
        model = create("resnet8", num_classes=10)
        told = load_weights(model, _saved(tmp_path, payload)).note
        _assert_loaded(model, state)
        assert told is not None
        assert "it has an average of them, to be saved alone" in told


def test_several_weights_that_fit_are_refused(resnet8: nn.Module, tmp_path: Path) -> None:
    state = dict(resnet8.state_dict())
    path = _saved(tmp_path, {"student": state, "teacher": _other(state)})
    with pytest.raises(UserError, match="several weights fit this network, under 'student' and un"):
        load_weights(create("resnet8", num_classes=10), path)


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda own, other: {"student": own, "teacher": other},
        lambda own, other: {
            "state_dict": {**_prefixed("student.", own), **_prefixed("teacher.", other)}
        },
    ],
)
def test_weights_of_a_deeper_network_beside_them_are_no_rivals(
    resnet8: nn.Module, tmp_path: Path, wrap: Callable[[State, State], Any], order: int
) -> None:
    deeper = create("resnet14", num_classes=10)
    payload = dict(list(wrap(resnet8.state_dict(), deeper.state_dict()).items())[::order])
    model = create("resnet8", num_classes=10)
    load_weights(model, _saved(tmp_path, payload))
    _assert_loaded(model, resnet8.state_dict())


def test_a_student_with_its_teacher_inside_is_refused(resnet8: nn.Module, tmp_path: Path) -> None:
    state = dict(resnet8.state_dict())
    path = _saved(tmp_path, {**state, **_prefixed("teacher.", _other(state))})
    with pytest.raises(UserError, match="several weights fit this network, at its top and"):
        load_weights(create("resnet8", num_classes=10), path)


def test_metadata_beside_any_holder_are_read(resnet8: nn.Module, tmp_path: Path) -> None:
    path = _saved(tmp_path, {"net": resnet8.state_dict(), "accuracy": 0.7})
    assert read_metadata(path) == {"accuracy": 0.7}


@pytest.mark.parametrize(("value", "told"), [(float("nan"), "NaN"), (float("inf"), "infinity")])
@pytest.mark.parametrize("name", ["layer1.0.conv1.weight", "bn1.running_var"])
def test_weights_that_are_not_finite_are_named_with_their_file(
    resnet8: nn.Module, tmp_path: Path, name: str, value: float, told: str
) -> None:
    state = {key: tensor.clone() for key, tensor in resnet8.state_dict().items()}
    state[name].view(-1)[3] = value
    path = _saved(tmp_path, {"model": state})
    model = create("resnet8", num_classes=10)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(UserError) as refused:
        load_weights(model, path)
    assert str(refused.value).startswith(f"{path}: {name} holds {told}, as after a training")
    _assert_loaded(model, before)


def test_a_mask_of_the_networks_own_may_be_infinite(tmp_path: Path) -> None:
    def masked() -> nn.Module:
        network = nn.Linear(2, 2)
        network.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
        return network

    saved, model = masked(), masked()
    load_weights(model, _saved(tmp_path, saved.state_dict()))
    _assert_loaded(model, saved.state_dict())


@pytest.mark.parametrize("classes", [10, 7])
def test_a_new_head_leaves_the_classifier_as_it_was(
    resnet8: nn.Module, tmp_path: Path, classes: int
) -> None:
    path = _saved(tmp_path, {"model": resnet8.state_dict()})
    model = create("resnet8", num_classes=classes)
    fresh = model.fc.weight.clone()
    loaded = load_weights(model, path, classifier=_classifier(model, classes))
    assert loaded.note == "fc.weight, fc.bias are new, the rest is the file's"
    assert torch.equal(model.fc.weight, fresh)
    assert torch.equal(model.conv1.weight, resnet8.conv1.weight)


def test_a_new_head_takes_a_file_without_one(resnet8: nn.Module, tmp_path: Path) -> None:
    state = {k: v for k, v in resnet8.state_dict().items() if not k.startswith("fc.")}
    model = create("resnet8", num_classes=7)
    load_weights(model, _saved(tmp_path, state), classifier=_classifier(model, 7))
    assert torch.equal(model.conv1.weight, resnet8.conv1.weight)
    other = create("resnet14", num_classes=7)
    classifier = _classifier(other, 7)
    with pytest.raises(UserError, match=r"another architecture than this ResNet: layer1\.1"):
        load_weights(other, tmp_path / "file.pth", classifier=classifier)


class TwoClassifiers(nn.Module):
    """An auxiliary classifier beside the last, as GoogLeNet's."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body, self.aux = nn.Linear(4, 4), nn.Linear(4, num_classes)
        self.fc = nn.Linear(4, num_classes)


def test_auxiliary_classifiers_count_as_classifiers(tmp_path: Path) -> None:
    saved, model = TwoClassifiers(9), TwoClassifiers(3)
    path = _saved(tmp_path, saved.state_dict())
    with pytest.raises(UserError, match="checkpoint has 9 classes, the data 3"):
        load_weights(model, path)
    load_weights(model, path, classifier=_classifier(model, 3), rows=[8, 0, 4])
    assert torch.equal(model.aux.weight, saved.aux.weight[[8, 0, 4]])
    assert torch.equal(model.fc.bias, saved.fc.bias[[8, 0, 4]])


class HeadFirst(nn.Module):
    """The classifier is registered before a layer that has five outputs too."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(5, num_classes)
        self.conv = nn.Conv2d(3, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).mean((2, 3)))


@pytest.mark.parametrize("classes", [20, 5])
def test_the_classifier_is_the_layer_that_makes_the_logits(tmp_path: Path, classes: int) -> None:
    saved, model, rows = HeadFirst(classes), HeadFirst(5), [3, 1, 2, 0, 4]
    path, image = _saved(tmp_path, saved.state_dict()), torch.randn(2, 3, 8, 8)
    load_weights(model, path, classifier=_classifier(model, 5), rows=rows)
    torch.testing.assert_close(model(image), saved(image)[:, rows])
    new = HeadFirst(5)
    fresh = new.head.weight.clone()
    loaded = load_weights(new, path, classifier=_classifier(new, 5))
    assert loaded.note == "head.weight, head.bias are new, the rest is the file's"
    assert torch.equal(new.head.weight, fresh)
    assert torch.equal(new.conv.weight, saved.conv.weight)


class TwoHeaded(nn.Module):
    """The logits are the mean of two classifiers', as of a distilled DeiT."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.head_dist = nn.Linear(3, 5), nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3))
        return (self.head(pooled) + self.head_dist(pooled)) / 2


def test_a_classifier_that_is_not_certain_is_refused(tmp_path: Path) -> None:
    model = TwoHeaded()
    path = _saved(tmp_path, model.state_dict())
    with pytest.raises(UserError, match=r"several layers \(head, head_dist\) of 5 outputs"):
        load_weights(model, path, classifier=_classifier(model, 5))


def test_rows_of_a_bigger_classifier_are_its_logits(resnet8: nn.Module, tmp_path: Path) -> None:
    path = _saved(tmp_path, {"model": resnet8.state_dict()})
    model = create("resnet8", num_classes=3).eval()
    classifier = _classifier(model, 3)
    load_weights(model, path, classifier=classifier, rows=[4, 9, 0])
    image = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(model(image), resnet8.eval()(image)[:, [4, 9, 0]])
    with pytest.raises(UserError, match=r"has 10 classes, so there is no class 10 \(the first is"):
        load_weights(model, path, classifier=classifier, rows=[4, 10, 0])


def test_a_network_without_a_layer_of_the_classes_has_no_classifier() -> None:
    with pytest.raises(UserError, match="this Linear has no layer of 5 outputs, one a class"):
        classifier_entries(nn.Linear(5, 2), 5, (3, 8, 8))
