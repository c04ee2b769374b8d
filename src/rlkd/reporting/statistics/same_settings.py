"""The settings of compared runs: they may differ in what was swept, and in nothing else."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence

from rlkd.errors import UserError

Settings = Mapping[str, object]
Named = tuple[str, int, Settings]
"""The run's name, its seed, and its settings: dotted key to value."""

OWN = ("seed", "output", "chosen")
ABSENT = "absent"


def differing_settings(
    combinations: Sequence[Sequence[Named]], *, swept: Collection[str], implied: Collection[str]
) -> tuple[str, ...]:
    """Return the implied settings that differ between combinations; refuse all other differences.

    The seeds of one combination must agree in everything, the swept settings included. Between
    combinations, what was swept differs with all below it. A value that only repeats the run's
    seed, in a key named seed or within a path, is no difference.

    Args:
        combinations: The runs of each combination whose settings are known; the baseline first.
        swept: The swept keys.
        implied: Keys that a swept choice may set besides its own.

    Raises:
        UserError: Two runs differ in another setting.
    """
    known = [runs for runs in combinations if runs]
    found: dict[str, None] = {}
    for runs in known:
        for run in runs[1:]:
            for key in _differing(runs[0], run):
                raise _refusal(runs[0], run, key)
        for key in _differing(known[0][0], runs[0]):
            if _under(key, swept):
                continue
            if not _under(key, implied):
                raise _refusal(known[0][0], runs[0], key)
            found[key] = None
    return tuple(found)


def _differing(one: Named, other: Named) -> Iterator[str]:
    settings, other_settings = one[2], other[2]
    for key in dict.fromkeys((*settings, *other_settings)):
        value, other_value = settings.get(key, ABSENT), other_settings.get(key, ABSENT)
        if _under(key, OWN) or value == other_value:
            continue
        if _without_seed(key, value, one[1]) != _without_seed(key, other_value, other[1]):
            yield key


def _under(key: str, tops: Collection[str]) -> bool:
    return any(key == top or key.startswith(f"{top}.") for top in tops)


def _without_seed(key: str, value: object, seed: int) -> object:
    if key.rpartition(".")[2] == "seed" and value == seed:
        return "<seed>"
    if isinstance(value, str):
        return re.sub(rf"(?<!\d){seed}(?!\d)", "<seed>", value)
    return value


def _refusal(one: Named, other: Named, key: str) -> UserError:
    values = " and ".join(str(settings.get(key, ABSENT)) for _, _, settings in (one, other))
    return UserError(
        f"{one[0]!r} and {other[0]!r} differ in {key} ({values}), which the comparison does not "
        "sweep; repeat one of them with the other's setting"
    )
