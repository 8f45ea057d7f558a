"""Executed notebooks as HTML that needs no network: formulae as MathML, figures linked.

nbconvert makes the cells; its own page would load MathJax and others from a server, and carry a
third of a megabyte of styles.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import nbformat
from jinja2 import pass_context
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from pygments.formatters import HtmlFormatter

from jetfm.figures import CAPTIONS

#: Styles of highlighted code.
CODE_STYLE = HtmlFormatter(style="default").get_style_defs(".highlight")


class _WithMathML(IPythonRenderer):
    """Formulae as the browser itself draws them."""

    def block_math(self, body: str) -> str:
        return convert(body.strip(), display="block")

    def inline_math(self, body: str) -> str:
        return convert(body)


class _Cells(HTMLExporter):
    """The cells alone, for a page of our own."""

    def __init__(self) -> None:
        super().__init__(template_name="basic")

    @pass_context
    def markdown2html(self, context, source: str) -> str:
        renderer = _WithMathML(escape=False, exclude_anchor_links=True)
        return MarkdownWithMath(renderer=renderer).render(source)


def cells_as_html(notebook: Path, folder: Path) -> str:
    """The cells of an executed notebook.

    Parameters
    ----------
    folder : of the figures: a picture in the notebook that is one of them is linked, others are
        embedded
    """
    content = nbformat.read(notebook, as_version=4)
    known = {
        hashlib.sha256(path.read_bytes()).digest(): path.name for path in folder.glob("fig*.png")
    }
    for cell in content.cells:
        for output in cell.get("outputs", ()):
            _link(output, known)
    return _Cells().from_notebook_node(content)[0]


def _link(output, known: dict[bytes, str]) -> None:
    """Let an output that is a known picture refer to its file."""
    picture = output.get("data", {}).get("image/png")
    if picture is None:
        return
    name = known.get(hashlib.sha256(base64.b64decode(picture)).digest())
    if name is not None:
        output.metadata["filenames"] = {"image/png": name}
        stem = name.removesuffix(".png")
        about = output.metadata.setdefault("image/png", {})
        about["alt"] = CAPTIONS.get(stem, stem)
