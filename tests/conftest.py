"""Tiny random models of every supported family, a tokenizer made in code, and small texts."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing in the tests may reach for the hub
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # processes that each take all cores wait for one another

import random

import pytest
import torch

WORDS = "the a of and to in is was for on as with by at from it an be this that are or had not".split()


def tiny_config(family: str, **changes):
    """A configuration of a few ten thousand parameters that has what is peculiar to the family."""
    import transformers as tf

    shared = dict(
        vocab_size=259, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    own = {
        "llama": (tf.LlamaConfig, dict(tie_word_embeddings=True, head_dim=8)),
        "qwen2": (tf.Qwen2Config, dict(tie_word_embeddings=False)),
        "qwen3": (tf.Qwen3Config, dict(tie_word_embeddings=True, head_dim=16)),
        "mistral": (tf.MistralConfig, dict(tie_word_embeddings=False, sliding_window=16, head_dim=8)),
        "gemma3": (
            tf.Gemma3TextConfig,
            dict(
                head_dim=16, sliding_window=8, query_pre_attn_scalar=16,
                layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            ),
        ),
    }  # fmt: skip
    cls, extra = own[family]
    return cls(**{**shared, **extra, **changes})


def tiny_model(family: str, seed: int = 0, dtype: torch.dtype = torch.float32, **changes):
    """A random model of a family, with norms and biases that are not trivial."""
    import transformers as tf

    torch.manual_seed(seed)
    model = tf.AutoModelForCausalLM.from_config(tiny_config(family, **changes), attn_implementation="sdpa")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.add_(0.3 * torch.randn_like(parameter))
            else:
                parameter.mul_(3)  # the usual initialisation is so small that every logit is nearly alike
    model.tie_weights()
    return model.to(dtype).eval()


FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "gemma3")


@pytest.fixture(params=FAMILIES)
def family(request) -> str:
    return request.param


@pytest.fixture
def model(family):
    return tiny_model(family)


def byte_tokenizer():
    """A fast tokenizer whose tokens are bytes: ids 3 to 258, after pad, bos and eos."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(ByteLevel.alphabet())
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, **{c: i + 3 for i, c in enumerate(alphabet)}}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


@pytest.fixture(scope="session")
def tokenizer():
    return byte_tokenizer()


def sentences(seed: int, count: int) -> str:
    """Random text of common words in paragraphs."""
    draw = random.Random(seed)
    lines = (" ".join(draw.choice(WORDS) for _ in range(draw.randint(4, 14))) for _ in range(count))
    return "\n\n".join(lines)


@pytest.fixture(scope="session")
def train_text(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "train.txt"
    path.write_text(sentences(1, 2500))
    return str(path)


@pytest.fixture(scope="session")
def heldout_text(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "heldout.txt"
    path.write_text(sentences(2, 200))
    return str(path)


@pytest.fixture
def folder_model(tmp_path, tokenizer):
    """A tiny Llama saved as a checkpoint folder with its tokenizer: what a user's own model looks like."""
    path = tmp_path / "tiny-llama"
    tiny_model("llama").save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


@pytest.fixture
def study_file(folder_model, train_text, heldout_text, tmp_path):
    """A study of a tiny model that a run finishes in a minute."""
    import yaml

    content = {
        "name": "tiny",
        "models": [folder_model],
        "methods": ["random", "wanda-sp+ridge"],
        "ratios": [0, 0.2, 0.4, 0.6],
        "calibration": {"corpus": train_text, "tokens": 512, "length": 64},
        "evaluation": {"heldout": heldout_text, "tokens": 512, "context": 64},
        "dtype": "float32",
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def study(study_file):
    from claw.specs import study

    return study.load_study(study_file)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """A cache folder of the test's own."""
    path = tmp_path / "cache"
    monkeypatch.setenv("CLAW_CACHE", str(path))
    return path
