"""The fast pass is taken where everything that computes is known and seen to agree, and nowhere else."""

import numpy as np
import pytest
import torch
import transformers as tf
from conftest import tiny_config, tiny_model

from claw.engine import agreement, architectures, decoder
from claw.engine.choice import build_decoder
from claw.engine.prefix_tree import Request
from claw.engine.score import Scorer
from claw.errors import InputError
from claw.models.arithmetic import Readout

SIZES = dict(vocab_size=259, hidden_size=32, intermediate_size=64, num_attention_heads=4, num_key_value_heads=2)
SIZES |= dict(max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=0, num_hidden_layers=8)
LLAMA4 = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 2.0,
    "original_max_position_embeddings": 32,
    "llama_4_scaling_beta": 1.0,
}
LOOKALIKES = {  # built of the same blocks, but computing more; whether they are known
    "no rotation in some layers": (lambda: tf.SmolLM3Config(**SIZES, no_rope_layers=[1, 1, 1, 0] * 2), True),
    "scaled logits": (lambda: tf.GraniteConfig(**SIZES, residual_multiplier=1.0, logits_scaling=8.0), True),
    "norms without weights": (lambda: tf.OlmoConfig(**SIZES), True),
    "clipped queries": (lambda: tf.OlmoConfig(**SIZES, clip_qkv=0.1), False),
    "scaled by position": (lambda: tf.Ministral3Config(**SIZES, head_dim=8, rope_parameters=LLAMA4), False),
    "rotated in pairs": (lambda: tf.CohereConfig(**SIZES), True),
}


def sharpened(config):
    """A random model whose attention decides much, as in a trained one."""
    torch.manual_seed(0)
    model = tf.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(6 if "q_proj" in name or "k_proj" in name else 3 if parameter.dim() > 1 else 1)
    return model


def loglikelihoods(model) -> tuple[np.ndarray, np.ndarray, Scorer]:
    """Of sequences of unequal lengths, with repetitions: claw's in one call, and stock ones one at a time."""
    draw = np.random.default_rng(0)
    pattern = np.tile(draw.integers(3, 259, size=12), 6)
    texts = [pattern, pattern[:41], np.append(pattern[:30], draw.integers(3, 259, size=9)), draw.integers(3, 259, size=60)]
    wanted = []
    for ids in texts:
        with torch.no_grad():
            logits = model(input_ids=torch.from_numpy(ids)[None], use_cache=False).logits[0].double()
        wanted.append(-float(torch.nn.functional.cross_entropy(logits[:-1], torch.from_numpy(ids[1:]), reduction="sum")))
    scorer = Scorer(model)
    sums = np.empty(len(texts))
    for numbers, values, _ in scorer.score(scorer.prefix_tree([Request.ending(ids, len(ids) - 1) for ids in texts])):
        sums[numbers] = values
    return sums, np.array(wanted), scorer


@pytest.mark.parametrize("what", LOOKALIKES)
@pytest.mark.filterwarnings("ignore:claw scores")
def test_what_looks_like_llama_and_is_not_is_computed_right(what):
    config, known = LOOKALIKES[what]
    ours, stock, scorer = loglikelihoods(sharpened(config()))
    assert (scorer.decoder is not None) == known and (known or scorer.reason)
    np.testing.assert_allclose(ours, stock, atol=1e-3)


@pytest.mark.parametrize("what", LOOKALIKES)
def test_the_comparison_alone_tells_it_too(what, monkeypatch):
    """Without the list of architectures: the numbers are the second line of defence."""
    monkeypatch.setattr("claw.engine.choice.why_not_known", lambda model, **_: "")
    config, known = LOOKALIKES[what]
    assert (build_decoder(sharpened(config()))[0] is not None) == known


