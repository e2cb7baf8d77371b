"""Every causal architecture of transformers, tiny, with configurations drawn at random: right, stock, or refused with a reason.

python benchmarks/families.py                       # 8 configurations of each architecture, about 15 minutes on one core
python benchmarks/families.py --draws 2 llama granite
python benchmarks/families.py --table               # what works for the families that people know, as docs/families.md has it

For each model: whether claw's number on text, and the loss that recovery trains on, are those of the stock model computed one
sequence at a time; whether each method gives a plain checkpoint that stock transformers reloads with equal logits. An outcome
is "fast" or "stock" (equal, by which forward), "equal", "refused" (an InputError says why), WRONG or CRASH. Prints one row for
each architecture, then the reasons and every fault.
"""

import argparse
import copy
import inspect
import os
import random
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here may reach for the hub

import numpy as np
import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import claw
from claw.engine.prefix_tree import Request
from claw.engine.score import Scorer
from claw.errors import InputError
from claw.models.anatomy import describe
from claw.models.pretrained import stock_reload
from claw.prune import statistics
from claw.recovery import recipes
from claw.specs.experiment import Recovery
from claw.specs.spec import build_spec
from claw.texts.token_blocks import Blocks

VOCABULARY, LENGTH, TOLERANCE = 259, 48, 1e-4  # tokens, tokens, nats per token
LARGEST = 3_000_000  # parameters of a tiny model; an architecture that stays larger is not tried
SIZES = {
    **dict(vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4),
    **dict(num_key_value_heads=2, max_position_embeddings=256, head_dim=8, bos_token_id=1, eos_token_id=2, pad_token_id=0),
    **dict(n_embd=32, n_layer=3, n_head=4, n_positions=256, n_inner=64, n_ctx=256, d_model=32, num_heads=4, num_layers=3),
    **dict(decoder_layers=3, decoder_attention_heads=4, decoder_ffn_dim=64, encoder_layers=1, encoder_attention_heads=4),
    **dict(encoder_ffn_dim=64, ffn_dim=64, d_ff=64, d_kv=8, dim_head=8, dim_ff=64, word_embed_proj_dim=32, embedding_size=32),
    **dict(num_experts=4, num_local_experts=4, n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=16, n_group=1),
    **dict(topk_group=1, first_k_dense_replace=1, shared_expert_intermediate_size=16, state_size=8, rotary_dim=8),
    **dict(q_lora_rank=16, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=8),
    **dict(
        mamba_d_ssm=64, mamba_n_heads=8, mamba_d_head=8, mamba_chunk_size=16, mamba_d_state=8, mamba_n_groups=1, chunk_size=16
    ),
}
OWN_SIZES = {  # what makes an architecture valid that the sizes alone do not
    "gemma3n_text": dict(
        num_kv_shared_layers=0, num_hidden_layers=5, hidden_size_per_layer_input=8, vocab_size_per_layer_input=259
    ),
    "gemma4_text": dict(hidden_size_per_layer_input=8, vocab_size_per_layer_input=259, num_kv_shared_layers=0),
    "dots1": dict(n_shared_experts=1),
    "mamba2": dict(num_heads=8, head_dim=8, expand=2),
    "zamba2": dict(layers_block_type=["mamba", "hybrid", "mamba"]),
    "gpt_neo": dict(attention_types=[[["global", "local", "global"], 1]], window_size=8),
    "reformer": dict(is_decoder=True),
}
ROPES = (
    {"rope_type": "default", "rope_theta": 50.0},
    {"rope_type": "linear", "factor": 3.0, "rope_theta": 1e4},
    {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4, "original_max_position_embeddings": 16},
    {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 16},
    {
        **{"rope_type": "llama3", "factor": 8.0, "rope_theta": 1e4, "original_max_position_embeddings": 32},
        **{"low_freq_factor": 1.0, "high_freq_factor": 4.0},
    },
    {
        **{"rope_type": "longrope", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 16},
        **{"short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 3.0, 4.0]},
    },
)
FIELDS: dict[str, tuple] = {  # values to draw from, of whichever fields a configuration declares
    "rope_parameters": ROPES,
    "sliding_window": (8, 17),
    "use_sliding_window": (True,),
    "max_window_layers": (0, 1, 2),
    "layer_types": ("drawn",),
    "no_rope_layers": ("drawn",),
    "no_rope_layer_interval": (2,),
    "final_logit_softcapping": (3.0,),
    "attn_logit_softcapping": (2.0,),
    "query_pre_attn_scalar": (2, 64),
    "embedding_multiplier": (4.0,),
    "residual_multiplier": (0.3,),
    "attention_multiplier": (0.9,),
    "logits_scaling": (0.25, 4.0),
    "logit_scale": (0.3, 2.0),
    "tie_word_embeddings": (True, False),
    "attention_bias": (True,),
    "mlp_bias": (True,),
    "use_bias": (True, False),
    "head_dim": (8, 16),
    "num_key_value_heads": (1, 2, 4),
    "num_hidden_layers": (2, 4, 5),
    "hidden_act": ("gelu", "relu", "silu"),
    "hidden_activation": ("gelu_pytorch_tanh", "relu"),
    "rms_norm_eps": (1e-2,),
    "use_qk_norm": (True, False),
    "qk_layernorm": (True,),
    "qk_norm": (True,),
    "use_post_norm": (True, False),
    "post_norm": (True,),
    "clip_qkv": (0.5,),
    "partial_rotary_factor": (0.5,),
    "use_parallel_residual": (True, False),
    "parallel_attn": (True, False),
    "alibi": (True,),
    "is_decoder": (True,),
    "use_bidirectional_attention": (True,),
    "attention_dropout": (0.3,),
    "scale_attn_by_inverse_layer_idx": (True,),
    "scale_embedding": (True,),
}
KNOWN = {  # what people know of a family
    "llama": "Llama 2 and 3, SmolLM2, TinyLlama, Yi",
    "mistral": "Mistral 7B, Mistral Nemo",
    "ministral3": "Ministral 3",
    "qwen2": "Qwen 2 and 2.5",
    "qwen3": "Qwen 3",
    "gemma": "Gemma",
    "gemma2": "Gemma 2",
    "gemma3_text": "Gemma 3",
    "smollm3": "SmolLM3",
    "granite": "Granite 3",
    "phi": "Phi-1.5, Phi-2",
    "phi3": "Phi-3, Phi-3.5, Phi-4",
    "olmo": "OLMo",
    "olmo2": "OLMo 2",
    "olmo3": "OLMo 3",
    "gpt_neox": "Pythia, GPT-NeoX",
    "gpt2": "GPT-2, DistilGPT2",
    "opt": "OPT",
    "stablelm": "StableLM 2",
    "starcoder2": "StarCoder2",
    "cohere": "Command R, Aya 23",
    "cohere2": "Command R7B",
    "glm": "GLM-4 9B",
    "glm4": "GLM-4-0414",
    "exaone4": "EXAONE 4",
    "nemotron": "Nemotron, Minitron",
    "arcee": "AFM",
    "seed_oss": "Seed-OSS",
    "helium": "Helium",
    "hunyuan_v1_dense": "Hunyuan (dense)",
    "ernie4_5": "ERNIE 4.5 (dense)",
}
STATISTICS = "statistics"
METHODS = {  # method: ratio, and of what
    "magnitude": (0.25, "ffn"),
    "wanda-sp+ridge": (0.25, "ffn"),
    "wanda-sp": (0.5, "heads"),
    "shortgpt": (0.0, "own"),  # here one block
    "slicegpt": (0.25, "own"),
}

Outcome = tuple[str, str]  # what became of it, and why


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", help="model types; all if none is named")
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=[*METHODS, "claw"])
    asked = parser.parse_args()
    quiet()
    if asked.table:
        print(*[table_row(family) for family in asked.families or KNOWN], sep="\n")
        return
    columns = ["number", "recovery", STATISTICS, *asked.methods]
    print("family".ljust(24), *(name.rjust(22) for name in columns))
    reasons: Counter[str] = Counter()
    totals: dict[str, Counter[str]] = {name: Counter() for name in columns}
    faults, tried = [], 0
    for family in asked.families or MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        seen: dict[str, Counter[str]] = {name: Counter() for name in columns}
        for number, (changes, model) in enumerate(drawn_models(family, asked.draws, asked.seed)):
            tried += 1
            for name, (what, why) in outcomes(model, asked.methods).items():
                seen[name][what] += 1
                if what in ("WRONG", "CRASH"):
                    faults.append(f"{what} {family} draw {number} {name}: {why} {changes}")
                elif why:
                    reasons[f"{name}: {why}"] += 1
        if any(seen.values()):
            cells = (" ".join(f"{what} {count}" for what, count in seen[name].items()) for name in columns)
            print(family.ljust(24), *(cell.rjust(22) for cell in cells), flush=True)
        for name, counter in seen.items():
            totals[name] += counter
    print(f"\n{tried} models")
    for name, counter in totals.items():
        print(f"{name}: {', '.join(f'{what} {count}' for what, count in counter.most_common())}")
    print("\nReasons")
    for why, count in reasons.most_common():
        print(f"{count:5}  {why}")
    print("\n".join(["\nFaults", *faults]) if faults else "\nNo faults")


