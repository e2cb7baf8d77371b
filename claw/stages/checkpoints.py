"""Save a compressed model as a plain checkpoint that stock transformers reloads with equal logits, and prove it.

A checkpoint is what `save_pretrained` writes, with the tokenizer, a model card (`README.md`) and `claw.json`: the
experiment's spec and the report. It is written beside its final name and renamed, so a folder that is there is whole.
"""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from claw import files
from claw.errors import InputError
from claw.models import llama_cpp, sources
from claw.models.anatomy import anatomy
from claw.models.pretrained import stock_reload
from claw.progress import of_transformers
from claw.project import inside_project
from claw.prune.compress import CompressionReport
from claw.prune.slicegpt import is_plain
from claw.specs import on_disk
from claw.specs.experiment import Experiment
from claw.specs.on_disk import ABOUT

LICENCES = {"Apache-2.0": "apache-2.0", "Gemma Terms of Use": "gemma", "MIT": "mit"}
"""The hub's tag of a licence, by how its name begins in the catalogue of sources."""


def checkpoint_folder(folder: Path, experiment: Experiment) -> Path:
    """Where an experiment's checkpoint is in the folder of a run."""
    return folder / "checkpoints" / experiment.id


def save(
    model: Any,
    tokenizer,
    folder: str | Path,
    report: CompressionReport | None = None,
    *,
    experiment: Experiment | None = None,
    base_model: str | None = None,
) -> Path:
    """Write the checkpoint to `folder`, replacing what is there, and check that it reloads with equal logits.

    Raises InputError when the reloaded model differs (then nothing is left in `folder`) or the disk is full.
    """
    folder = Path(folder)
    if not is_plain(model):
        raise InputError(
            "This model has shortcut matrices that no stock architecture can hold, so it cannot be saved as a plain "
            "checkpoint. It can be measured in memory; for a checkpoint use slicegpt, the plain form."
        )
    spec, figures = experiment and experiment.model_dump(mode="json"), report and report.to_dict()
    about = {"experiment": spec, "report": figures, "base_model": base_model}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        need = sum(p.numel() * p.element_size() for p in model.parameters())
        free = shutil.disk_usage(folder.parent).free
        if need > 0.98 * free:
            raise InputError(
                f"The checkpoint needs {need / 1e6:,.1f} MB but only {free / 1e6:,.1f} MB are free in {folder.parent}. Free "
                "some space or choose another run folder; what was measured so far is kept."
            )
        with files.whole(folder) as scratch:
            with of_transformers():
                model.save_pretrained(scratch)
            tokenizer.save_pretrained(scratch)
            (scratch / ABOUT).write_text(json.dumps(about, indent=1))
            (scratch / "README.md").write_text(card(model, report, base_model), encoding="utf-8")
            check_reload(model, scratch)
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise InputError(
            f"The checkpoint could not be written to {folder}: {error}. What was measured so far is kept."
        ) from error
    return folder


@torch.no_grad()
def check_reload(model: Any, folder: Path) -> None:
    """Raise InputError unless stock transformers loads `folder` and gives the same logits as `model`, bit by bit."""
    again = stock_reload(folder, dtype=model.dtype, attn_implementation=model.config._attn_implementation)
    again = again.to(next(model.parameters()).device).eval()
    ids = torch.arange(1, 17, device=again.device).view(2, 8) % model.config.get_text_config().vocab_size
    mine, theirs = model(ids, use_cache=False).logits, again(ids, use_cache=False).logits
    if not torch.equal(mine.nan_to_num(), theirs.nan_to_num()):
        difference = (mine.float() - theirs.float()).abs().max().item()
        raise InputError(
            f"The saved checkpoint does not reload as the model in memory: logits differ by up to {difference:.3g}. It was "
            "deleted. Please report the model and method: this is a defect of claw."
        )


def read_about(folder: str | Path) -> Mapping[str, Any]:
    """What claw wrote about a checkpoint; empty for a checkpoint that claw did not make."""
    return on_disk.read_object(Path(folder) / ABOUT) or {}


def experiment_of(checkpoint: str) -> Experiment:
    """The experiment that a checkpoint folder holds; a model's own name or folder stands for the dense model."""
    return on_disk.checkpoint_experiment(inside_project(checkpoint)) or Experiment.of_dense(checkpoint)


REMOVED = """\
`{0.method}` was asked to remove {0.ratio:.0%} of {0.ratio_of} (seed {0.seed}).

| | removed |
|---|---|
| parameters (tied weights once) | {0.ratio_params:.1%} |
| parameters without embedding and head | {0.ratio_nonembedding:.1%} |
| forward FLOPs per token | {0.ratio_flops:.1%} |

It has {1.parameters:,} parameters: {1.depth} layers, hidden width {1.hidden}, feed-forward width {1.width}, \
{1.heads} query heads in {1.groups} key-value groups of size {1.head_size}.

"""
USE = """\
It is a plain checkpoint of a stock architecture:

```python
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("this folder")
```
"""


def card(model: nn.Module, report: CompressionReport | None, base_model: str | None) -> str:
    """Model card with the hub's metadata: what this checkpoint is, from which model, and what was removed."""
    known = sources.models().get(base_model or "")
    upstream = known.base_model if known else base_model
    method = re.sub(r"[^a-z0-9-]+", "-", report.method) if report else ""
    tags = ["pruned", "claw", *([method] if method not in ("", "claw") else [])]
    metadata = ["library_name: transformers", "pipeline_tag: text-generation", f"tags: [{', '.join(tags)}]"]
    if upstream and "/" in upstream:
        metadata += [f"base_model: {upstream}", "base_model_relation: finetune"]
    metadata += [f"license: {tag}" for begins, tag in LICENCES.items() if known and known.licence.startswith(begins)]
    lines = ["---", *metadata, "---", "", f"# {base_model or 'A language model'}, compressed", ""]
    if known and known.note:
        lines += [f"The dense model was {known.note}. Licence of the weights: {known.licence}.", ""]
    removed = REMOVED.format(report, report.small) if report else ""
    made = f"Architecture: {anatomy(model).family}. Made with claw."
    return "\n".join([*lines, f"{removed}{USE}", str(llama_cpp.check_conversion(model)), "", made, ""])
