"""Values that nobody should type, and ways to spoil text and bytes."""

import string
from random import Random

NUMBERS = (
    *("0", "-1", "1", "2", "3", "-0.0", "0.5", "2.5", "nan", "NaN", "inf", "-inf", "1e30", "-1e30"),
    *(
        "1e-30",
        "1e400",
        "1e-400",
        "99999999999999999999",
        "9223372036854775807",
        "-9223372036854775808",
    ),
    *(
        "18446744073709551616",
        "4294967296",
        "2147483648",
        "0x10",
        "1_000",
        "007",
        "1e",
        ".5",
        "5.",
        "--3",
    ),
    "9" * 5000,
)
TEXTS = (
    *(
        "",
        "''",
        '""',
        "abc",
        "true",
        "false",
        "null",
        "~",
        "???",
        "None",
        "[/b]x",
        "[bold]",
        "[red]y[/red]",
    ),
    *(
        "<script>alert(1)</script>",
        "=1+1",
        "@x",
        "-x",
        "+x",
        "|",
        "a|b",
        "a,b",
        "a=b",
        "a b",
        "a\nb",
        "a\tb",
    ),
    *(
        "\x1b[31mred",
        "\x07",
        "\x00",
        "ü",
        "日本語",
        "🙂",
        "\u202e",
        "\ufeff",
        "\udcff",
        "\ud800",
        "é" * 300,
    ),
    *(
        "x" * 300,
        "y" * 5000,
        "%s%n",
        "{0}",
        "$HOME",
        "`x`",
        "$(x)",
        "\\",
        "'",
        '"',
        "a'b",
        "#",
        "!",
        "*",
        "?",
    ),
    *(
        "..",
        ".",
        "/",
        "//",
        "a/../b",
        "~nobody",
        "con",
        "-",
        "--help",
        "file:///x",
        "http://localhost:1/x",
    ),
)
GRAMMAR = (
    *(
        "[]",
        "[1,2]",
        "[nan]",
        "[null]",
        "[[1]]",
        "[a,b,c]",
        "{}",
        "{a:1}",
        "{a:{b:c}}",
        "{1:2}",
        "[{a:1}]",
    ),
    *(
        "${seed}",
        "${nope}",
        "${oc.env:HOME}",
        "${oc.env:UNSET_HERE}",
        "${portion:1,2}",
        "${portion:a,b,c}",
    ),
    *(
        "${portion:${trainer.epochs},0,0}",
        "${",
        "${}",
        "${trainer}",
        "${..}",
        "${oc.decode:x}",
        "${oc.create:x}",
    ),
    *(
        "${probe_interval:-1,0}",
        "${probe_size:probe,nan}",
        "${temperature}",
        "${data.root}",
        "${output}",
    ),
    *(
        "range(1,3)",
        "range(0,1e9)",
        "choice(1,2)",
        "choice()",
        "glob(*)",
        "interval(0,1)",
        "int(3.7)",
    ),
    *(
        "float(x)",
        "sort(3,2)",
        "shuffle(1,2)",
        "bool(x)",
        "str([1])",
        "json_str({a:1})",
        "extend_list(1)",
    ),
    *(
        "[" * 800,
        "{a:" * 300,
        "(" * 200,
        "[" * 200 + "]" * 200,
        "{a:" * 60 + "1" + "}" * 60,
        "1,2,3",
        ",",
        "a,,b",
    ),
    *(
        "!!python/object/apply:os.getcwd []",
        "*a",
        "&a b",
        "<<",
        "1:2:3",
        "2024-01-01",
        "0o17",
        "on",
        "yes",
    ),
)


def value(draw: Random) -> str:
    """Return what to give a setting."""
    kind = draw.random()
    if kind < 0.45:
        return draw.choice(NUMBERS)
    if kind < 0.7:
        return draw.choice(TEXTS)
    if kind < 0.95:
        return draw.choice(GRAMMAR)
    letters = string.printable + "äß€\u2028\x85"
    return "".join(draw.choice(letters) for _ in range(draw.randrange(1, 30)))


def spoilt_text(draw: Random, text: str) -> str:
    """Return a text with a few letters or lines changed."""
    for _ in range(draw.choice((1, 1, 2, 5))):
        at = draw.randrange(len(text) + 1)
        kind = draw.randrange(6)
        if kind == 0:
            text = text[:at] + draw.choice(string.printable) + text[at + 1 :]
        elif kind == 1:
            text = text[:at] + text[at + draw.randrange(1, 20) :]
        elif kind == 2:
            text = text[:at] + value(draw)[:200] + text[at:]
        elif kind == 3:
            text = text[:at]
        elif kind == 4:
            lines = text.splitlines(keepends=True) or [""]
            lines.insert(draw.randrange(len(lines) + 1), draw.choice(lines))
            text = "".join(lines)
        else:
            lines = text.splitlines(keepends=True) or [""]
            del lines[draw.randrange(len(lines))]
            text = "".join(lines)
    return text


def spoilt_bytes(draw: Random, content: bytes) -> bytes:
    """Return a file's content with bits, bytes or stretches changed, oftener in its head."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 4, 16))):
        end = len(changed) if draw.random() < 0.5 else min(len(changed), 200)
        at = draw.randrange(end + 1)
        kind = draw.randrange(7)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << draw.randrange(8)
        elif kind == 1 and at < len(changed):
            changed[at] = draw.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif kind == 2:
            del changed[at:]
        elif kind == 3:
            del changed[at : at + draw.randrange(1, 64)]
        elif kind == 4:
            changed[at:at] = draw.randbytes(draw.randrange(1, 64))
        elif kind == 5:
            size = draw.choice((1, 2, 4, 8))
            changed[at : at + size] = draw.choice((b"\xff", b"\0", b"\x7f")) * size
        else:
            other = draw.randrange(len(changed) + 1)
            changed[at : at + 32] = changed[other : other + 32]
    return bytes(changed)
