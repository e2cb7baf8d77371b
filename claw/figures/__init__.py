"""Figures: one style, one function per figure. They draw numbers that others computed and write those numbers beside them."""

from claw.figures.style import Drawing, colour, marker, paper

__all__ = ["Drawing", "colour", "marker", "paper"]
