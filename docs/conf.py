"""Settings of ``make docs``: pages from the Markdown files, the reference from the docstrings.

The source folder is the repository, so that links such as ``../BUILD_NOTES.md`` lead somewhere on
a code host and in the pages alike.
"""

from sphinx.util import logging

from cberl_jax import __all__ as public
from cberl_jax import __version__
from cberl_jax.config.settings import SETTINGS

project = "cberl-jax"
release = __version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinxcontrib.mermaid",
]
root_doc = "docs/index"
include_patterns = ["README.md", "BUILD_NOTES.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**"]
exclude_patterns = [".*", "build", "runs"]

myst_heading_anchors = 3
myst_fence_as_directive = ["mermaid"]

autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autoclass_content = "both"
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "alabaster"
html_theme_options = {"page_width": "1200px", "fixed_sidebar": True}
html_show_copyright = False


def list_settings() -> str:
    """The table of all settings in Markdown."""
    rows = ["| setting | default | numeric | meaning |", "| --- | --- | --- | --- |"]
    for name, setting in SETTINGS.items():
        numeric = "yes" if setting.numeric else ""
        meaning = setting.meaning.replace("|", "\\|").replace("<", "\\<")
        rows.append(f"| `{name}` | `{setting.default!r}` | {numeric} | {meaning} |")
    return "\n".join(rows)


def add_settings(app, docname, source):
    """Fills the table of ``docs/api.md`` in."""
    if docname == "docs/api":
        source[0] = source[0].replace("<!-- settings -->", list_settings())


def drop_module(app, what, name, obj, options, lines):
    """Leaves a module's own docstring out: ``docs/api.md`` introduces it."""
    if what == "module":
        lines.clear()


def check_reference(app, env):
    """Warns of a public name that the reference lacks, as without a docstring it would."""
    described = env.domains["py"].objects
    for name in public:
        if name != "__version__" and f"cberl_jax.{name}" not in described:
            logging.getLogger(__name__).warning("docs/api.md: %s is not described", name)


def setup(app):
    """Called by Sphinx."""
    app.connect("source-read", add_settings)
    app.connect("autodoc-process-docstring", drop_module)
    app.connect("env-check-consistency", check_reference)
