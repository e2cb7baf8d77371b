"""What a folder or file holds in place of a checkpoint for transformers, and what to do with it: told, never opened.

Only names of files and the first bytes of one are looked at.
"""

import re
from pathlib import Path

from claw.errors import InputError
from claw.words import plural

CONFIGS = ("config.json", "adapter_config.json")
TRAINING = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state\w*|random_states\w*)\.(bin|pt|pth|pkl)$")
"""What a run leaves beside weights to go on from."""
PICKLED = "pickles, which can run code and are never loaded"
CONVERT = (
    'Where you trust their origin, two lines convert them: `AutoModelForCausalLM.from_pretrained("{0}").save_pretrained('
    '"{0}-safetensors")` and `AutoTokenizer.from_pretrained("{0}").save_pretrained("{0}-safetensors")`, both from '
    "transformers, which opens them with torch's weights-only reader. Then name the new folder."
)
EXPORTED = "Name the checkpoint that it was exported from, with safetensors weights."
OTHERS = (  # names of files, what they are, what to do; {0} is the folder, {1} the first such file
    (("pytorch_model*.bin",), PICKLED, CONVERT),
    (
        ("zero_to_fp32.py", "global_step*"), "parts of a run with DeepSpeed",
        "Put them together once with the script beside them: `python zero_to_fp32.py . . --safe_serialization`.",
    ),
    (
        ("pytorch_model_fsdp*", "*.distcp", "shard-*-model-*"), "parts of a distributed run",
        "Put them together once: `accelerate merge-weights {0}/{1} {0}`, which writes safetensors.",
    ),
    (("*.gguf", "*.GGUF"), "GGUF", "Name the file: {0}/{1}."),
    (("*.onnx", "onnx/*.onnx"), "an export to ONNX", EXPORTED),
    (("openvino_*",), "an export to OpenVINO", EXPORTED),
    (("*.mlpackage", "*.mlmodel*", "coreml"), "an export to Core ML", EXPORTED),
    (("tf_model*.h5", "flax_model*.msgpack"), "weights of TensorFlow or Flax", "Take the release with safetensors weights."),
    (("*.nemo", "latest_checkpointed_iteration.txt", "iter_*"), "what NeMo or Megatron writes", "Convert it for transformers."),
    (
        ("params.json", "consolidated*", "*.pth"), "the original release's own layout (params.json, consolidated weights)",
        "Take the release for transformers.",
    ),
    (("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl"), PICKLED, CONVERT),
)  # fmt: skip


def no_config(folder: Path) -> InputError:
    """Error that says what a folder without config.json is."""
    if (folder / "model_index.json").is_file():
        return InputError(
            f"{folder} is a pipeline of diffusers (model_index.json) that makes images, sound or video: no language model by "
            "itself. Name a causal decoder such as Llama, Qwen or Gemma."
        )
    if snapshots := sorted(path.parent for path in folder.glob("snapshots/*/config.json")):
        do = f"It is the hub's cache of a model: name its id, or {snapshots[-1]}."
    elif gguf := sorted(path.name for path in folder.iterdir() if path.suffix.lower() == ".gguf"):
        more = f" ({len(gguf)} are there)" if len(gguf) > 1 else ""
        do = f"It holds a GGUF file{more}: name the file, {folder / gguf[0]}."
    elif below := checkpoints_below(folder):
        more = f"; {len(below) - 5} more are there" if len(below) > 5 else ""
        do = f"Below it are checkpoints: name one of {', '.join(map(str, below[:5]))}{more}."
    elif not any(folder.iterdir()):
        do = "It is empty. Name the folder that holds config.json."
    elif (other := _others(folder)) and other[1] != PICKLED:
        do = f"It holds {other[1]}, {other[0]}. {other[2]}"
    else:
        do = "Name the folder that holds config.json, or fetch the model again with all its files."
    return InputError(f"{folder} is not a checkpoint: it has no config.json. {do}")


def checkpoints_below(folder: Path) -> list[Path]:
    """Folders one or two steps below that hold a model or an adapter, nearest first, and the newest of a training run first."""
    below = {path.parent for name in CONFIGS for steps in ("*/", "*/*/") for path in folder.glob(f"{steps}{name}")}
    shown = [place for place in below if not any(part.startswith(".") for part in place.relative_to(folder).parts)]
    return sorted(shown, key=lambda place: (len(place.parts), -_step(place), place))


def _step(place: Path) -> int:
    """How far a training run was, by the name that Trainer gives (checkpoint-500); 0 for other names."""
    named = re.fullmatch(r"checkpoint-(\d{1,15})", place.name)
    return int(named[1]) if named else 0


def no_weights(folder: Path) -> InputError:
    """Error that says what a folder with config.json and without safetensors weights holds in their place."""
    others = sorted(path.name for path in folder.glob("*.safetensors") if path.is_file())
    if others:
        names = ", ".join(others[:5]) + (f" and {len(others) - 5} more" if len(others) > 5 else "")
        only = f", only {names}. If that holds the whole model, rename it to model.safetensors."
    elif other := _others(folder):
        only = f", only {other[0]}: {other[1]}. {other[2]}"
    elif below := checkpoints_below(folder):
        only = f". Below it are checkpoints: name one of {', '.join(map(str, below[:5]))}."
    else:
        only = " nor other weights: its download or copy is not complete. Fetch or copy it again, with all of its files."
    return InputError(f"{folder} has no model.safetensors{only}")


def _others(folder: Path) -> tuple[str, str, str] | None:
    """Names of the first kind of other files in a folder, what they are, and what to do."""
    for patterns, what, do in OTHERS:
        names = sorted({path.relative_to(folder).as_posix() for pattern in patterns for path in folder.glob(pattern)})
        if names := [name for name in names if not TRAINING.search(name)]:
            more = f" and {plural(len(names) - 1, 'more file')}" if len(names) > 1 else ""
            return names[0] + more, what, do.format(folder, names[0])
    return None


def not_the_file(path: Path) -> str:
    """What a file is that a download left in place of the real one, and what to do; empty where it looks like neither."""
    try:
        with path.open("rb") as file:
            start = file.read(64).lstrip().lower()
    except OSError:
        return ""
    if start.startswith(b"version https://git-"):
        return f"is a pointer of Git LFS, not the file itself. Run `git lfs pull` in {path.parent}."
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page, as a download that was refused leaves it. Fetch the file again (`hf download`)."
    return ""
