"""Paths on the command line: taken as the shell hands them over, whatever characters they have."""

import getpass
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from hydra.core.config_store import ConfigStore
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image
from tests.marks import but_long
from tests.support.refusal import Refuse, assert_told, pictures
from tests.support.run_folders import classifier_run
from tests.support.runs import SOURCES, TINY, write_teacher

import rlkd.configs
from rlkd import models
from rlkd.cli import main
from rlkd.config.compose import as_yaml, configure, sweep
from rlkd.config.overrides import PATHS, parse, quoted
from rlkd.engine.finished_run import configured
from rlkd.errors import UserError
from rlkd.sweep.plan import plan

pytestmark = pytest.mark.usefixtures("plainly")

AWKWARD = (
    *("a b", " a ", "ü 学 ñ", "a=b", "a,b", "~a", "a~", "#a", "a #b", "(1)", "[1]", "[a,b]", "{a}"),
    *("{a:1}", "a&b", "it's", "'a'", '"a"', "a'b\"c", "wow!", "a;b", "$HOME", "a$b", "a\\b", "a\\"),
    *(
        "\\'",
        "%s%d",
        "*",
        "a?b",
        "a|b",
        "<a>",
        "a::b",
        "a:b",
        "@a",
        "`a`",
        "null",
        "true",
        "7",
        "007",
    ),
    *("1e3", "choice(a,b)", "range(1,3)", "glob(*)", "-a", "+a", "a.b", "[bold]"),
)
"""Names of folders; `/` and NUL are the only characters that a file system refuses."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stand in an empty folder, with another as the home."""
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    yield tmp_path / "here"
    assert list((tmp_path / "home").iterdir()) == []


NAMES = st.text(
    st.characters(exclude_characters="/\0\n\r\x85\u2028\u2029", codec="utf-8"), min_size=1
).filter(lambda name: name not in (".", "..") and "${" not in name)


@pytest.mark.parametrize("count", but_long([5, 100], 5))
def test_any_name_of_a_folder_comes_back_as_it_was_given(count: int) -> None:
    @settings(deadline=None, max_examples=count)
    @given(NAMES)
    @example("\\' \\\\' \"")
    @example("[" * 255)
    def comes_back(name: str) -> None:
        config = configure(["data=cifar100", f"data.root=/data/{name}"])
        assert config.data.root == f"/data/{name}"
        assert OmegaConf.create(as_yaml(config.data)).root == f"/data/{name}"

    comes_back()


@pytest.mark.parametrize("name", AWKWARD)
def test_an_awkward_name_is_a_path_in_every_setting(name: str, here: Path) -> None:
    (here / name).mkdir()
    data = {
        "cifar100": ("root",),
        "coco": ("train_images", "train_annotations", "test_images", "test_annotations"),
        "webdataset": ("train", "test", "class_names"),
    }
    for choice, keys in data.items():
        words = [f"data.{key}={here}/{name}/x" for key in keys]
        config = configure([f"data={choice}", "data.root=.", *words])
        assert [config.data[key] for key in keys] == [f"{here}/{name}/x"] * len(keys)
    keys = ("teacher.checkpoint", "student.checkpoint", "temperature.like", "output")
    config = configure(["temperature=random", *(f"{key}={here}/{name}" for key in keys)])
    assert [OmegaConf.select(config, key) for key in keys] == [f"{here}/{name}"] * len(keys)


