"""The model card (`README.md`) of a checkpoint, with the hub's metadata: what it is, from which model, what was removed."""

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from claw.models import llama_cpp, sources
from claw.models.anatomy import anatomy
from claw.prune.compress import CompressionReport
from claw.words import markdown_text

LICENCES = {"Apache-2.0": "apache-2.0", "Gemma Terms of Use": "gemma", "MIT": "mit"}
"""The hub's tag of a licence, by how its name begins in the catalogue of sources."""
HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*", re.ASCII)

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
It is a plain checkpoint of a stock architecture, for transformers 4.57 and 5:

```python
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("this folder")
```
"""


@dataclass(frozen=True)
class Upstream:
    """The model that a checkpoint was made from, as far as it may be told to others."""

    name: str = ""
    hub_id: str | None = None
    licence: dict[str, str] | None = None  # the hub's metadata on it
    note: str = ""


def origin_of(name: str | None, loaded_from: str = "") -> Upstream:
    """What is known of the dense model `name`: from the catalogue, or from the card in the folder that it was loaded from."""
    known = sources.models().get(name or "")
    if known:
        tag = next((tag for begins, tag in LICENCES.items() if known.licence.startswith(begins)), None)
        note = f"The dense model was {known.note}. Licence of the weights: {known.licence}." if known.note else ""
        return Upstream(name or "", hub_id(known.base_model or ""), {"license": tag} if tag else None, note)
    card: dict[str, Any] = {}
    for place in filter(None, (name, loaded_from)):
        card = card or _metadata(place)
    licence = {key: card[key] for key in ("license", "license_name", "license_link") if isinstance(card.get(key), str)}
    upstream = card.get("base_model")
    return Upstream(bare_name(name or ""), hub_id(name or "") or hub_id(upstream if isinstance(upstream, str) else ""), licence)


def _metadata(folder: str) -> dict[str, Any]:
    """The hub's metadata in the model card of a folder; empty where there is none that can be read."""
    from huggingface_hub import metadata_load

    with suppress(Exception):  # a card of somebody else may hold anything
        path = Path(folder).expanduser() / "README.md"
        return dict(metadata_load(path) or {}) if path.is_file() else {}
    return {}


def hub_id(name: str) -> str | None:
    """`name` if it can be the id of a model on the hub and is no folder here."""
    with suppress(OSError, ValueError):
        if HUB_ID.fullmatch(name) and not Path(name).exists():
            return name
    return None


def bare_name(name: str) -> str:
    """A hub id or a known name as it is; the last part of a path."""
    return name if name in sources.models() or hub_id(name) else Path(name).expanduser().absolute().name


def card(model: nn.Module, report: CompressionReport | None, origin: Upstream) -> str:
    """The model card of a checkpoint."""
    import yaml

    method = re.sub(r"[^a-z0-9-]+", "-", report.method).strip("-") if report else ""
    metadata: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    metadata["tags"] = ["pruned", "claw", *([method] if method not in ("", "claw") else [])]
    if origin.hub_id:
        metadata |= {"base_model": origin.hub_id, "base_model_relation": "finetune"}
    metadata |= origin.licence or {}
    head = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True).strip()
    lines = ["---", head, "---", "", f"# {markdown_text(origin.name) or 'A language model'}, compressed", ""]
    if origin.note:
        lines += [origin.note, ""]
    removed = REMOVED.format(report, report.small) if report else ""
    made = f"Architecture: {anatomy(model).family}. Made with claw."
    return "\n".join([*lines, f"{removed}{USE}", str(llama_cpp.check_conversion(model)), "", made, ""])
