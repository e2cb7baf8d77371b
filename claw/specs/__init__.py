"""What a user may ask for, as strict types: experiments, studies, the parameters of each notebook. No torch here."""

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    """`specs.from_notebook(specs.LawsParameters, ...)`, as the notebooks write it, without importing them all for a study."""
    if name == "ShrinkParameters":
        return import_module("claw.specs.shrinking").ShrinkParameters
    if name.endswith("Parameters") or name == "from_notebook":
        return getattr(import_module("claw.specs.notebooks"), name)
    raise AttributeError(f"module 'claw.specs' has no attribute {name!r}")
