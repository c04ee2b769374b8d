"""Texts that somebody may have for a name, a label or a value, to be put through every output."""

NASTY = (
    # Markdown
    "a|b",
    "a\\|b",
    "`code` ``",
    "**bold** *it* _it_ __b__ ~~s~~ $x$",
    "[link](javascript:alert(1))",
    "![picture](http://example.org/a.png)",
    "[^1] [ref]: http://example.org",
    "# heading #",
    "- [x] item",
    "1. item",
    "> quoted",
    "---",
    "&lt;b&gt; &#124; & <0.001",
    # HTML
    "<script>alert(1)</script>",
    "\"' onload=alert(1) x='",
    "--> ]]> </title></style><!-- ",
    # CSV
    '=HYPERLINK("http://example.org","x")',
    "+1+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(1)",
    "\t=1",
    "'quoted",
    'a,"b",c',
    "＝1+1",  # noqa: RUF001
    "-1.5",
    "1e-3",
    # terminals
    "o/[/b]x [bold red] :smile:",
    "\x1b[2J\x1b]0;title\x07red\x1b[31m",
    "a\rb\bc\x00d\x7f\x9b31m",
    "a\nrlkd: note: all is well",
    "a\u2028b\u2029c\x85d\x0be\x0cf",
    "\u202egnp.exe \u2066x\u2069",
    "half \udcff\ud800",
    # nothing of all this
    "ü 学 ñ 🙂 e\u0301",
    " in spaces ",
)
