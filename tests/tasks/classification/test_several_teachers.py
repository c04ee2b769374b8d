"""Several teachers, whose logits are averaged."""

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from tests.support.refusal import Refuse
from tests.support.runs import silent, tiny, tiny_config

from rlkd import models
from rlkd.data.digits import load_digits
from rlkd.engine import build
from rlkd.engine import run as running
from rlkd.engine.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("plainly")

CONSTANT = "temperature=constant"


@pytest.fixture(scope="session")
def other_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        network = models.create("convnet_tiny", num_classes=10, in_channels=1)
    path = tmp_path_factory.mktemp("other") / "other.pth"
    torch.save(network.state_dict(), path)
    return path


def test_a_run_has_the_mean_of_its_teachers_logits(
    teacher_file: Path, other_file: Path, tmp_path: Path
) -> None:
    def taught(*more: str) -> tuple[Any, Any]:
        config = tiny_config(teacher_file, tmp_path / "run", CONSTANT, *more)
        module = build.task(config).prepare(config, build.trainer_options(config)).module
        batch: Any = next(iter(module.loader))  # pyright: ignore
        return batch, module.forward_pass(batch).inputs.teacher_logits

    further = f"{{name: convnet_tiny, checkpoint: '{other_file}', weight: 3}}"
    batch, one = taught()
    _, other = taught("teacher=convnet_tiny", f"teacher.checkpoint='{other_file}'")
    again, both = taught(f"teacher.also=[{further}]")
    assert torch.equal(batch.index, again.index)
    torch.testing.assert_close(both, (one + 3 * other) / 4)


def test_a_teacher_of_ones_own_file_needs_no_further_keys(
    teacher_file: Path, other_file: Path
) -> None:
    node = OmegaConf.create(
        {
            "name": "convnet_tiny",
            "checkpoint": str(teacher_file),
            "also": [{"checkpoint": str(other_file)}],
        },
        flags={"struct": True},
    )
    (further,) = build._also(node)
    assert (further.name, further.checkpoint) == ("convnet_tiny", str(other_file))
    assert "mean" not in node


def test_a_teacher_twice_is_that_teacher(teacher_file: Path, tmp_path: Path) -> None:
    twice = f"teacher.also=[{{checkpoint: '{teacher_file}'}}]"
    ended: list[dict[str, torch.Tensor]] = []
    for number, given in enumerate(((), (twice,))):
        config = tiny_config(teacher_file, tmp_path / f"{number}", CONSTANT, *given)
        result = running.run(config, console=silent())
        ended.append(load_file(RunFolder(tmp_path / f"{number}").student))
        assert result.teacher is not None
    assert all(torch.equal(ended[1][name], each) for name, each in ended[0].items())


def test_a_store_is_of_all_of_them(
    teacher_file: Path, other_file: Path, refuse: Refuse, tmp_path: Path
) -> None:
    cache = f"teacher.cache='{tmp_path / 'store'}'"
    further = f"teacher.also=[{{name: convnet_tiny, checkpoint: '{other_file}'}}]"
    given = tiny(teacher_file, tmp_path / "run", CONSTANT, cache, further)
    running.distill(given, console=silent())
    line = refuse("distill", *given, "teacher.weight=2", f"output={tmp_path / 'b'}")
    assert "is of another teacher's weights" in line


def test_features_of_several_are_refused(
    teacher_file: Path, refuse: Refuse, tmp_path: Path
) -> None:
    further = f"teacher.also=[{{checkpoint: '{teacher_file}'}}]"
    given = tiny(teacher_file, tmp_path / "run", CONSTANT, "method=fitnet", further)
    assert "several teachers give the mean of their logits alone" in refuse("distill", *given)


def test_their_mean_is_scored(teacher_file: Path, tmp_path: Path) -> None:
    def scored(*more: str) -> Any:
        given = ("data=digits", "teacher=convnet_small", f"teacher.checkpoint='{teacher_file}'")
        return running.score_checkpoints([*given, *more], console=silent())["teacher"]

    assert scored(f"teacher.also=[{{checkpoint: '{teacher_file}'}}]") == scored()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = models.create("convnet_tiny", num_classes=10, in_channels=1)
        network.get_parameter("fc.bias").data[4] = 1e4
    torch.save(network.state_dict(), tmp_path / "four.pth")
    four = f"{{name: convnet_tiny, checkpoint: '{tmp_path / 'four.pth'}'}}"
    fours = (load_digits()[1].target == 4).double().mean().item()
    assert scored(f"teacher.also=[{four}]").top1 == pytest.approx(fours) != scored().top1
