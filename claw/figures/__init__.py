"""Figures: one style, one function per figure. They draw numbers that others computed and write those numbers beside them.

The names below are imported when first used, so that a figure of measured points does not wait for the statistics of laws.
"""

from importlib import import_module

_WHERE = {
    "style": "Drawing colour marker paper",
    "measured": "accuracy_by_task evaluation loss_curve recovery_progress speedups",
    "maps": "flips kept_map sweep_status",
    "meta_analysis": "left_out_papers sizes_in_families slope_forest",
    "first_look": "first_figure",
    "fits": "diagnostic_panels law_curves leave_one_out out_of_sample",
    "foretold": "foretold_points",
    "splits": "text_splits",
    "tradeoffs": "advice_pareto loss_against_time radar speed_against_share",
    "won_back": "recovery_gains",
}
_MODULES = {name: module for module, names in _WHERE.items() for name in names.split()}

__all__ = [*_MODULES]


def __getattr__(name: str):
    if name in _MODULES:
        return getattr(import_module(f"claw.figures.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'claw.figures' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