def table_row(family: str) -> str:
    """What works for a family, on its default configuration, as a row of docs/families.md."""
    _, model = next(drawn_models(family, 1))
    what = {name: result for name, (result, _) in outcomes(model, [*METHODS, "claw"]).items()}
    what["lora"] = outcome(lambda: adapted(model))[0]
    if faults := {name: result for name, result in what.items() if result in ("WRONG", "CRASH")}:
        raise RuntimeError(f"{family}: {faults}")
    columns = ("wanda-sp+ridge", "wanda-sp", "shortgpt", "slicegpt", "claw", "lora")
    works = ["yes" if what[name] == "equal" else "no" for name in columns]
    return f"| {' | '.join([KNOWN[family], f'`{family}`', what['number'], *works])} |"


def quiet() -> None:
    """No warnings of transformers about tiny models."""
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def drawn_models(family: str, draws: int, seed: int = 0) -> Iterator[tuple[dict[str, Any], Any]]:
    """Changes and models: the default one, and `draws` - 1 with some fields drawn; without those that stock cannot compute."""
    draw = random.Random(f"{family} {seed}")
    for number in range(draws):
        for _ in range(4):  # of what is drawn some does not go together
            changes = {} if number == 0 else drawn_changes(family, draw)
            model = tiny(family, changes, number)
            if model is not None:
                yield changes, model
            if model is not None or number == 0:
                break


