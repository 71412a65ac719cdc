"""Sphinx's configuration of the book; `course.book.build` lays out the sources that it is used on."""

from sphinx.application import Sphinx

from course.places import BRANCH, address

project = "vaelib"
author = "the vaelib authors"
copyright = f"{author}; MIT licence"
language = "en"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
default_role = "py:obj"  # `name` in a docstring leads to what it names, and is code where that is nothing here

# The notebooks are shown as they are committed, and no kernel stands behind a page.
nb_execution_mode = "off"
nb_ipywidgets_js = {}
myst_enable_extensions = ["dollarmath", "html_image"]
myst_heading_anchors = 3

# Mathematics is set by the copy of MathJax that is published with the pages; its menu would load more.
mathjax_path = "mathjax/tex-svg.js"
mathjax3_config = {"options": {"enableMenu": False}}

napoleon_google_docstring = False
python_maximum_signature_line_length = 88

html_theme = "sphinx_book_theme"
html_title = "The pancreas from a latent"
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_favicon = "_static/favicon.svg"
html_context = {"default_mode": "light"}
html_theme_options = {
    "home_page_in_toc": True,
    "show_navbar_depth": 1,
    "collapse_navbar": True,
    "show_toc_level": 2,
    "search_bar_text": "Search the book",
}
if address():
    html_theme_options |= {
        "repository_url": address(),
        "repository_branch": BRANCH,
        "use_repository_button": True,
        "launch_buttons": {
            "binderhub_url": "https://mybinder.org",
            "colab_url": "https://colab.research.google.com",
            "notebook_interface": "jupyterlab",
        },
    }


def setup(app: Sphinx) -> None:
    """Leave out the fields of named tuples, whose own docstrings say "Alias for field number 0"."""
    fields = "_tuplegetter"
    app.connect("autodoc-skip-member", lambda *event: True if type(event[3]).__name__ == fields else None)
