"""JSON that nobody should write: what any of its values is changed to."""

import copy
import json
from random import Random
from typing import Any

DEEP = "[" * 100_000
ODD: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1.5,
        2**31,
        2**63,
        -(2**63),
        10**30,
        1e308,
        float("nan"),
        float("inf"),
    ),
    *(
        "",
        "x",
        "5",
        "\x00",
        "\x1b[2J",
        "[/b]",
        "<script>alert(1)</script>",
        "a\nb|c",
        "=1+1",
        "../../x",
        "\ud800",
    ),
    *("x" * 100_000, [], {}, [[]], [None], {"a": 1}, [1, 2, 3, 4], ["nan"] * 4, "é" * 300),
)


def spoilt_json(draw: Random, held: Any) -> str:
    """Return JSON with a value or two changed, removed or repeated; or a text that is no JSON."""
    if draw.random() < 0.15:
        return draw.choice(
            (
                "",
                "null",
                "5",
                "[]",
                "{}",
                '"x"',
                DEEP,
                '{"a":' * 50_000,
                "9" * 6000,
                "NaN",
                "[1e999999]",
                "\ufeff{}",
            )
        )
    changed = copy.deepcopy(held)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        spoil(draw, changed)
    text = json.dumps(changed)
    if draw.random() < 0.1:
        at = draw.randrange(len(text) + 1)
        text = (
            text[:at]
            + draw.choice(('"', "}", "]", ",", "9" * 5000, DEEP, "\\ud800", "\x00", ""))
            + text[at + 1 :]
        )
    return text


def spoil(draw: Random, held: Any) -> None:
    """Change one value somewhere in what JSON or YAML was read as; a lone value has none."""
    while isinstance(held, dict | list):
        keys = list(held) if isinstance(held, dict) else list(range(len(held)))
        if not keys:
            return
        key = draw.choice(keys)
        if isinstance(held[key], dict | list) and held[key] and draw.random() < 0.85:
            held = held[key]
            continue
        kind = draw.random()
        if kind < 0.7:
            held[key] = copy.deepcopy(draw.choice(ODD))
        elif kind < 0.85:
            del held[key]
        elif isinstance(held, dict):
            held[draw.choice(("x", "", "_target_", "id"))] = copy.deepcopy(
                draw.choice(list(held.values()))
            )
        else:
            held.append(copy.deepcopy(held[key]))
        return