def drawn_changes(family: str, draw: random.Random) -> dict[str, Any]:
    """Values for some of the fields that an architecture's configuration declares."""
    declared = _declared(CONFIG_MAPPING[family])
    changes = {name: draw.choice(values) for name, values in FIELDS.items() if name in declared and draw.random() < 0.4}
    depth = changes.get("num_hidden_layers", SIZES["num_hidden_layers"])
    if "layer_types" in changes:
        changes["layer_types"] = [draw.choice(("full_attention", "sliding_attention")) for _ in range(depth)]
    if "no_rope_layers" in changes:
        changes["no_rope_layers"] = [draw.randrange(2) for _ in range(depth)]
    return changes


def tiny(family: str, changes: dict[str, Any], seed: int) -> Any:
    """A small random model in evaluation mode, or None where transformers cannot build it or compute plain tokens with it."""
    kind = CONFIG_MAPPING[family]
    declared = _declared(kind)
    renamed = {name for name, other in getattr(kind, "attribute_map", {}).items() if other in SIZES}
    sizes = {name: value for name, value in SIZES.items() if name in declared and name not in renamed}
    try:
        config = kind(**{**sizes, **OWN_SIZES.get(family, {}), **changes})
        with torch.device("meta"):
            if transformers.AutoModelForCausalLM.from_config(copy.deepcopy(config)).num_parameters() > LARGEST:
                return None
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config).eval()
        for spread in (3.0, 1.0):
            sharpened = spread_weights(copy.deepcopy(model), spread)
            if all(bool(logits.isfinite().all()) for logits in stock_logits(sharpened, sequences())):
                return sharpened
    except Exception:  # every architecture refuses what it cannot be with errors of its own
        return None
    return None


