"""Small models of any family, trained in seconds on sequences with rules."""

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


def pairs(count: int, seed: int, purpose: str) -> Blocks:
    """Blocks (count, LENGTH) whose next token needs the last two: 7 x, or 7 x + 20 after an odd one; one in ten otherwise."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(VOCABULARY, (count, LENGTH), generator=generator)
    noise = (torch.rand(count, LENGTH, generator=generator) < 0.1).long()
    for place in range(2, LENGTH):
        ids[:, place] = (7 * ids[:, place - 1] + 20 * ((ids[:, place - 2] + noise[:, place]) % 2)) % VOCABULARY
    scored = torch.ones_like(ids, dtype=torch.bool)
    scored[:, :2] = False
    return Blocks(ids=ids, scored=scored, words=1.0, bytes=1, corpus="pairs", purpose=purpose)


SIZES = {
    **dict(vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4),
    **dict(num_key_value_heads=2, max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=0),
}
OTHER_SIZES = {
    "gpt2": dict(
        vocab_size=VOCABULARY,
        bos_token_id=1,
        eos_token_id=2,
        n_embd=32,
        n_inner=64,
        n_layer=3,
        n_head=4,
        n_positions=64,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    ),
    "opt": dict(ffn_dim=64, word_embed_proj_dim=32, dropout=0.0),
    "gpt_neox": dict(num_key_value_heads=4),
    "granite": MULTIPLIERS,
    "gemma2": dict(head_dim=8, query_pre_attn_scalar=8),
    "gemma3_text": dict(head_dim=8, query_pre_attn_scalar=8),
    "cohere": dict(logit_scale=1.0),
    "glm": dict(head_dim=8),
    "glm4": dict(head_dim=8),
    "ministral3": dict(head_dim=8),
    "smollm3": dict(no_rope_layers=[1, 1, 0]),
}


def untrained(family: str, **changes):
    """A small random model of a family by its model_type."""
    torch.manual_seed(0)
    kind = tf.models.auto.configuration_auto.CONFIG_MAPPING[family]
    own = OTHER_SIZES.get(family, {}) | changes
    return tf.AutoModelForCausalLM.from_config(kind(**(own if family == "gpt2" else SIZES | own))).eval()


@cache
def trained(family: str):
    """The same trained on `pairs`: .35 nats per token where it has learned the rule."""
    model = untrained(family).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    steps = 200
    falling = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: min(1, (step + 1) / 10) * (1 - step / steps))
    for ids in pairs(32 * steps, 1, "recovery").ids.split(32):
        optimiser.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        falling.step()
    return model.eval()


@cache
def trained_granite():
    """A Granite whose multipliers all differ from 1, trained on `chains`; its loss is near ENTROPY."""
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
