"""Held-out cross-entropy against the definition, computed by the model's own forward."""

import math

import pytest
import torch
from conftest import tiny_model

from claw.evaluate.held_out import CrossEntropy, cross_entropy
from claw.texts import token_blocks


def test_equal_to_the_definition(family, tokenizer, heldout_text):
    model = tiny_model(family)
    blocks = token_blocks.blocks(tokenizer, heldout_text, length=48, count=20, purpose="heldout")
    with torch.inference_mode():
        logprobs = model(blocks.ids).logits[:, :-1].double().log_softmax(-1)
    losses = -logprobs.gather(-1, blocks.ids[:, 1:, None])[..., 0] * blocks.scored[:, 1:]
    per_block, counts = losses.sum(1), blocks.scored[:, 1:].sum(1)
    loss = cross_entropy(model, blocks)
    mean = float(losses.sum() / counts.sum())
    assert loss.mean == pytest.approx(mean, abs=1e-5)
    assert loss.tokens == int(counts.sum())
    spread = float(((per_block - mean * counts) ** 2).sum()) / (len(blocks) - 1)
    assert loss.stderr == pytest.approx(math.sqrt(spread * len(blocks)) / loss.tokens, rel=1e-4)


def test_strided_blocks_score_each_token_once_with_more_context(tokenizer, heldout_text):
    model = tiny_model("llama")
    strided = token_blocks.blocks(tokenizer, heldout_text, length=48, count=20, purpose="heldout", stride=12)
    loss = cross_entropy(model, strided)
    with torch.inference_mode():
        logprobs = model(strided.ids).logits[:, :-1].double().log_softmax(-1)
    losses = -logprobs.gather(-1, strided.ids[:, 1:, None])[..., 0] * strided.scored[:, 1:]
    assert loss.mean == pytest.approx(float(losses.sum() / strided.scored[:, 1:].sum()), abs=1e-5)


def test_a_model_that_gives_nan_has_nan_loss(tokenizer, heldout_text):
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.norm.weight.fill_(math.nan)
    blocks = token_blocks.blocks(tokenizer, heldout_text, length=48, count=4, purpose="heldout")
    assert math.isnan(cross_entropy(model, blocks).mean)


def test_perplexities_follow_from_the_mean():
    loss = CrossEntropy(mean=math.log(8), stderr=0.1, tokens=30, words=10, bytes=90, corpus="c", context=16, data="d")
    assert loss.token_perplexity == pytest.approx(8)
    assert loss.word_perplexity == pytest.approx(8**3)
    assert loss.bits_per_byte == pytest.approx(1)
    assert loss.to_dict()["bits_per_byte"] == loss.bits_per_byte


def test_overflow_is_infinite_and_no_words_is_missing():
    loss = CrossEntropy(mean=800.0, stderr=0.1, tokens=30, words=0, bytes=0, corpus="c", context=16, data="d")
    assert loss.token_perplexity == math.inf
    assert math.isnan(loss.word_perplexity) and math.isnan(loss.bits_per_byte)
