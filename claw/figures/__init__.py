"""Figures: one style, one function per figure. They draw numbers that others computed and write those numbers beside them."""

from claw.figures.compress import kept_map, loss_curve
from claw.figures.evaluate import accuracy_by_task, evaluation, flips
from claw.figures.recover import recovery_progress
from claw.figures.speed import speedups
from claw.figures.style import Drawing, colour, marker, paper
from claw.figures.sweep import sweep_status

__all__ = [
    "Drawing", "accuracy_by_task", "colour", "evaluation", "flips", "kept_map", "loss_curve", "marker", "paper",
    "recovery_progress", "speedups", "sweep_status",
]  # fmt: skip
