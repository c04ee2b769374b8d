import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rlkd.errors import UserError
from rlkd.reporting import PolicyMap, Result, read_run, write_metrics


def test_a_folder_gives_back_what_the_run_wrote(
    tmp_path: Path, make_result: Callable[..., Result], policy: PolicyMap
) -> None:
    make_result().write(tmp_path / "result.json")
    write_metrics(tmp_path / "metrics.csv", [{"epoch": 1.0, "test/top1": 0.5}])
    assert read_run(tmp_path).policy is None
    policy.write(tmp_path / "policy.json")
    record = read_run(tmp_path)
    assert record.folder == tmp_path
    assert record.result == make_result()
    assert record.metrics == [{"epoch": 1.0, "test/top1": 0.5}]
    assert record.policy == policy


def test_a_missing_part_is_named(tmp_path: Path, make_result: Callable[..., Result]) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        read_run(tmp_path / "absent")
    with pytest.raises(UserError, match=r"result\.json does not exist"):
        read_run(tmp_path)
    make_result().write(tmp_path / "result.json")
    with pytest.raises(UserError, match=r"metrics\.csv does not exist"):
        read_run(tmp_path)


def test_figures_are_read_without_the_packages_that_draw_test_or_configure() -> None:
    heavy = {"rich", "scipy", "omegaconf", "yaml", "matplotlib", "jinja2", "lightning", "hydra"}
    code = f"import sys, rlkd.reporting; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
