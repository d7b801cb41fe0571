"""The documentation site: `make docs` builds it into build/site.

Guides are Markdown and notebooks, the API comes from docstrings.
"""

import re
import shutil
from pathlib import Path

from docutils.nodes import Element
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.roles import XRefRole
from sphinx.util.nodes import make_refnode

from omnitok.version import VERSION

project = "omnitok"
author = "The omnitok authors"
version = release = VERSION
html_title = f"omnitok {VERSION}"
html_theme = "furo"
html_copy_source = False

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
nb_execution_mode = "off"  # notebooks are shown with the outputs that `make notebooks` left in them
nb_mime_priority_overrides = [("html", "image/gif", 0)]
myst_heading_anchors = 3  # `training.md#from-stage-to-stage`
default_role = "py:name"  # one backtick in a docstring
add_module_names = False
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
napoleon_use_ivar = True


class NameRole(XRefRole):
    """Code in one backtick: a link where the API shows what it names, else plain code, as `.ckpt` is."""

    def process_link(
        self, env: BuildEnvironment, refnode: Element, has_explicit_title: bool, title: str, target: str
    ) -> tuple[str, str]:
        refnode["py:module"] = env.ref_context.get("py:module")
        refnode["py:class"] = env.ref_context.get("py:class")
        return title, target.removesuffix("()")


def search_exactly(app: Sphinx, document: Element) -> None:
    """A field named `device` is that of its own class, not of any class that has one."""
    for node in document.findall(pending_xref):
        node.attributes.pop("refspecific", None)


def link_by_last_name(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: Element) -> Element | None:
    """Links `omnitok.models.protocol.Tokenizer`, and plain `Tokenizer`, to where the API shows the name."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not (target.startswith("omnitok.") or "." not in target):
        return None
    last = target.rpartition(".")[2]
    places = [
        (name, entry)
        for name, entry in env.domains["py"].data["objects"].items()
        if name.rpartition(".")[2] == last and entry.objtype in ("class", "exception", "function", "data")
    ]
    if not places:
        return None
    name, entry = min(places, key=lambda place: (len(place[0]), place[0]))  # `omnitok.NAME` before `omnitok.room.NAME`
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, content, name)


def without_colons(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Napoleon takes what stands before a colon in the first line of a property's docstring for its type."""
    if what in ("attribute", "data", "property") and lines:
        lines[0] = re.sub(r"(`+[^`]*`+)|:(?= |$)", lambda found: found[1] or " –", lines[0])


def take_notebooks(app: Sphinx) -> None:
    """Notebooks are at home in the folder `examples` of the checkout; Sphinx wants its sources in one folder."""
    here = Path(app.srcdir, "examples")
    here.mkdir(exist_ok=True)
    for notebook in Path(app.srcdir, "../examples").glob("*.ipynb"):
        shutil.copy2(notebook, here)


def setup(app: Sphinx) -> None:
    app.connect("builder-inited", take_notebooks)
    app.add_role_to_domain("py", "name", NameRole())
    app.connect("doctree-read", search_exactly)
    app.connect("missing-reference", link_by_last_name)
    app.connect("autodoc-process-docstring", without_colons, priority=400)
