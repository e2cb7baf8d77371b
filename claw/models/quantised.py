"""Checkpoints whose weights are packed in few bits: refused from one place, with what each kind is and how it is unpacked."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from claw.errors import InputError
from claw.words import plural

LOADED = "from_pretrained(folder, dtype=torch.bfloat16, quantization_config={})"
OWN_TOOL = "with the quantiser's own tool"
UNPACKED = {  # by quant_method, what the weights are and how they become floating point again
    "fp8": ("float8 with scales", f"in transformers, {LOADED.format('FineGrainedFP8Config(dequantize=True)')}"),
    "fbgemm_fp8": ("float8 with scales", OWN_TOOL),
    "compressed-tensors": (
        "float8 or whole numbers with scales", f"with compressed-tensors installed, "
        f"{LOADED.format('CompressedTensorsConfig(dequantize=True)')}",
    ),
    "mxfp4": ("4-bit blocks with shared exponents", f"in transformers, {LOADED.format('Mxfp4Config(dequantize=True)')}"),
    "bitsandbytes": ("4- or 8-bit blocks", "with bitsandbytes installed, from_pretrained(folder).dequantize()"),
    "gptq": ("whole numbers of few bits", OWN_TOOL),
    "awq": ("whole numbers of few bits", OWN_TOOL),
    "mlx": ("whole numbers of few bits for Apple's processors", "with `mlx_lm.convert --dequantize`"),
}  # fmt: skip
SIGNS = (  # of tensors whose config.json says nothing
    (r"\.(absmax|quant_map|quant_state\..*|SCB)$", "bitsandbytes"),
    (r"\.(qweight|qzeros|g_idx)$", "gptq"),
    (r"_(blocks|scales)$", "mxfp4"),
    (r"\.weight_(packed|scale|zero_point)$", "compressed-tensors"),
    (r"_scale_inv$", "fp8"),
)
LISTED = 5  # names in a message


def check_quantised(folder: Path, content: Mapping[str, Any]) -> None:
    """Raise InputError where a config.json, or the part of it about text, says that weights are quantised."""
    text = content.get("text_config")
    for part in (content, text if isinstance(text, Mapping) else {}):
        for name in ("quantization_config", "quantization", "compression_config"):
            if about := part.get(name):
                raise _refused(folder, _kind(about), "by its config.json")


def _kind(about: Any) -> str:
    if not isinstance(about, Mapping):
        return str(about)[:40]
    kind = about.get("quant_method") or about.get("quant_algo")
    return str(kind or ("bitsandbytes" if about.get("load_in_4bit") or about.get("load_in_8bit") else "mlx"))


def packed(folder: Path, kinds: Mapping[str, str], names: Mapping[str, Any]) -> InputError:
    """Error for tensors of other types than floating point of 16 bits or more: `kinds` by name, beside all `names` there."""
    sign = next((kind for pattern, kind in SIGNS if any(re.search(pattern, name) for name in names)), "")
    listed = ", ".join(sorted(kinds)[:LISTED]) + (f" and {len(kinds) - LISTED} more" if len(kinds) > LISTED else "")
    types = ", ".join(sorted(set(kinds.values())))
    said = f"its files store {plural(len(kinds), 'tensor')} as {types}, which its config.json does not say: {listed}"
    return _refused(folder, sign or ("float8" if types.startswith("F8") else "of a kind that is not told"), said)


def _refused(folder: Path, kind: str, said: str) -> InputError:
    what, how = UNPACKED.get(kind, ("", OWN_TOOL))
    origin = f", {named} by its README.md" if (named := origin_of_release(folder)) else ""
    return InputError(
        f"{folder} is quantised ({kind}{f': {what}' if what else ''}; {said}). Pruning and refitting need weights in floating "
        f"point of 16 bits or more: name the checkpoint that it was quantised from{origin}; or "
        f"dequantise it once ({how}), and save that as safetensors with its tokenizer. GGUF files are dequantised here."
    )


def origin_of_release(folder: Path) -> str:
    """The model that a model card names as base_model; empty where there is none."""
    try:
        with (folder / "README.md").open(encoding="utf-8", errors="replace") as file:
            card = file.read(20_000)
    except OSError:
        return ""
    matter = card.split("\n---", 1)[0] if card.startswith("---") else ""
    named = re.search(r"^base_model:\s*(?:-\s*)?[\"']?([\w.-]+/[\w.-]+)", matter, re.M)
    return named[1] if named else ""
