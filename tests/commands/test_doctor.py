"""`rlkd doctor` reports what is there and what is not, and fails for neither."""

import json
import os
import platform
from importlib import metadata
from pathlib import Path

import pytest
import torch
from tests.support.refusal import pictures

from rlkd.cli import main
from rlkd.commands import doctor as doctoring


def lines(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert main(["doctor", *words]) == 0
    out, told = capsys.readouterr()
    assert told == ""
    return out.splitlines()


def test_it_says_versions_threads_data_and_disk(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert main(["doctor", f"output={tmp_path / 'a' / 'b'}", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["versions"]["python"] == platform.python_version()
    assert found["versions"]["torch"] == metadata.version("torch")
    assert found["threads"]["torch"] == torch.get_num_threads()
    assert found["threads"]["OMP_NUM_THREADS"] == "7"
    assert found["threads"]["cores"] == len(os.sched_getaffinity(0))
    # scikit-learn's digits: 1,797 images, split 4 to 1
    assert found["data"]["training images"] + found["data"]["test images"] == 1797
    assert found["data"]["classes"] == 10
    assert found["disk"]["runs, free GiB"] > 0
    assert not (tmp_path / "a").exists()
    shown = lines(capsys, f"output={tmp_path / 'a' / 'b'}")
    assert [line for line in shown if not line.startswith(" ")] == list(found)
    assert f"  torch                  {metadata.version('torch')}" in shown


def test_what_is_not_installed_is_said_with_the_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [("nowhere-at-all", "mine"), ("torch", "both"), ("nowhere-at-all", "both")]
    monkeypatch.setattr(doctoring, "_asked", lambda: [*asked, ("torch", "yours"), ("x", "dev")])
    shown = lines(capsys)
    assert "  mine                   not installed: pip install nowhere-at-all" in shown
    assert "  both                   not installed: pip install torch nowhere-at-all" in shown
    assert f"  yours                  torch {metadata.version('torch')}" in shown
    assert not any(" dev " in line for line in shown)


def test_the_extras_are_those_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["torch>=2", "timm>=1.0; extra == 'timm'", 'a.b-c[x]>=1 ; extra == "fast"']
    monkeypatch.setattr(doctoring.metadata, "requires", lambda _: given)
    assert doctoring._asked() == [("timm", "timm"), ("a.b-c", "fast")]


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (("data=cifar100",), "data.root is missing: give data.root=..."),
        (("data=cifar100", "data.root=nowhere", "data.download=true"), "nowhere"),
    ],
)
def test_data_that_are_not_there_are_a_finding(
    words: tuple[str, ...],
    fault: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (line,) = [each for each in lines(capsys, *words) if each.startswith("  not found")]
    assert fault in line
    assert list(tmp_path.iterdir()) == []


def test_data_of_ones_own_are_counted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    shown = lines(capsys, "data=folder", f"data.root={pictures(tmp_path)}", "data.image_size=8")
    assert "  training images        4" in shown
    assert "  classes                2" in shown


def test_a_gpu_that_does_not_compute_is_a_finding(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: int) -> None:
        raise RuntimeError("no kernel image\nis available")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", broken)
    assert "  GPU 0                  does not compute: no kernel image is available" in lines(
        capsys
    )