def _declared(kind: Any) -> set[str]:
    return set(getattr(kind, "__dataclass_fields__", {})) | set(inspect.signature(kind.__init__).parameters)


@torch.no_grad()
def spread_weights(model: Any, factor: float) -> Any:
    """Larger weights than at the start of training, where every logit is nearly alike; norms and biases that do something."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if not parameter.is_floating_point():
            continue
        if "norm" in name or name.endswith("bias"):
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        elif parameter.dim() > 1:
            parameter.mul_(factor)
    return model


def sequences() -> list[torch.Tensor]:
    """Token ids (T,) of unequal lengths, with repetitions and shared beginnings."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randint(3, VOCABULARY, (LENGTH,), generator=generator)
    first[LENGTH // 2 :] = first[: LENGTH // 2]
    ends = [torch.randint(3, VOCABULARY, (length,), generator=generator) for length in (4, 21, 9, 48)]
    return [first, *(torch.cat([first[:shared], end]) for shared, end in zip((20, 20, 7, 0), ends, strict=True))]


@torch.no_grad()
def stock_logits(model: Any, ids: list[torch.Tensor]) -> list[torch.Tensor]:
    """Logits (T, V) of each sequence alone, by a model that has seen nothing before."""
    return [copy.deepcopy(model)(input_ids=one[None], use_cache=False).logits[0].double() for one in ids]


def outcomes(model: Any, methods: list[str]) -> dict[str, Outcome]:
    """What becomes of claw's number, recovery's loss, the statistics and each method on this model."""
    results = {"number": outcome(lambda: number(model)), "recovery": outcome(lambda: recovery(model))}
    blocks = text()
    known: list[Any] = []

    def calibrated() -> Outcome:
        known.append(statistics.calibrate(model, blocks))
        return "equal", ""

    results[STATISTICS] = outcome(calibrated)
    for method in methods:
        results[method] = outcome(lambda method=method: compressed(model, method, known[0] if known else None))
    return results


def outcome(run: Callable[[], Outcome]) -> Outcome:
    """What a check gave, with errors told apart."""
    try:
        return run()
    except InputError as error:
        why = str(error)
        return "refused", why if len(why) < 300 else f"{why[:300]} ..."
    except Exception as error:
        import traceback

        where = traceback.extract_tb(error.__traceback__)[-1]
        return "CRASH", f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}: {str(error)[:300]}"


def loss_of(logits: torch.Tensor, ids: torch.Tensor) -> float:
    """Nats per token of a sequence (T,) under logits (T, V)."""
    return torch.nn.functional.cross_entropy(logits[:-1], ids[1:]).item()


def losses(model: Any, scorer: Scorer | None = None) -> np.ndarray:
    """Nats per token of every sequence, all scored in one call."""
    ids, scorer = sequences(), scorer or Scorer(model)
    requests = [Request.ending(one.tolist(), len(one) - 1) for one in ids]
    sums = np.empty(len(requests))
    for numbers, loglikelihoods, _ in scorer.score(scorer.prefix_tree(requests)):
        sums[numbers] = loglikelihoods
    return -sums / np.array([len(one) - 1 for one in ids])


