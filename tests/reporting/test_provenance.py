from dataclasses import replace

import pytest
from tests.reporting.conftest import Arms

from rlkd.reporting import provenance
from rlkd.reporting.result import Scores


@pytest.mark.parametrize(("top1", "told"), [(0.75, False), (0.751, False), (0.76, True)])
def test_one_teacher_may_score_a_little_differently(arms: Arms, top1: float, told: bool) -> None:
    first, *rest = arms["kd"]
    other = replace(first, result=replace(first.result, teacher=Scores(top1, 0.95, 1.0)))
    found = provenance.warnings({**arms, "kd": [other, *rest]})
    assert ("The runs did not all learn from the same teacher." in found) == told
