"""How Sphinx makes a site of this folder: `scripts/docs` calls it. The pages are Markdown and read well without it.

Their order is that of docs/index.md, and nowhere else; what a page of the reference says is from scripts/reference.py.
"""

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))

import reference

import mae_ext

project, release, version = "mae_ext", mae_ext.__version__, mae_ext.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
html_theme = "furo"
html_title = f"mae_ext {release}"
html_copy_source = False
smartquotes = False  # -- is an option here, and no dash
highlight_language = "none"

myst_heading_anchors = 3  # links to headings are checked, as the host of the repository numbers them
autodoc_member_order = "bysource"
autodoc_default_options = {"exclude-members": "model_config"}  # pydantic's
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
python_use_unqualified_type_names = True
maximum_signature_line_length = 90

LITERAL = re.compile(r"`([^`]+)`(?=(\w?))")


def as_rst(docstring: list[str]) -> list[str]:
    """Docstrings are plain text with `code`; Sphinx takes them for reStructuredText, where * and _ mean something."""
    examples = [i for i, line in enumerate(docstring) if line.startswith(">>>")]
    start = examples[0] if examples else len(docstring)
    parts, text = [], "\n".join(docstring[:start])
    for i, part in enumerate(LITERAL.split(text)):
        if i % 3 == 0:
            parts.append(re.sub(r"([\\*_|])", r"\\\1", part).replace("::", r"\::"))
        elif i % 3 == 1:
            parts.append(f"``{part}``")
        elif part:
            parts.append("\\ ")
    return [*"".join(parts).split("\n"), *docstring[start:]]


def orders(index: str) -> str:
    """The tables of contents that Sphinx wants, from the headings and links of the index."""
    made = []
    for section in index.split("\n## ")[1:]:
        pages = re.findall(r"\]\(([\w/]+)\.md\)", section)
        made += ["```{toctree}", ":hidden:", f":caption: {section.splitlines()[0]}", "", *pages, "```", ""]
    return "\n".join(made)


def setup(app: Any) -> None:
    def read(_: Any, page: str, source: list[str]) -> None:
        source[0] = reference.fill(source[0])
        if page == "index":
            source[0] += "\n" + orders(source[0])

    def docstring(_app: Any, _what: str, _name: str, _found: Any, _options: Any, lines: list[str]) -> None:
        lines[:] = as_rst(lines)

    app.connect("source-read", read)
    app.connect("autodoc-process-docstring", docstring)