@pytest.mark.parametrize("rope", ["dynamic", "longrope"])
@pytest.mark.filterwarnings("ignore:claw scores")
def test_rotary_tables_that_depend_on_the_length_are_those_of_each_sequence(rope):
    factors = {"short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 3.0, 4.0]} if rope == "longrope" else {}
    parameters = {"rope_type": rope, "factor": 2.0, "rope_theta": 1e4, "original_max_position_embeddings": 16, **factors}
    model = sharpened(tiny_config("llama", rope_parameters=parameters))
    ours, _, scorer = loglikelihoods(model)
    assert "length of the longest" in scorer.reason
    again, stock, _ = loglikelihoods(sharpened(tiny_config("llama", rope_parameters=parameters)))
    np.testing.assert_allclose(ours, again, atol=1e-4)
    np.testing.assert_allclose(ours[:1], stock[:1], atol=1e-3)  # the first is the longest, so the table was made for it


@pytest.mark.filterwarnings("ignore:claw scores")
@pytest.mark.parametrize(
    "part", ["", "lm_head", "model", "model.norm", "model.layers.1.self_attn.o_proj", "model.embed_tokens"]
)
def test_a_hook_anywhere_acts(part):
    model = tiny_model("llama")
    plain, _, scorer = loglikelihoods(model)
    assert scorer.decoder is not None

    def louder(module, inputs, output):
        if isinstance(output, torch.Tensor):
            return output * 1.5
        name = "logits" if "logits" in output else "last_hidden_state"
        output[name] = output[name] * 1.5
        return output

    model.get_submodule(part).register_forward_hook(louder)
    ours, stock, scorer = loglikelihoods(model)
    assert scorer.decoder is None and "hooks" in scorer.reason
    np.testing.assert_allclose(ours, stock, atol=1e-3)
    assert abs(ours - plain).max() > 1e-2


def test_a_field_that_is_not_known_means_the_stock_forward(model):
    model.config.mystery = 3
    decoder_, reason = build_decoder(model)
    assert decoder_ is None and "mystery = 3" in reason
    model.config.mystery = None
    assert build_decoder(model)[0] is not None


@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [
        ("gemma3", {"attn_logit_softcapping": 5.0}, "caps attention"),
        ("gemma3", {"use_bidirectional_attention": True}, "not causal"),
        ("qwen3", {"layer_types": ["full_attention", "chunked_attention", "full_attention"]}, "another kind"),
    ],
)
def test_a_field_whose_value_is_not_computed_means_the_stock_forward(family, changes, reason):
    model = tiny_model(family)
    for name, value in changes.items():
        setattr(model.config, name, value)
    assert reason in build_decoder(model)[1]


def test_a_class_of_ones_own_is_not_known():
    class Mine(tf.LlamaForCausalLM):
        pass

    assert "architecture" in build_decoder(Mine(tiny_config("llama")).eval())[1]


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_other_kinds_of_attention_and_dropout(family):
    model = tiny_model(family)
    model.config.attention_dropout = 0.1
    assert build_decoder(model)[0] is not None  # it does not act in evaluation mode ...
    assert "drops out" in build_decoder(model, training=True)[1]  # ... but in training
    model.config._attn_implementation = "mine"
    assert "'mine'" in build_decoder(model)[1]


def test_weights_of_several_types():
    model = tiny_model("llama")
    model.lm_head.to(torch.bfloat16)
    assert "bfloat16, float32" in build_decoder(model)[1]


def wrong_scale(q, k, v, mask, scaling, cap=None):
    return right_attention(q, k, v, mask, scaling * 1.02, cap)


def wrong_beyond_a_position(parts, x, positions, kind):
    return right_rotation(parts, x, positions.clamp(max=256), kind)


def wrong_window(rows, before, window, dtype):
    return right_mask(rows, before, window and window + 1, dtype)


def wrong_epsilon(norm, x, offset):
    return right_norm(norm, x, offset) * 1.0003


right_attention, right_rotation, right_mask, right_norm = decoder.attend, decoder.rotation, decoder._mask, decoder.normalise
MISTAKES = {"attend": wrong_scale, "rotation": wrong_beyond_a_position, "_mask": wrong_window, "normalise": wrong_epsilon}


@pytest.mark.parametrize("name", MISTAKES)
@pytest.mark.parametrize("family", ["mistral", "gemma3"])
def test_a_small_mistake_in_the_fast_pass_is_seen(family, name, monkeypatch):
    monkeypatch.setattr(decoder, name, MISTAKES[name])
    decoder_, reason = build_decoder(tiny_model(family))
    assert decoder_ is None and "differ" in reason


def test_what_follows_the_head_is_compared(monkeypatch):
    monkeypatch.setattr(agreement, "readout_of", lambda model: Readout(scale=0.99))
    assert "differ" in build_decoder(tiny_model("qwen2"))[1]


def test_the_comparison_is_made_once_and_again_after_a_change(monkeypatch):
    made = []
    monkeypatch.setattr("claw.engine.choice.why_not_equal", lambda model: made.append(model) or "")
    model = tiny_model("llama")
    for _ in range(3):
        build_decoder(model)
    assert len(made) == 1
    model.model.layers[1].mlp.act_fn = torch.nn.GELU().eval()
    build_decoder(model)
    assert len(made) == 2


def test_every_field_of_the_known_architectures_is_listed():
    """With a new version of transformers this names the fields whose effect has to be looked at."""
    for family in ("llama", "mistral", "qwen2", "qwen3", "gemma3"):
        model = tf.AutoModelForCausalLM.from_config(tiny_config(family))
        fields = architectures.ARCHITECTURES[type(model).__name__].fields
        assert not set(vars(model.config)) - set(fields) - architectures.BOOKKEEPING, family


@pytest.mark.filterwarnings("ignore:claw scores")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_looks_ahead_is_refused(dtype):
    config = tf.BertConfig(**SIZES | {"num_hidden_layers": 2})
    with pytest.raises(InputError, match="tokens that follow"):
        Scorer(sharpened(config).to(dtype))


def test_the_stock_forward_is_announced_once():
    with pytest.warns(UserWarning, match="OlmoForCausalLM with its stock forward, because"):
        Scorer(sharpened(LOOKALIKES["clipped queries"][0]()))
