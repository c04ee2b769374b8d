from dataclasses import replace

import pytest
from tests.reporting.conftest import Arms

from rlkd.reporting.results import provenance
from rlkd.reporting.results.result import ImageCounts, Scores


@pytest.mark.parametrize(("sha256", "told"), [("feed", False), ("cafe", True), (None, False)])
def test_one_teacher_is_known_by_its_weights(arms: Arms, sha256: str | None, told: bool) -> None:
    first, *rest = arms["kd"]
    # The same weights score a little differently where batch norms are folded, others may alike.
    scores = Scores(0.75 if told else 0.751, 0.95, 1.0)
    digest = sha256 and sha256 * 16
    other = replace(first, result=replace(first.result, teacher=scores, teacher_sha256=digest))
    found = provenance.warnings({**arms, "kd": [other, *rest]})
    assert ("The runs did not all learn from the same teacher." in found) == told


def test_what_arms_trained_on_is_told_once_or_by_arm(arms: Arms) -> None:
    assert dict(provenance.origin(arms))["Images"] == "40 trained on, 8 held out, in every arm"
    assert provenance.warnings(arms) == []
    mixed = ImageCounts(training=1200, validation=5, mixed=120, mixed_epochs=3)
    other = [replace(run, result=replace(run.result, images=mixed)) for run in arms["rlkd"]]
    differing = {**arms, "third": arms["kd"], "rlkd": other}
    told = (
        "kd; third: 40 trained on, 8 held out; rlkd: 1,200 trained on, 0 held out, 5 to validate "
        "on, 120 mixed in each of 3 explored epochs"
    )
    assert dict(provenance.origin(differing))["Images"] == told
    assert provenance.warnings(differing) == [f"The arms did not train on the same images. {told}."]
