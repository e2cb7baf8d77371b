"""claw: compression laws of large language models.

The names below are imported when first used, so that `import claw.laws` and the command line stay light.
"""

from importlib import import_module
from typing import Any

_WHERE = {
    "load": "claw.models.load",
    "describe": "claw.models.anatomy",
    "save": "claw.stages.checkpoints",
    "put_back": "claw.stages.put_back",
    "blocks": "claw.texts.token_blocks",
    "calibrate": "claw.prune.statistics",
    "compress": "claw.prune.compress",
    "recover": "claw.recovery.run",
    "shrink": "claw.one_model.shrink",
    "compare_checkpoints": "claw.one_model.comparing",
    "measure_speed": "claw.evaluate.timing",
    "cross_entropy": "claw.evaluate.held_out",
    "score_tasks": "claw.evaluate.tasks",
    "InputError": "claw.errors",
}
_ROOMS = "advice engine evaluate figures laws models one_model prune records recovery show specs stages sweep texts".split()

__all__ = [*_WHERE, *_ROOMS]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    if name in _ROOMS:
        return import_module(f"claw.{name}")
    raise AttributeError(f"module 'claw' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
