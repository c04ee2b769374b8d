"""The site that `make docs` builds, in which every warning is an error.

Why Sphinx, MyST and Furo: warnings as errors, the check of every link and anchor, and docstrings
read as they stand (autodoc, napoleon) are built in, while Material for MkDocs is in maintenance.
Pages are plain Markdown, links work on GitHub as well, and nothing of the site is fetched from
elsewhere: it opens offline, formulas are MathML.

The source folder is the repository, so that pages link to files of it as they do on GitHub.
"""

import sys
from pathlib import Path
from typing import Any

from docutils.nodes import SkipNode
from docutils.utils.math.latex2mathml import tex2mathml

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import generated  # noqa: E402

project, author, copyright = "rlkd", "the authors of rlkd", "the authors of rlkd, MIT licence"
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_nb"]
root_doc = "docs/index"
include_patterns = [
    *("docs/**", "CHANGELOG.md", "CONTRIBUTING.md", "LICENCES.md"),
    *("benchmarks/**.md", "benchmarks/**/*.md"),
]
exclude_patterns = [".*", "build", "dist", "runs", "src", "tests", "**/.ipynb_checkpoints"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # `make notebook` executes it, and keeps what it printed

default_role = "code"
smartquotes = False  # s' is a symbol
autodoc_default_options = {"members": True, "member-order": "bysource", "show-inheritance": True}
autodoc_typehints = "signature"
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = "rlkd"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_additional_pages = {"index": "redirect.html"}
html_show_sourcelink = False
html_math_renderer = "mathml"
templates_path = ["templates"]
linkcheck_anchors = False  # of other people's pages


def complete(app: Any, docname: str, source: list[str]) -> None:
    """Add to a page what is made from the code."""
    made = generated.PAGES.get(docname)
    if made is not None:
        source[0] += "\n" + made()


def inline(self: Any, node: Any) -> None:
    """Write a formula within a line as MathML, which browsers read by themselves."""
    self.body.append(tex2mathml(node.astext(), as_block=False))
    raise SkipNode


def block(self: Any, node: Any) -> None:
    """Write a formula on a line of its own."""
    self.body.append(f'<div class="math">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise SkipNode


def setup(app: Any) -> None:
    """Register the above."""
    app.connect("source-read", complete)
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
