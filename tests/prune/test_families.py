"""Every family is compressed as well as Llama, on small trained models: what an architecture computes shows in the loss."""

import copy
import math

import pytest
import torch
from trained import VOCABULARY, pairs, trained, untrained

import claw
from claw.evaluate.held_out import cross_entropy
from claw.models.anatomy import anatomy
from claw.prune import trial_cut
from claw.recovery.recipes import cast_weights
from claw.specs.methods import AXES

FAMILIES = (
    "llama gemma2 smollm3 granite phi phi3 olmo olmo2 gpt_neox gpt2 opt stablelm starcoder2 cohere glm4 nemotron arcee"
).split()
HELD_OUT = pairs(40, 5, "held-out")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.filterwarnings("ignore")
def test_methods_keep_what_a_model_has_learned(family, own_cache):
    model = trained(family)
    loss = lambda one: cross_entropy(one, HELD_OUT).mean
    known = claw.calibrate(model, pairs(128, 3, "calibration"))

    def after(method: str, ratio: float, ratio_of: str = "own") -> float:
        return loss(claw.compress(model, method, ratio, ratio_of=ratio_of, statistics=known)[0])

    dense, guess = loss(model), math.log(VOCABULARY)
    assert dense < guess / 2
    magnitude, ridge, depth = after("magnitude", 0.75, "ffn"), after("wanda-sp+ridge", 0.75, "ffn"), after("shortgpt", 1 / 3)
    assert ridge < magnitude + 0.01  # compensation with biases, fused weights and all
    assert after("claw", 0.1, "nonembedding") < dense + 0.02
    assert after("claw", 0.35, "nonembedding") < min(ridge, depth) + 0.05


@pytest.mark.parametrize("family", "olmo2 phi3 gpt_neox gpt2 opt cohere phi gemma2".split())
@pytest.mark.filterwarnings("ignore")
def test_half_precision_and_recovery(family, own_cache):
    model = cast_weights(copy.deepcopy(trained(family)), torch.bfloat16)  # tables and scales stay, as when loaded
    known = claw.calibrate(model, pairs(128, 3, "calibration"), gradients=True)
    for method in ("taylor", "claw"):
        small, _ = claw.compress(model, method, 0.5, ratio_of="ffn" if method == "taylor" else "nonembedding", statistics=known)
        before = cross_entropy(small, HELD_OUT).mean
        better, _ = claw.recover(small, pairs(256, 6, "recovery"), tokens=8192, recipe="lora", batch=8, learning_rate=3e-3)
        assert cross_entropy(better, HELD_OUT).mean < before + 0.01


ALL = (*FAMILIES, *"qwen2 qwen3 mistral gemma gemma3_text olmo3 ministral3 cohere2 exaone4 glm".split())
AS_PUBLISHED = dict(vocab_size=150, bos_token_id=147, eos_token_id=148, pad_token_id=149)


@pytest.mark.parametrize("family", dict.fromkeys(ALL))
@pytest.mark.filterwarnings("ignore")
def test_real_vocabularies_and_half_precision_allow_the_same_cuts(family):
    """Special tokens at the end of the vocabulary, tables and scales in half precision: neither is more to compute."""
    refused = lambda model: {axis for axis in AXES if trial_cut.why_not(anatomy(model), axis)}
    sizes = {} if family == "gpt2" else dict(hidden_size=96)  # whose root half precision does not hold
    if family == "opt":
        sizes = dict(hidden_size=96, word_embed_proj_dim=96)
    plain, real = untrained(family, **sizes), untrained(family, **sizes, **AS_PUBLISHED)
    assert refused(real) == refused(plain) != set(AXES)
    assert refused(real.to(torch.bfloat16)) == refused(plain)
