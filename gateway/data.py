"""Finds the shipped data folders (recipes, sbatch_templates, apptainer, policies) in a wheel or in a checkout."""

from pathlib import Path
from typing import Literal

_PACKAGE = Path(__file__).parent


def folder(name: Literal["recipes", "sbatch_templates", "apptainer", "policies"]) -> Path:
    """The folder `name`: inside the installed package, or beside it in a checkout."""
    for candidate in (_PACKAGE / "_data" / name, _PACKAGE.parent / name):
        if candidate.is_dir():
            return candidate
    raise FileNotFoundError(f"the data folder {name!r} is missing: this installation is incomplete")
