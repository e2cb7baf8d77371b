"""The stages that notebooks and sweeps run: compress, recover, evaluate, time. Each records what it knows at once.

A stage takes what a notebook asked for as typed values, skips what has a record, and returns the records of all its points.
What a result depends on is in a record's spec; where it was made is in its environment. A notebook calls `check_...` first, so
that what cannot work is refused before anything is loaded; the stage itself checks only what needs the loaded model.
"""
# ruff: noqa: F401  (the names that notebooks use)

from claw.stages.compress import check_compress, compress_curve, dense_records
from claw.stages.evaluate import check_evaluate, evaluate_checkpoints
from claw.stages.frames import (
    checkpoint_frame,
    cost_frame,
    moment_frame,
    recovery_frame,
    text_frame,
    timing_frame,
    timing_sentences,
)
from claw.stages.recover import check_recover, recover_checkpoints
from claw.stages.speed import check_speed, time_checkpoints
