"""`rlkd push`, and networks that are taken from where it put them."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.support.hub_server import Hub, serving
from tests.support.refusal import Refuse, assert_told
from tests.support.run_folders import DIGITS, classifier_run, detector_run
from tests.support.runs import as_users_call, fingerprint, silent, tiny

from rlkd import models
from rlkd.cli import main
from rlkd.commands.push import FILES, push
from rlkd.config.compose import configure
from rlkd.data import digits as handwritten
from rlkd.engine.class_names import check_order
from rlkd.engine.run import distill
from rlkd.errors import UserError
from rlkd.models import hub as hubs
from rlkd.reporting import Result

pytestmark = pytest.mark.usefixtures("plainly")
REPOSITORY = "somebody/digits"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    pytest.importorskip("huggingface_hub")
    hubs.fetch.cache_clear()
    with serving(tmp_path / "hub_cache") as made:
        yield made
    hubs.fetch.cache_clear()


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What a push of a run with a tiny student would publish."""
    folder = tmp_path_factory.mktemp("pushed")
    with as_users_call():
        run = classifier_run(folder / "run")
        push([f"run={run.path}", f"to={folder / 'out'}"], console=silent())
    return {path.name: path.read_bytes() for path in (folder / "out").iterdir()}


@pytest.fixture
def files(pushed: dict[str, bytes]) -> dict[str, bytes]:
    return dict(pushed)


def hold(hub: Hub, files: dict[str, bytes]) -> str:
    hub.commits.setdefault(REPOSITORY, {})
    return hub.commit(REPOSITORY, files)


def changed(content: bytes, **values: Any) -> bytes:
    return json.dumps(json.loads(content) | values).encode()


def sums(files: dict[str, bytes]) -> dict[str, bytes]:
    """The files with the SHA-256 that they have, whatever was there."""
    lines = [f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in FILES[:-1]]
    return files | {"SHA256SUMS": "".join(lines).encode()}


