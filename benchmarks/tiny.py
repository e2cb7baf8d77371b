"""A project folder with a tiny random model, its texts and a study: what the benchmarks of sweeps run on."""

import random
import shutil
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
WORDS = "the a of and to in is was for on as with by at from it an be this that are or had not".split()


def project(folder: Path) -> Path:
    """A folder with notebooks, an empty params, model/, train.txt and heldout.txt; made once."""
    if (folder / "ready").exists():
        return folder
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    for name in ("notebooks", "params"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        shutil.copy(notebook, folder / "notebooks")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "head_dim": 8}
    sizes |= {"vocab_size": 259, "num_key_value_heads": 2, "max_position_embeddings": 256}
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = transformers.LlamaConfig(**sizes, **tokens, tie_word_embeddings=True)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder / "model")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, **{c: i + 3 for i, c in enumerate(alphabet)}}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder / "model")
    for seed, (name, count) in enumerate([("train", 2500), ("heldout", 200)]):
        draw = random.Random(seed)
        lines = (" ".join(draw.choice(WORDS) for _ in range(draw.randint(4, 14))) for _ in range(count))
        (folder / f"{name}.txt").write_text("\n\n".join(lines))
    (folder / "ready").touch()
    return folder


def study(folder: Path, name: str, **changes) -> Path:
    """A study file of the project: the tiny model, a few methods and ratios; `changes` replace or add fields."""
    content = {
        "name": name,
        "models": [str(folder / "model")],
        "methods": ["random", "magnitude", "wanda-sp+ridge"],
        "ratios": [0, 0.2, 0.4, 0.6],
        "dtype": "float32",
        "calibration": {"corpus": str(folder / "train.txt"), "tokens": 512, "length": 64},
        "evaluation": {"heldout": str(folder / "heldout.txt"), "tokens": 512, "context": 64},
    }
    path = folder / "params" / f"{name}.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in (content | changes).items() if value is not None}))
    return path
