"""The anatomy names the parts of every supported family and refuses what it cannot take apart."""

import pytest
import torch
import transformers as tf
from conftest import tiny_model

from claw.errors import InputError
from claw.models.anatomy import anatomy, describe


def test_shape_counts_the_parameters_of_every_family(model):
    assert describe(model).parameters == sum(p.numel() for p in model.parameters())


def test_tied_and_untied_heads_are_told_apart():
    assert anatomy(tiny_model("llama")).tied
    assert not anatomy(tiny_model("llama", tie_word_embeddings=False)).tied


def test_gain_offset():
    assert anatomy(tiny_model("llama")).gain_offset == 0
    assert anatomy(tiny_model("gemma3")).gain_offset == 1


def test_biases_and_head_norms_enter_the_shape():
    assert describe(tiny_model("qwen2")).biases == "qkv"
    assert describe(tiny_model("qwen3")).head_norms
    assert describe(tiny_model("gemma3")).block_norms == 4


def test_a_mixture_of_experts_is_refused():
    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    config = tf.MixtralConfig(**sizes, num_attention_heads=2, num_key_value_heads=1, num_local_experts=2)
    with pytest.raises(InputError, match="cannot be taken apart"):
        anatomy(tf.MixtralForCausalLM(config))


def test_an_unknown_architecture_is_refused_with_what_is_supported():
    config = tf.GPTJConfig(vocab_size=64, n_embd=16, n_layer=1, n_head=2, rotary_dim=4)
    with pytest.raises(InputError, match=r"GPTJForCausalLM.*Llama, Qwen"):
        anatomy(tf.GPTJForCausalLM(config))


def test_layers_of_different_width_are_refused():
    model = tiny_model("llama")
    model.model.layers[1].mlp.gate_proj = torch.nn.Linear(32, 48, bias=False)
    with pytest.raises(InputError, match="differ in width"):
        anatomy(model)


def test_a_model_on_the_meta_device_is_refused():
    with pytest.raises(InputError, match="meta device"):
        anatomy(tiny_model("llama").to("meta"))


def test_flops_follow_the_multiplied_weights():
    shape = describe(tiny_model("llama", tie_word_embeddings=False))
    model = tiny_model("llama", tie_word_embeddings=False)
    weights = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
    assert shape.flops_per_token(context=0) == 2 * weights


SIZES = dict(vocab_size=259, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4)
SIZES |= dict(num_key_value_heads=2, head_dim=8, max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=0)
OTHERS = {  # what their blocks have besides; "" for those that are described
    "Olmo": "",  # norms without weights
    "HunYuanDenseV1": "",  # norms on heads by other names
    "VaultGemma": "",  # a norm before the feed-forward, none after it
    "Granite": "",
    "SmolLM3": "",
    "Helium": "",
    "DiffLlama": "lambda_q1",
    "Doge": "dt_proj",
    "BitNet": "attn_sub_norm",
    "GraniteSWA": "sinks",
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_architectures_are_counted_right_or_refused_with_what_is_not_known(name):
    model = getattr(tf, f"{name}ForCausalLM")(getattr(tf, f"{name}Config")(**SIZES))
    if OTHERS[name]:
        with pytest.raises(InputError, match=f"role claw does not know.*{OTHERS[name]}"):
            describe(model)
    else:
        assert describe(model).parameters == sum(p.numel() for p in model.parameters())


def test_norms_after_a_half_that_are_named_otherwise_are_refused():
    with pytest.raises(InputError, match="post_norm1"):
        describe(tf.HyperCLOVAXForCausalLM(tf.HyperCLOVAXConfig(**SIZES, use_post_norm=True)))


@pytest.mark.parametrize("place", ["", "model", "model.layers.1", "model.layers.2.mlp", "lm_head"])
def test_a_weight_of_unknown_role_is_refused_wherever_it_is(place):
    model = tiny_model("llama")
    model.get_submodule(place).extra = torch.nn.Parameter(torch.zeros(3))
    with pytest.raises(InputError, match="role claw does not know"):
        describe(model)


def test_layers_that_differ_in_their_biases_are_refused():
    model = tiny_model("llama")
    model.model.layers[1].mlp.gate_proj.bias = torch.nn.Parameter(torch.zeros(64))
    with pytest.raises(InputError, match="its sizes come to"):
        describe(model)
