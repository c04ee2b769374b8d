from pathlib import Path

import pytest

from rlkd.errors import UserError
from rlkd.reporting import PolicyMap, pool

EDGES = [0.0, 0.5, 1.0]


def test_a_map_comes_back_from_its_file(tmp_path: Path, policy: PolicyMap) -> None:
    policy.write(tmp_path / "policy.json")
    assert PolicyMap.read(tmp_path / "policy.json") == policy


def test_pooling_weighs_means_by_counts(policy: PolicyMap) -> None:
    other = PolicyMap(EDGES, EDGES, [[8.0, 5.0], [None, 8.0]], [[1, 4], [0, 2]])
    pooled = pool([policy, other])
    # (4 * 3 + 8 * 1) / 4 = 5; only the other has [0][1]; only the first has [1][0]
    assert pooled.mean_temperature == [[5.0, 5.0], [2.0, 8.0]]
    assert pooled.count == [[4, 4], [1, 4]]


def test_a_bin_without_instances_has_no_mean() -> None:
    policy = PolicyMap([0.0, 1.0], EDGES, [[4.0, float("nan")]], [[0, 2]])
    assert [policy.cell(0, 0), policy.cell(0, 1)] == [None, None]
    assert pool([policy]).mean_temperature == [[None, None]]


def test_maps_of_different_bins_are_not_pooled(policy: PolicyMap) -> None:
    other = PolicyMap([0.0, 0.4, 1.0], EDGES, policy.mean_temperature, policy.count)
    with pytest.raises(ValueError, match="different bins"):
        pool([policy, other])


def test_grids_must_be_as_large_as_the_edges_say() -> None:
    with pytest.raises(ValueError, match="count must have 1 rows of 2 cells"):
        PolicyMap([0.0, 1.0], EDGES, [[4.0, 4.0]], [[1]])


@pytest.mark.parametrize(
    ("grids", "told"),
    [
        ('"mean_temperature": [[4]], "count": [[1, 2]]', "count must have 1 rows of 1 cells"),
        (
            '"mean_temperature": [4], "count": [[1]]',
            r"'mean_temperature\[0\]' is 4, expected a",
        ),
        (
            '"mean_temperature": [["hot"]], "count": [[1]]',
            r"\[0\]\[0\]' is \"hot\", expected a number",
        ),
        ('"count": [[1]]', "'mean_temperature' is missing"),
        ('"mean_temperature": [[1e999]], "count": [[1]]', "is Infinity, expected a number"),
        ('"mean_temperature": [[4]], "count": [[-1]]', "is -1, expected a whole number from 0"),
        (f'"mean_temperature": [[4]], "count": [[{"9" * 400}]]', "expected a whole number from 0"),
    ],
)
def test_a_damaged_file_is_the_users_to_fix(tmp_path: Path, grids: str, told: str) -> None:
    edges = '"teacher_confidence_edges": [0, 1], "student_confidence_edges": [0, 1]'
    path = tmp_path / "policy.json"
    path.write_text(f'{{"format": 1, {edges}, {grids}}}')
    with pytest.raises(UserError, match=rf"policy\.json: .*{told}") as caught:
        PolicyMap.read(path)
    assert "\n" not in str(caught.value)


def test_edges_that_do_not_ascend_are_no_bins() -> None:
    with pytest.raises(ValueError, match="must ascend"):
        PolicyMap([0.0, 1.0], [0.0, 1.0, 0.5], [[4.0, 4.0]], [[1, 1]])