def test_a_run_with_awkward_paths_reads_and_writes_there_and_nowhere_else(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = here.joinpath(*AWKWARD)
    place.mkdir(parents=True)
    write_teacher(place / "epoch=9-step=100.ckpt")
    teacher = (place / "epoch=9-step=100.ckpt").relative_to(here)
    words = (*TINY, *SOURCES["constant"], "trainer.epochs=1", f"teacher.checkpoint={teacher}")
    assert main(["distill", *words, f"output={place}/run"]) == 0
    assert f"everything is in {place}/run\n" in capsys.readouterr().out
    config = yaml.safe_load((place / "run" / "config.yaml").read_text(encoding="utf-8"))
    assert (config["output"], config["teacher"]["checkpoint"]) == (f"{place}/run", str(teacher))
    assert list((place / "run" / "tensorboard").glob("events*"))
    assert json.loads((place / "run" / "result.json").read_text())["epochs"] == 1
    Image.new("L", (8, 8)).save(place / "a.png")
    run = f"run={place.relative_to(here)}/run"
    assert main(["evaluate", run]) == 0
    assert main(["predict", run, f"images={place}", f"output={place}/said"]) == 0
    assert main(["export", run, "format=safetensors", f"to={place}/a.safetensors"]) == 0
    written = {"run", "said", "a.safetensors", "a.safetensors.json", "README.md"}
    read = {"epoch=9-step=100.ckpt", "a.png"}
    assert {each.name for each in place.iterdir()} == written | read
    for depth in range(len(AWKWARD)):
        assert [each.name for each in here.joinpath(*AWKWARD[:depth]).iterdir()] == [AWKWARD[depth]]


@pytest.mark.parametrize("name", ["ü (1)", "a=b, c", "#1", "[1]"])
def test_images_are_read_from_an_awkward_folder(name: str, here: Path) -> None:
    root = pictures(here / name)
    (root / "train").rename(root / name)
    teacher = root / "a=1,b.ckpt"
    models.save_weights(models.create("convnet_small", num_classes=2, in_channels=3), teacher)
    words = (
        *("data=folder", f"data.root={root}", f"data.train={name}", "data.image_size=8"),
        *(f"teacher.checkpoint={teacher}", "output=run", "temperature=constant"),
        *("trainer.epochs=1", "trainer.threads=1", "trainer.accelerator=cpu"),
    )
    assert main(["distill", *words]) == 0
    assert (here / "run" / "result.json").is_file()


def test_a_path_keeps_what_hydra_means_by_a_few_forms(here: Path) -> None:
    config = configure(
        [
            *("data=cifar100", "data.root='a \"b'", "teacher.checkpoint=null"),
            *('student.checkpoint="it\'s"', "output=runs/${data.limit}_${seed}", "data.limit=9"),
        ]
    )
    assert config.data.root == 'a "b'
    assert config.teacher.checkpoint is None
    assert config.student.checkpoint == "it's"
    assert config.output == "runs/9_0"
    patterns = configure(["data=parquet", "data.root=.", "data.train=[a-*,'b c']"]).data.train
    assert patterns == ["a-*", "b c"]


def test_a_list_is_refused_for_a_single_path_unless_it_is_the_name_of_a_file(here: Path) -> None:
    (here / "[a,b]").touch()
    given = "teacher.checkpoint=[a,b]"
    assert configure([given]).teacher.checkpoint == "[a,b]"
    assert configure(["output=[q9]"]).output == "[q9]"
    assert configure(["data=parquet", "data.root=.", "data.train=[a]"]).data.train == ["a"]
    (here / "[a,b]").unlink()
    with pytest.raises(UserError, match=r"^teacher\.checkpoint=\['a', 'b'\]: give one path, no li"):
        configure([given])


def test_a_list_of_checkpoints_at_the_command_line_is_one_line(refuse: Refuse) -> None:
    told = refuse("distill", "teacher.checkpoint=[a.pth,b.pth]")
    assert_told(told, r"^rlkd: teacher\.checkpoint=.*a\.pth.*b\.pth.*: give one path, no list$")


@pytest.mark.parametrize("number", ["7", "2024", "007", "1_000", "1e3", "true"])
def test_a_number_for_a_text_is_the_text(number: str, here: Path) -> None:
    words = (*TINY, "trainer.epochs=1", "student=convnet_tiny")
    config = configure([f"output={number}", f"teacher.checkpoint={number}"])
    assert (config.output, config.teacher.checkpoint) == (number, number)
    assert configure(["data=cifar10", f"data.root={number}"]).data.root == number
    assert configure(["data=folder", "data.root=.", f"data.test={number}"]).data.test == number
    parquet = configure(["data=parquet", "data.root=.", f"data.label_column={number}"])
    assert parquet.data.label_column == number
    assert main(["train", *words, f"output={number}"]) == 0
    assert [each.name for each in here.iterdir()] == [number]


def test_a_number_stays_one_where_a_number_is_wanted() -> None:
    assert configure(["data=shapes", "data.train=64"]).data.train == 64
    assert configure(["data=parquet", "data.root=.", "data.class_names=10"]).data.class_names == 10
    assert sweep(["data.train=64,128"]) == ({"data.train": ["64", "128"]}, [])


def test_a_comma_in_a_path_asks_for_no_sweep(here: Path) -> None:
    given = [f"{key}=a,b" for key in sorted(PATHS)]
    assert sweep(given) == ({}, given)
    explicit = "teacher.checkpoint=choice('a,b','c=1.ckpt')"
    swept, single = sweep([explicit, "output=x,y", "seed=0,1"])
    assert swept == {"teacher.checkpoint": ["a,b", "c=1.ckpt"], "seed": ["0", "1"]}
    assert single == ["output=x,y"]
    planned = plan([explicit, "output=x,y", "seed=0,1"])
    assert [each.config.teacher.checkpoint for each in planned] == ["a,b", "c=1.ckpt"] * 2
    assert {each.path.parent for each in planned} == {Path("x,y")}


@pytest.mark.parametrize("key", ["teacher.checkpoint", "student.name"])
def test_texts_in_quotes_are_swept_as_they_are(key: str, here: Path) -> None:
    texts = [
        "ü.pth",
        "~a b",
        "#b",
        "it's",
        "a'b\"c",
        "null",
        "7",
        "[a,b]",
        "choice(ü)",
        "a:b",
        "c\\",
    ]
    (swept,) = sweep([f"{key}=choice({','.join(quoted(each) for each in texts)},plain)"])[
        0
    ].values()
    read = [parse(f"{key}={each}") for each in swept]
    assert [each.value() for each in read] == [*texts, "plain"]
    assert not any(each.is_sweep_override() for each in read)
    (swept,) = sweep([f"{key}=choice('${{seed}}/a',b)"])[0].values()
    assert configure([f"{key}={swept[0]}"]) == configure([f"{key}=${{seed}}/a"])


@pytest.mark.parametrize("value", ["choice(ü.pth,c.pth)", "choice(null,a)", "choice(~/a,b)"])
def test_a_choice_that_does_not_parse_is_no_path(value: str) -> None:
    with pytest.raises(UserError, match=rf"^teacher\.checkpoint={re.escape(value)}: "):
        sweep([f"teacher.checkpoint={value}"])


def test_a_tilde_is_the_home_folder_in_every_path(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = here.parent / "home"
    roots = configure(["data=coco", "data.root=~/data", "data.test_images=~/test"])
    assert (roots.data.root, roots.data.test_images) == (f"{home}/data", f"{home}/test")
    keys = ("teacher.checkpoint", "student.checkpoint", "temperature.like", "output")
    config = configure(["temperature=random", *(f"{key}=~/a/${{seed}}" for key in keys)])
    assert [OmegaConf.select(config, key) for key in keys] == [f"{home}/a/0"] * len(keys)
    assert configure([f"output=~{getpass.getuser()}"]).output == str(
        Path(f"~{getpass.getuser()}").expanduser()
    )
    assert configure(["output=./~"]).output == str(here / "~")


def test_a_run_in_the_home_folder_has_all_its_files_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    write_teacher(home / "t.pth")
    words = (*TINY, *SOURCES["constant"], "trainer.epochs=1", "teacher.checkpoint=~/t.pth")
    assert main(["distill", *words, "output=~/run"]) == 0
    assert yaml.safe_load((home / "run" / "config.yaml").read_text())["output"] == f"{home}/run"
    assert list((home / "run" / "tensorboard").glob("events*"))
    assert (home / "run" / "result.json").is_file()
    Image.new("L", (8, 8)).save(home / "a.png")
    assert main(["predict", "run=~/run", "images=~/a.png", "output=~/said"]) == 0
    assert (home / "said" / "predictions.json").is_file()
    assert main(["export", "run=~/run", "format=safetensors", "to=~/a.safetensors"]) == 0
    assert (home / "a.safetensors").is_file()
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("word", "told"),
    [
        (
            "data.root=~nobody-of-this-name/x",
            r"data\.root=~nobody-of-this-name/x: there is no such",
        ),
        ("output=", r"output is missing: give output=\.\.\."),
        ("output=''", r"output is missing: give output=\.\.\."),
        ("output=a\udcffb", r"output='a\\udcffb': a path is one line of UTF-8 text"),
        ("output=a\nb", r"output='a\\nb': a path is one line of UTF-8 text"),
        ("output=a${b", r"^rlkd: output=a\$\{b: "),
        ("output=a${b}", r"^rlkd: output: Interpolation key 'b' not found"),
        ("output=choice(a,b)", r"output=choice\(a,b\): several values are for `rlkd compare`"),
    ],
)
def test_what_is_no_path_is_refused_by_its_key(word: str, told: str, refuse: Refuse) -> None:
    assert_told(refuse("show", "data=cifar100", word), told)


def test_a_folder_of_ones_own_groups_may_have_any_name(tmp_path: Path) -> None:
    packaged = Path(rlkd.configs.__file__).parent / "method" / "sp.yaml"
    for name in ("a b", "ü#[1]", "it's, {x}", "a=b$c"):
        own = tmp_path / name / "method" / "mine.yaml"
        own.parent.mkdir(parents=True)
        own.write_text(packaged.read_text())
        assert "sp" in configure([f"configs={tmp_path / name}", "method=mine"]).method.terms


def test_settings_of_a_run_have_the_same_grammar(tmp_path: Path) -> None:
    run = classifier_run(tmp_path / "a=b, c").path

    def replaced(*words: str) -> Callable[[str], object]:
        config = configured(words, run=str(run))
        return lambda key: OmegaConf.select(config, key)

    assert replaced("student.checkpoint='a b'")("student.checkpoint") == "a b"
    assert replaced("student.checkpoint=a=b,c")("student.checkpoint") == "a=b,c"
    assert replaced("trainer.precision='bf16-mixed'")("trainer.precision") == "bf16-mixed"
    assert replaced("exploration.mixed=[0.1, 0.3]")("exploration.mixed") == [0.1, 0.3]
    assert replaced("++trainer.threads=2")("trainer.threads") == 2
    assert replaced("output=~/x")("output") == str(Path("~/x").expanduser())
    with pytest.raises(UserError, match=r"nothing reads trainer\.thread: did you mean trainer\.th"):
        replaced("+trainer.thread=2")


def test_a_setting_is_added_to_a_run_where_nothing_has_been_composed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = str(classifier_run(tmp_path / "run").path)
    old = OmegaConf.load(f"{run}/config.yaml")
    del old.teacher.image_size
    OmegaConf.save(old, f"{run}/config.yaml")
    monkeypatch.setattr(ConfigStore.instance(), "repo", {})  # as in a fresh process
    assert configured(["+teacher.image_size=16"], run=run).teacher.image_size == 16
    for setting in ("student.pretrained", "teacher.foo"):
        with pytest.raises(UserError, match=f"^nothing reads {setting}: "):
            configured([f"+{setting}=1"], run=run)


def read_from(root: Path) -> None:
    """Somebody's own data."""


def numbered(**settings: float) -> None:
    """Somebody's own data, of which numbers are asked."""


def test_paths_in_ones_own_files_are_read_alike(here: Path) -> None:
    own = here / "groups" / "experiment" / "mine.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("# @package _global_\nteacher: {checkpoint: ~/t.pth}\noutput: 7\n")
    config = configure(["configs=groups", "experiment=mine"])
    assert config.teacher.checkpoint == str(here.parent / "home" / "t.pth")
    assert config.output == "7"
    data = here / "groups" / "data" / "numbers.yaml"
    data.parent.mkdir()
    data.write_text(
        "_target_: tests.config.test_paths.numbered\ntest_images: 20\ntest: 0.5\nroot: ~/a\n"
    )
    numbers = configure(["configs=groups", "data=numbers", "trust=tests"]).data
    assert (numbers.test_images, numbers.test) == (20, 0.5)
    assert numbers.root == str(here.parent / "home" / "a")
    for target in ("rlkd.data.datasets.folder", f"{__name__}.read_from"):
        data.write_text(f"_target_: {target}\nroot: 2024\n")
        own_data = configure(["configs=groups", "data=numbers", "trust=tests"]).data
        assert own_data.root == "2024"
    own.write_text("# @package _global_\nteacher: {checkpoint: [a.pth, b.pth]}\n")
    with pytest.raises(UserError, match=r"^teacher\.checkpoint=.*: give one path, no list$"):
        configure(["configs=groups", "experiment=mine"])
