"""Networks that return more than logits, are lazily built or quantisation-aware, end to end."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.support import foreign
from tests.support.refusal import Refuse, assert_told, pictures
from tests.support.runs import tiny
from torch import Tensor, nn

from rlkd import models
from rlkd.cli import main
from rlkd.errors import UserError

pytestmark = pytest.mark.usefixtures("plainly")

MODULE, TRUSTED = "tests.support.foreign", "trust=tests"
SHORT = (TRUSTED, "trainer.epochs=1", "temperature=constant", "data.limit=32")


def _test_scores(run: Path) -> dict[str, float]:
    return json.loads((run / "result.json").read_text())["test"]


@pytest.mark.parametrize(
    ("teacher", "student"),
    [
        pytest.param("hf_resnet", "hf_vit", marks=pytest.mark.long),
        ("FeaturesFirst", "lazy"),
        ("Dictionary", "LogitsFirst"),
    ],
)
def test_networks_of_the_field_teach_and_are_taught(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], teacher: str, student: str
) -> None:
    weights, run = tmp_path / "teacher.safetensors", tmp_path / "run"
    models.save_weights(getattr(foreign, teacher)(10, 1), weights)
    networks = (f"student={MODULE}:{student}", f"teacher={MODULE}:{teacher}")
    assert main(["distill", *tiny(weights, run, *SHORT, *networks, "method=kd")]) == 0
    assert not capsys.readouterr().err
    assert main(["evaluate", f"run={run}", TRUSTED]) == 0
    assert f"loss {_test_scores(run)['loss']:.4f} on 360" in capsys.readouterr().out
    for kind, file in (("safetensors", "a.safetensors"), ("torch_export", "a.pt2")):
        assert (
            main(["export", f"run={run}", TRUSTED, f"format={kind}", f"to={tmp_path / file}"]) == 0
        )
    logits = torch.export.load(tmp_path / "a.pt2").module()(torch.zeros(3, 1, 8, 8))
    assert logits.shape == (3, 10)


def test_a_network_that_returns_a_tuple_trains_alone_and_predicts(tmp_path: Path) -> None:
    run, network = tmp_path / "run", f"student={MODULE}:FeaturesFirst"
    assert main(["train", *_alone(tiny(tmp_path, run, *SHORT, network))]) == 0
    Image.new("L", (8, 8), 90).save(tmp_path / "image.png")
    assert main(["predict", f"run={run}", TRUSTED, f"images={tmp_path / 'image.png'}"]) == 0


def _alone(settings: list[str]) -> list[str]:
    left_out = ("teacher", "temperature", "data.limit")
    return [each for each in settings if not each.startswith(left_out)]


def test_an_embedding_of_a_network_that_returns_a_tuple_is_tapped(tmp_path: Path) -> None:
    weights = tmp_path / "teacher.safetensors"
    models.save_weights(foreign.FeaturesFirst(10, 1), weights)
    network = f"student={MODULE}:LogitsFirst"
    given = tiny(weights, tmp_path / "run", *SHORT, network, f"teacher={MODULE}:FeaturesFirst")
    assert main(["distill", *given, "method=srrl"]) == 0


def test_torchvisions_named_tuple_in_training_is_its_logits() -> None:
    network = models.create("torchvision:googlenet", num_classes=4, init_weights=False).train()
    assert network(torch.randn(2, 3, 64, 64)).shape == (2, 4)


def test_a_quantisation_aware_student_opens_its_own_run(
    tmp_path: Path, teacher_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    settings = tiny(teacher_file, run, *SHORT, f"student={MODULE}:quantised")
    assert main(["distill", *settings]) == 0
    capsys.readouterr()
    assert main(["evaluate", f"run={run}", TRUSTED]) == 0
    # The ranges are those of training, so that scoring again gives the very same.
    assert f"loss {_test_scores(run)['loss']:.4f} on 360" in capsys.readouterr().out
    Image.new("L", (8, 8), 90).save(tmp_path / "image.png")
    assert main(["predict", f"run={run}", TRUSTED, f"images={tmp_path / 'image.png'}"]) == 0
    for to in ("safetensors:a.safetensors", "torch_export:a.pt2"):
        kind, _, file = to.partition(":")
        assert (
            main(["export", f"run={run}", TRUSTED, f"format={kind}", f"to={tmp_path / file}"]) == 0
        )
    assert "to 0;" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "returned"),
    [
        ("TwoHeads", r"a tuple of \(2, 10\), \(2, 10\): several tensors of shape \(batch, 10\)"),
        ("FeaturesAlone", r"a dict of features: \(2, 6\): no tensor of shape \(batch, 10\)"),
        ("TupleInTraining", r"a tuple of \(2, 10\), \(2, 10\): several"),
    ],
)
def test_outputs_without_certain_logits_are_named(
    refuse: Refuse, teacher_file: Path, tmp_path: Path, name: str, returned: str
) -> None:
    settings = tiny(teacher_file, tmp_path / "run", *SHORT, f"student={MODULE}:{name}")
    told = refuse("distill", *settings)
    assert_told(told, f"model '{MODULE}:{name}' returned {returned}")
    assert "let a factory of your own return the logits alone" in told


def test_a_network_of_another_size_is_refused_with_the_size_that_it_takes(
    refuse: Refuse, teacher_file: Path, tmp_path: Path
) -> None:
    pytest.importorskip("timm", reason="timm is not installed")
    name = "timm:test_vit"
    settings = tiny(teacher_file, tmp_path / "run", *SHORT, f"student={name}")
    told = refuse("distill", *settings)
    assert_told(told, rf"the student {name} does not take images of shape \(1, 8, 8\) \(\w+: ")
    other = "images that can be read so (data=folder, say), or another network"
    assert f"it takes (1, 32, 32), so give {other}" in told
    checkpoint = f"student.checkpoint={tmp_path / 'absent'}"
    assert refuse("evaluate", "data=digits", f"student={name}", checkpoint) == told
    images = f"images={pictures(tmp_path)}"
    assert refuse("predict", "data=digits", f"student={name}", checkpoint, images) == told
    to = f"to={tmp_path / 'a.pt2'}"
    export = ("format=torch_export", to, "data=digits", f"student={name}", checkpoint)
    assert refuse("export", *export) == told


@pytest.mark.parametrize("size", [8, 32])
def test_the_size_that_a_network_is_refused_with_does_for_training_too(size: int) -> None:
    network, shape = foreign.LargerInTraining(3, 1), (1, size, size)
    with pytest.raises(
        UserError, match=rf"of shape \(1, {size}, {size}\) .* give data.image_size=96"
    ):
        models.called_once(network, "it", shape=shape, num_classes=3, trains=True)


def test_a_grey_network_on_colour_images_is_refused_with_the_setting(
    refuse: Refuse, teacher_file: Path, tmp_path: Path
) -> None:
    settings = tiny(teacher_file, tmp_path / "run", *SHORT, f"student={MODULE}:grey_alone")
    root = f"data.root={pictures(tmp_path)}"
    told = refuse("train", *_alone(settings), "data=folder", root, "data.image_size=8")
    assert "grey_alone does not take images of shape (3, 8, 8)" in told
    assert "it takes (1, 8, 8), so give data.channels=1, or another network" in told


@pytest.mark.parametrize(
    ("role", "name", "what"),
    [
        ("student", "Softmaxed", "probabilities"),
        ("teacher", "LogSoftmaxed", "log-probabilities"),
    ],
)
def test_a_softmax_inside_a_network_is_reported_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], role: str, name: str, what: str
) -> None:
    weights = tmp_path / "teacher.safetensors"
    models.save_weights(foreign.Plain(10, 1), weights)
    other = "teacher" if role == "student" else "student"
    networks = (f"{role}={MODULE}:{name}", f"{other}={MODULE}:Plain")
    assert main(["distill", *tiny(weights, tmp_path / "run", *SHORT, *networks)]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"rlkd: note: the {role} {MODULE}:{name} returns {what}, as a softmax")
    assert line.endswith("return what goes into the softmax")


def test_a_network_that_has_no_copy_is_tried_itself() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    network.register_buffer("derived", network[1].weight * 2, persistent=False)
    called = models.called_once(network, "student own", shape=(1, 2, 2), num_classes=3)
    assert called is network


def test_a_trial_leaves_a_network_as_it_was() -> None:
    network = foreign.Plain(10, 1).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = torch.get_rng_state()
    shape = (1, 8, 8)
    called = models.called_once(network, "it", shape=shape, num_classes=10, trains=True)
    assert called is not network
    assert all(each.training for each in network.modules())
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert called.fc.weight is network.fc.weight


def test_the_search_for_a_shape_that_fits_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, seconds = list[Tensor](), iter(range(0, 1000, 2))

    class Never(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(x)
            raise ValueError("no")

    monkeypatch.setattr("rlkd.models.trial.monotonic", lambda: next(seconds))
    with pytest.raises(UserError, match=r"give images of a size that it takes"):
        models.called_once(Never(), "it", shape=(1, 8, 8), num_classes=3)
    assert len(calls) == 3
