"""claw: compression laws of large language models.

The names below are imported when first used, so that `import claw.laws` and the command line stay light.
"""

from importlib import import_module

_WHERE = {
    "load": "claw.models",
    "describe": "claw.anatomy",
    "save": "claw.checkpoints",
    "blocks": "claw.data",
    "calibrate": "claw.prune.statistics",
    "compress": "claw.prune.methods",
    "recover": "claw.recovery.run",
    "measure_speed": "claw.speed",
    "cross_entropy": "claw.evaluate",
    "score_tasks": "claw.tasks",
    "InputError": "claw.errors",
}
_MODULES = ("figures", "laws", "parameters", "records", "sources", "specs", "stages", "widgets")

__all__ = [*_WHERE, *_MODULES]


def __getattr__(name: str):
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    if name in _MODULES:
        return import_module(f"claw.{name}")
    raise AttributeError(f"module 'claw' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