def test_a_folder_holds_what_would_be_published_and_nothing_else(tmp_path: Path) -> None:
    run = classifier_run(tmp_path / "run")
    out = tmp_path / "out"
    for _ in range(2):  # over an earlier push
        assert main(["push", f"run={run.path}", f"to={out}"]) == 0
    assert {path.name for path in out.iterdir()} == {*FILES}
    config = json.loads((out / "config.json").read_text())
    assert config["architecture"] == "convnet_tiny"
    assert config["class_names"] == [str(each) for each in range(10)]
    assert (config["num_classes"], config["image_size"]) == (10, [8, 8])
    assert (config["mean"], config["std"]) == ([*handwritten.MEAN], [*handwritten.STD])
    for line in (out / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest
    weights = load_file(out / "model.safetensors")
    for name, value in load_file(run.student).items():
        assert torch.equal(weights[name], value)
    card = (out / "README.md").read_text()
    assert "`model.safetensors`" in card
    assert "`class_names` is in `config.json`.\n" in card
    assert set(re.findall(r"[\w.]+\.json", card)) == {"config.json"}  # what is named is there
    for each in out.iterdir():
        assert str(tmp_path).encode() not in each.read_bytes()


def test_what_is_pushed_teaches_as_the_file_does(
    hub: Hub, teacher_file: Path, tmp_path: Path
) -> None:
    words = (*DIGITS, "student=convnet_small", f"student.checkpoint='{teacher_file}'")
    address = push([*words, f"to=hf://{REPOSITORY}"], console=silent())
    assert address == f"hf://{REPOSITORY}@{hub.refs[REPOSITORY]['main']}"
    results: list[Result] = []
    for number, given in enumerate((f"teacher=hf://{REPOSITORY}", None)):
        kept = tiny(
            teacher_file, tmp_path / str(number), "temperature=constant", "trainer.epochs=1"
        )
        if given is not None:
            kept = [given, *(each for each in kept if not each.startswith("teacher.checkpoint"))]
        results.append(distill(kept, console=silent()))
    ours, file = results
    assert (ours.teacher, ours.test) == (file.teacher, file.test)
    own = models.create("convnet_small", num_classes=10, in_channels=1)
    models.load_weights(own, teacher_file)
    assert ours.teacher_sha256 == file.teacher_sha256 == models.weights_sha256(own)
    config = (tmp_path / "0" / "config.yaml").read_text()
    assert hub.refs[REPOSITORY]["main"] in config  # which weights, for whoever reads the run
    # The same command again finds its run.
    again = tiny(teacher_file, tmp_path / "0", "temperature=constant", "trainer.epochs=1")
    again = [each for each in again if not each.startswith("teacher.checkpoint")]
    assert distill([f"teacher=hf://{REPOSITORY}", *again], console=silent()) == ours


def test_a_student_starts_from_there_and_what_is_given_wins(
    hub: Hub, files: dict[str, bytes]
) -> None:
    hold(hub, files)
    config = configure([f"student=hf://{REPOSITORY}", f"teacher=hf://{REPOSITORY}"])
    assert config.student.name == config.teacher.name == "convnet_tiny"
    assert list(config.teacher.mean) == [*handwritten.MEAN]
    assert "mean" not in config.student
    for words in (("teacher.mean=[0.5]", "teacher=hf://"), ("teacher=hf://", "teacher.mean=[0.5]")):
        given = [each.replace("hf://", f"hf://{REPOSITORY}") for each in words]
        assert list(configure(given).teacher.mean) == [0.5]
    assert main(["evaluate", *DIGITS, "probe.size=0", f"student=hf://{REPOSITORY}"]) == 0


def test_a_revision_pins_and_the_newest_is_taken_without_one(
    hub: Hub, files: dict[str, bytes]
) -> None:
    first = hold(hub, files)
    hub.refs[REPOSITORY]["v1"] = first
    renamed = changed(files["config.json"], mean=[0.25])
    second = hold(hub, sums({**files, "config.json": renamed}))
    for revision, commit in (("@v1", first), (f"@{first}", first), ("", second), ("@main", second)):
        found = hubs.fetch(f"hf://{REPOSITORY}{revision}")
        assert found.checkpoint.parent.name == commit
        assert (found.mean == [0.25]) == (commit == second)


def test_the_cache_serves_where_there_is_no_network_and_its_files_are_checked(
    hub: Hub, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    hold(hub, files)
    address = f"hf://{REPOSITORY}"
    found = hubs.fetch(address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hubs.fetch.cache_clear()
    asked = len(hub.asked)
    assert hubs.fetch(address) == found
    assert len(hub.asked) == asked
    with pytest.raises(UserError, match=r"cannot be reached .*not in this machine's cache"):
        hubs.fetch("hf://somebody/else")
    blob = found.checkpoint.resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"\x7f")
    hubs.fetch.cache_clear()
    with pytest.raises(UserError, match=r"model\.safetensors is not what was published"):
        hubs.fetch(address)


def test_timms_repositories_are_read_and_nothing_of_them_is_run(
    hub: Hub, files: dict[str, bytes]
) -> None:
    held = {
        "architecture": "resnet18",
        "num_classes": 1000,
        "pretrained_cfg": {"mean": [0.4, 0.5, 0.6], "std": [0.1] * 3, "input_size": [3, 160, 128]},
    }
    weights = {"model.safetensors": files["model.safetensors"], "modeling.py": b"raise SystemExit"}
    hold(hub, {"config.json": json.dumps(held).encode(), **weights})
    config = configure([f"teacher=hf://{REPOSITORY}"])
    assert config.teacher.name == "timm:resnet18"
    assert list(config.teacher.mean) == [0.4, 0.5, 0.6]
    assert list(config.teacher.image_size) == [160, 128]
    assert not [each for each in hub.asked if "modeling" in each]


REFUSED = {
    "other weights": ({"model.safetensors": b"0"}, "model.safetensors is not what was published"),
    "another network": (
        {"config.json": {"architecture": "os.path:join"}},
        "network is .os.path:join., which no code is downloaded for",
    ),
    "a network of a path": ({"config.json": {"architecture": "../x"}}, "which no code is down"),
    "no network": ({"config.json": {"architecture": None}}, "its network is null"),
    "text for numbers": ({"config.json": {"mean": ["a"]}}, "its mean is .*, not a list of num"),
    "somebody else's": ({"config.json": {"library_name": "x"}}, "neither rlkd's nor timm's"),
    "no JSON": ({"config.json": b"{"}, r"config\.json is not valid JSON"),
    "large": ({"config.json": b" " * (4 * 2**20 + 1)}, r"config\.json has 4194305 bytes, above"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_as_published_is_refused_in_a_line(
    case: str, hub: Hub, files: dict[str, bytes]
) -> None:
    wrong, line = REFUSED[case]
    for name, value in wrong.items():
        files[name] = value if isinstance(value, bytes) else changed(files[name], **value)
    hold(hub, files if case == "other weights" else sums(files))
    with pytest.raises(UserError, match=line) as refused:
        configure([f"teacher=hf://{REPOSITORY}"])
    assert "\n" not in str(refused.value)


def test_a_download_that_differs_from_the_listing_is_refused(
    hub: Hub, files: dict[str, bytes]
) -> None:
    hold(hub, files)
    weights = files["model.safetensors"]
    hub.served["model.safetensors"] = weights[:-1] + bytes([weights[-1] ^ 1])
    for served, line in ((None, "is not what was published"), (weights[:-8], "has 2,960")):
        if served is not None:
            hub.served["model.safetensors"] = served
        with pytest.raises(UserError, match=rf"model\.safetensors .*{line}") as refused:
            hubs.fetch(f"hf://{REPOSITORY}")
        Path(str(refused.value).partition("remove ")[2].removesuffix(" and try again")).unlink()
    hub.served.clear()
    assert hubs.fetch(f"hf://{REPOSITORY}").architecture == "convnet_tiny"


def test_weights_whose_sha256_nobody_publishes_are_refused(
    hub: Hub, files: dict[str, bytes]
) -> None:
    del files["SHA256SUMS"]
    hub.stored = set()
    hold(hub, files)
    with pytest.raises(UserError, match=r"publishes no SHA-256 of model\.safetensors"):
        hubs.fetch(f"hf://{REPOSITORY}")


@pytest.mark.parametrize(
    ("address", "line"),
    [
        ("hf://somebody/nothing", "the Hub has none such"),
        (f"hf://{REPOSITORY}@v9", "the Hub has none such"),
        ("hf://digits", "give hf://user/name, or hf://user/name@revision"),
        ("hf://a/../b", "give hf://user/name"),
        (f"hf://{REPOSITORY}@", "give hf://user/name"),
    ],
)
def test_an_address_of_nothing_is_refused(
    address: str, line: str, hub: Hub, files: dict[str, bytes], refuse: Refuse
) -> None:
    hold(hub, files)
    assert_told(refuse("show", f"teacher={address}"), line)


def test_a_repository_without_weights_is_refused(hub: Hub) -> None:
    hold(hub, {"README.md": b"words"})
    with pytest.raises(UserError, match=r"has no model\.safetensors"):
        hubs.fetch(f"hf://{REPOSITORY}")


def test_classes_in_another_order_are_refused_as_of_any_teacher(
    hub: Hub, files: dict[str, bytes]
) -> None:
    hold(hub, files)
    path = hubs.fetch(f"hf://{REPOSITORY}").checkpoint
    names = [str(each) for each in range(10)]
    check_order(path, names)
    with pytest.raises(UserError, match="another class order"):
        check_order(path, names[::-1])
    foreign = path.parent.parent / "foreign" / "model.safetensors"
    foreign.parent.mkdir()
    (foreign.parent / "config.json").write_text('{"class_names": ["a"], "library_name": "timm"}')
    check_order(foreign, names)


def test_without_huggingface_hub_one_line_says_how_to_get_it(
    refuse: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    line = refuse("show", f"teacher=hf://{REPOSITORY}")
    assert_told(line, r"needs huggingface_hub .*pip install huggingface_hub")


def test_a_push_touches_nothing_of_anybody_elses(tmp_path: Path, refuse: Refuse) -> None:
    run = classifier_run(tmp_path / "run")
    words = ("push", f"run={run.path}")
    assert_told(refuse(*words), "to is missing")
    assert_told(refuse(*words, f"to=hf://{REPOSITORY}@v1"), "leave @ out")
    assert_told(refuse(*words, f"to={run.path}"), r"holds .*, which no push wrote")
    own = tmp_path / "own"
    own.mkdir()
    (own / "README.md").write_text("my words")
    assert_told(refuse(*words, f"to={own}"), r"holds README\.md, which no push wrote")
    assert_told(refuse(*words, f"to={own / 'README.md'}"), "is a file")
    assert_told(refuse("push", f"run={own}", f"to={tmp_path / 'new'}"), r"has no config\.yaml")


def test_a_hub_that_refuses_a_push_is_reported_in_a_line(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = classifier_run(tmp_path / "run")
    before = fingerprint(run.path)
    monkeypatch.setattr(Hub, "commit", lambda *_: 1 / 0)  # the server breaks off
    with pytest.raises(UserError, match=f"hf://{REPOSITORY}: ") as refused:
        push([f"run={run.path}", f"to=hf://{REPOSITORY}"], console=silent())
    assert "\n" not in str(refused.value)
    assert fingerprint(run.path) == before


@pytest.mark.long
def test_a_detector_travels_too(hub: Hub, tmp_path: Path) -> None:
    run = detector_run(tmp_path / "run")
    address = push([f"run={run.path}", f"to=hf://{REPOSITORY}"], console=silent())
    config = configure(["task=detection", f"teacher={address}", "student=fasterrcnn_tiny"])
    assert config.teacher.name == "fasterrcnn_tiny"
    assert config.teacher.mean is None
