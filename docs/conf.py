"""How Sphinx makes a site of this folder: `scripts/docs` calls it. The pages are Markdown and read well without it.

Their order is that of docs/index.md, and nowhere else; what a page of the reference says is from scripts/reference.py.
"""

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


def setup(app: Any) -> None:
    def read(_: Any, page: str, source: list[str]) -> None:
        source[0] = reference.fill(source[0])
        if page == "index":
            source[0] += "\n" + reference.orders(source[0])

    def docstring(_app: Any, _what: str, _name: str, _found: Any, _options: Any, lines: list[str]) -> None:
        lines[:] = reference.as_rst(lines)

    app.connect("source-read", read)
    app.connect("autodoc-process-docstring", docstring)
