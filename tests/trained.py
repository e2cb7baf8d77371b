"""A small Granite, whose multipliers all differ from 1, trained in seconds on chains of tokens with two successors each."""

from functools import cache

import torch
import transformers as tf

from claw.texts.token_blocks import Blocks

VOCABULARY, LENGTH = 61, 32
ENTROPY = 0.693  # nats per token of the chains
MULTIPLIERS = dict(embedding_multiplier=6.0, residual_multiplier=0.4, attention_multiplier=0.2, logits_scaling=4.0)


def chains(count: int, seed: int, purpose: str) -> Blocks:
    """Blocks (count, LENGTH): x, then 7 x or 7 x + 20, and so on."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(VOCABULARY, (count, LENGTH), generator=generator)
    jumps = torch.randint(2, (count, LENGTH), generator=generator) * 20
    for place in range(1, LENGTH):
        ids[:, place] = (7 * ids[:, place - 1] + jumps[:, place]) % VOCABULARY
    scored = torch.ones_like(ids, dtype=torch.bool)
    scored[:, 0] = False
    return Blocks(ids=ids, scored=scored, words=1.0, bytes=1, corpus="chains", purpose=purpose)


@cache
def trained_granite():
    """The model; its loss is near ENTROPY."""
    torch.manual_seed(0)
    sizes = dict(vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4)
    tokens = dict(num_key_value_heads=2, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    model = tf.GraniteForCausalLM(tf.GraniteConfig(**sizes, **tokens, **MULTIPLIERS, tie_word_embeddings=True))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    blocks = chains(16 * 150, 1, "recovery")
    for ids in blocks.ids.split(16):
        optimiser.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimiser.step()
    return model.eval()