def number(model: Any) -> Outcome:
    """Losses of sequences of unequal lengths in one call against the stock ones of each alone."""
    ids = sequences()
    wanted = [loss_of(logits, one) for logits, one in zip(stock_logits(model, ids), ids, strict=True)]
    scorer = Scorer(model)
    off = float(np.abs(losses(model, scorer) - wanted).max())
    way = "stock" if scorer.decoder is None else "fast"
    return (way, scorer.reason) if off <= TOLERANCE else ("WRONG", f"off by {off:.2g} nats per token ({way})")


def recovery(model: Any) -> Outcome:
    """The loss that full recovery trains on against the stock cross-entropy."""
    asked = build_spec(Recovery, {"recipe": "full", "tokens": LENGTH, "corpus": "text", "length": LENGTH})
    recipes.check_recipe(model, asked, None, ())
    student = recipes.Student(model, asked, None, (), 0)
    ids = torch.stack([one for one in sequences() if len(one) == LENGTH])
    mine = float(student.loss(ids, torch.ones_like(ids, dtype=torch.bool)).detach()) / (len(ids) * (LENGTH - 1))
    logits = torch.stack(stock_logits(model, list(ids)))[:, :-1].flatten(0, 1)
    off = abs(mine - torch.nn.functional.cross_entropy(logits, ids[:, 1:].flatten()).item())
    way = "stock" if student.forward.decoder is None else "fast"
    return (way, "") if off <= TOLERANCE else ("WRONG", f"off by {off:.2g} nats per token ({way})")


def adapted(model: Any) -> Outcome:
    """One step of LoRA, merged: a plain model that computes something else than before."""
    asked = build_spec(Recovery, {"recipe": "lora", "tokens": LENGTH, "corpus": "text", "length": LENGTH, "rank": 2})
    recipes.check_recipe(model, asked, None, recipes.TARGETS)
    student = recipes.Student(model, asked, None, recipes.TARGETS, 0)
    ids = torch.stack([one for one in sequences() if len(one) == LENGTH])
    student.loss(ids, torch.ones_like(ids, dtype=torch.bool)).backward()
    stepped = [weight.detach().float() - 1e-3 * weight.grad.float().sign() for weight in student.trained]
    small = student.plain(stepped)
    names = {name for name, _ in model.named_parameters()}
    if {name for name, _ in small.named_parameters()} != names:
        return "WRONG", "the merged model has other weights"
    before, after = (stock_logits(one, list(ids))[0] for one in (model, small))
    return ("equal", "") if not torch.equal(before, after) else ("WRONG", "nothing was trained")


def compressed(model: Any, method: str, known: Any) -> Outcome:
    """A method's result against what stock transformers reloads of it."""
    if known is None and claw.specs.methods.needs_statistics(method):
        return "no statistics", ""
    ratio, ratio_of = METHODS.get(method, (0.1, "params"))
    ratio = ratio or 1 / describe(model).depth
    small, _ = claw.compress(model, method, ratio, ratio_of=ratio_of, statistics=known)
    describe(small)
    with tempfile.TemporaryDirectory() as folder:
        small.save_pretrained(folder)
        again = stock_reload(folder, dtype=torch.float32).eval()
    for mine, theirs in zip(*(stock_logits(one, sequences()[:2]) for one in (small, again)), strict=True):
        if not torch.allclose(mine, theirs, atol=1e-4):
            return "WRONG", f"the reloaded logits are off by {float((mine - theirs).abs().max()):.2g}"
    return (
        ("equal", "") if small.num_parameters() < model.num_parameters() or method == "slicegpt" else ("WRONG", "not smaller")
    )


def text() -> Blocks:
    """Calibration blocks of random tokens with repetitions."""
    ids = torch.randint(3, VOCABULARY, (12, 32), generator=torch.Generator().manual_seed(3))
    ids[:, 16:] = ids[:, :16]
    scored = torch.ones_like(ids, dtype=torch.bool)
    scored[:, 0] = False
    return Blocks(ids=ids, scored=scored, words=1.0, bytes=1, corpus="random", purpose="calibration")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["CLAW_CACHE"] = scratch
        main()
