"""What a user may ask for, as strict types: experiments, studies, the parameters of each notebook. No torch here."""

from claw.specs.notebooks import (  # fmt: skip
    CompressParameters,
    EvaluateParameters,
    ExplorerParameters,
    GuideParameters,
    LawsParameters,
    OverviewParameters,
    PaperParameters,
    RecoverParameters,
    SpeedParameters,
    TourParameters,
    from_notebook,
)

__all__ = [
    "CompressParameters", "EvaluateParameters", "ExplorerParameters", "GuideParameters", "LawsParameters", "OverviewParameters",
    "PaperParameters", "RecoverParameters", "SpeedParameters", "TourParameters", "from_notebook",
]  # fmt: skip
