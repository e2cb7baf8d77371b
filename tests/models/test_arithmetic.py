"""What multiplies the stream and what follows the head is measured."""

import pytest
import torch
import transformers as tf
from conftest import tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from claw.errors import InputError
from claw.models.anatomy import anatomy
from claw.models.arithmetic import Readout, arithmetic_of, readout_of

SIZES = dict(vocab_size=259, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4)
SIZES |= dict(num_key_value_heads=2, max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=0)


def granite(**changes):
    torch.manual_seed(0)
    return tf.GraniteForCausalLM(tf.GraniteConfig(**SIZES, **changes)).eval()


def test_the_known_families_multiply_nothing(model):
    assert readout_of(model) == Readout()
    assert arithmetic_of(anatomy(model)).residual == 1.0


@settings(deadline=None, max_examples=10)
@given(*[st.floats(0.05, 20).map(lambda x: float(f"{x:.3g}"))] * 3)
def test_granites_multipliers(embedding, residual, scaling):
    changes = {"embedding_multiplier": embedding, "residual_multiplier": residual, "logits_scaling": scaling}
    model = granite(**changes)
    assert arithmetic_of(anatomy(model)).residual == pytest.approx(residual, rel=1e-5)
    assert readout_of(model).scale == pytest.approx(1 / scaling, rel=1e-5)


@pytest.mark.parametrize("cap", [0.5, 30.0])
def test_a_cap_on_the_logits(cap):
    assert readout_of(tiny_model("gemma3", final_logit_softcapping=cap)) == Readout(cap=cap)


def test_the_slope_of_a_capped_readout():
    readout, projected = Readout(scale=2.0, cap=3.0), torch.linspace(-4, 4, 9, dtype=torch.float64)
    factor = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    for z, slope in zip(projected, readout.slope(projected), strict=True):
        wanted = torch.autograd.grad(readout.logits(z * factor), factor)[0]
        assert slope == pytest.approx(float(wanted))


def test_logits_that_are_no_multiple_are_refused():
    model = tiny_model("llama")
    bent = lambda logits: logits + 0.1 * logits.square()
    model.register_forward_hook(lambda module, inputs, output: type(output)(logits=bent(output.logits)))
    with pytest.raises(InputError, match="no multiple"):
        readout_of(model)


def test_a_model_without_a_head_of_this_kind_is_refused():
    config = tf.ReformerConfig(vocab_size=64, is_decoder=True)
    with pytest.raises(InputError, match="ReformerModelWithLMHead cannot be used here"):
        readout_of(tf.ReformerModelWithLMHead(config))


def test_blocks_that_add_otherwise_are_said_to():
    model = tiny_model("llama")
    for layer in model.model.layers:
        layer.register_forward_hook(lambda module, inputs, output: output + 0.1 * inputs[0])
    assert "multiple" in arithmetic_of(anatomy(model)).why_not_residual
