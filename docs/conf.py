"""Sphinx: `make docs` builds the site into docs/site."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "CNNSurvival"))

project = "CNNSurvival"
author = "CNNSurvival contributors"
copyright = "CNNSurvival contributors, Apache-2.0"
source = (ROOT / "CNNSurvival" / "CNNSurvivalLib" / "__init__.py").read_text(encoding="utf-8")
release = version = re.search(r'__version__ = "(.*?)"', source).group(1)

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "myst_parser"]
exclude_patterns = ["site"]
html_theme = "furo"
html_title = f"CNNSurvival {release}"
html_show_sourcelink = False
html_extra_path: list[str] = []
templates_path: list[str] = []

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["myst.xref_missing"]  # links to files of the repository that are no page of the site

napoleon_google_docstring = False
napoleon_use_rtype = False
autodoc_mock_imports = ["SimpleITK", "pydicom", "highdicom", "torch", "slicer", "vtk", "qt", "ctk"]
autodoc_typehints = "none"  # the docstrings give types with shapes and units
autodoc_member_order = "bysource"
default_role = "literal"
