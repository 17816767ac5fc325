"""The site: `sphinx-build -W --keep-going docs build/site`, and with `PYRO_VAE_GALLERY=full` for the full gallery."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

import pyro_vae

project = "pyro_vae"
author = "the developers of pyro_vae"
copyright = author  # noqa: A001
version = release = pyro_vae.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "docstrings",
    "family",
    "gallery",
    "links",
]
exclude_patterns = ["_extensions", "_static"]

# Markdown: every heading can be linked to, and a link that leads nowhere is a warning.
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# Docstrings.
default_role = "literal"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_typehints = "signature"
autodoc_inherit_docstrings = False  # a part says what its class says, and not each time what parts are
maximum_signature_line_length = 100
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Shapes", "params_style")]
toc_object_entries_show_parents = "hide"

# The gallery: every example runs, in smoke mode unless the environment asks for full runs.
gallery_examples = "../examples"
gallery_mode = os.environ.get("PYRO_VAE_GALLERY", "smoke")
gallery_groups = {
    "First steps": ["first_vae", "autoencoder_beside_vae", "interpolation", "what_beta_does"],
    "Programs and bounds": ["own_program", "linear_gaussian", "tighter_bounds", "gradient_noise"],
    "Parts": ["priors", "guides", "likelihoods", "sharper_samples"],
    "Is the model right?": ["predictive_checks", "compare_models", "calibrated_encoder", "nuts_against_guide"],
    "Given": ["conditional", "semi_supervised"],
    "Tables": ["incomplete_table", "sklearn_pipeline"],
}

html_theme = "furo"
html_title = f"pyro_vae {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True
pygments_style = "friendly"
