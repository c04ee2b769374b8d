"""What people type that composes or builds nothing: one line with its key, and exit code 2."""

from pathlib import Path

import pytest
from tests.marks import but_long
from tests.support.refusal import Refuse, assert_told
from tests.support.runs import tiny

pytestmark = pytest.mark.usefixtures("plainly")

LONG = "a" * 300
DIGITS = "9" * 5000
DEEP = "[" * 300 + "]" * 300
STEP_LR = "scheduler._target_=torch.optim.lr_scheduler.StepLR"
TYPED = {
    "student.name=5": r"student\.name=5: give the name of a network",
    "teacher.name=5": r"teacher\.name=5: give the name of a network",
    "student.name=[a]": r"student\.name=\['a'\]: give the name of a network",
    f"output={LONG}": r"output=a{40}\.\.\.: output is too long for a path",
    f"output={'b/' * 3000}": r"output=.*: output is too long for a path",
    f"teacher.checkpoint={LONG}": r"teacher\.checkpoint=.*: teacher\.checkpoint is too long",
    f"configs={LONG}": r"configs=.*: configs is too long for a path",
    f"seed={DIGITS}": r"seed=9{900,} \.\.\. 9+: ",
    "seed=18446744073709551616": r"seed=18446744073709551616: give a whole number of at least 0",
    "seed=-9223372036854775809": r"seed=-9223372036854775809: give a whole number of at least 0",
    f"trainer.epochs={DIGITS}": r"trainer\.epochs=9{900,} \.\.\. 9+: ",
    f"+optimizer.x={DEEP}": r"optimizer\.x",
    STEP_LR: "scheduler does not build: .*milestones",
    f"{STEP_LR[:-6]}OneCycleLR": "scheduler does not build: .*gamma",
    f"{STEP_LR[:-6]}LambdaLR": "scheduler does not build: .*gamma",
    "scheduler.gamma=1e30": r"scheduler.gamma=1e\+30: give a number from",
    "scheduler.gamma=1e300": r"scheduler.gamma=1e\+300: give a number from",
    "scheduler.gamma=1e400": "scheduler.gamma=inf: give a number from",
    "scheduler.gamma=nan": "scheduler.gamma=nan: give a number from",
    "scheduler.gamma=1e6": r"scheduler does not build: from epoch \d+ on the .* rate is",
    "scheduler.gamma=true": "scheduler.gamma=true: give a number",
    "scheduler.milestones=5": "scheduler does not build: .*milestones=5",
    "optimizer.weight_decay=true": r"optimizer\.weight_decay=true: give a number|weight_decay=True",
    "optimizer.lr=true": r"optimizer\.lr=true: give a number|lr=True",
    "optimizer._target_=torch.optim.LBFGS": "optimizer does not build: ",
    "+optimizer.params=5": "optimizer does not build: .*params",
    "+optimizer._args_=[1]": r"nothing reads optimizer\._args_",
    "method.terms.kd.weight=true": r"method\.terms\.kd\.weight=true: give a number",
    "~seed": "seed cannot be left out",
    "~student.name": r"student\.name cannot be left out",
}


@pytest.mark.parametrize("setting", but_long(TYPED, *list(TYPED)[::3]))
def test_what_is_typed_is_refused_with_its_key(
    setting: str, refuse: Refuse, teacher_file: Path, tmp_path: Path
) -> None:
    settings = tiny(teacher_file, tmp_path / "run", "temperature=constant", setting)
    assert_told(refuse("distill", *settings), TYPED[setting])
