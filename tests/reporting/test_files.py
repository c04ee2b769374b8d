import os
from pathlib import Path

import pytest

from rlkd.errors import UserError
from rlkd.text_files import write_text


def test_a_write_that_breaks_off_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "result.json"
    write_text(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["result.json"]


def test_the_new_file_is_whole_before_it_takes_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "result.json"
    seen: list[str] = []
    rename = os.replace

    def watch(source: Path, target: Path) -> None:
        seen.append(Path(source).read_text())
        assert not path.exists()
        rename(source, target)

    monkeypatch.setattr(os, "replace", watch)
    write_text(path, "whole")
    assert seen == ["whole"]
    assert path.read_text() == "whole"


def test_a_folder_that_cannot_be_made_is_the_users_to_mend(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_text(tmp_path / "file" / "result.json", "text")
