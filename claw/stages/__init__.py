"""The stages that notebooks and sweeps run; each writes its records the moment they are known.

A stage takes loaded things and typed parameters, skips what a record already holds, and returns the records of all its points.
What a result depends on is in the spec; where it was made is in the environment.
"""

from claw.stages.checkpoints import checkpoint_frame
from claw.stages.compress import check_compress, compress_curve, cost_frame, statistics_for_curve
from claw.stages.evaluate import check_evaluate, evaluate_checkpoints
from claw.stages.recover import check_recover, moment_frame, recover_checkpoints, recovery_frame
from claw.stages.speed import check_speed, time_checkpoints, timing_frame, timing_sentences

__all__ = [
    "check_compress", "check_evaluate", "check_recover", "check_speed", "checkpoint_frame", "compress_curve", "cost_frame",
    "evaluate_checkpoints", "moment_frame", "recover_checkpoints", "recovery_frame", "statistics_for_curve", "time_checkpoints",
    "timing_frame", "timing_sentences",
]  # fmt: skip
