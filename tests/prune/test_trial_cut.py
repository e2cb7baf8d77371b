"""A cut that an architecture does not allow is refused before any work, whatever the architecture computes."""

import pytest
import torch
import transformers as tf
from conftest import tiny_model

from claw.errors import InputError
from claw.models.anatomy import anatomy
from claw.prune import compress, trial_cut
from claw.prune.statistics import calibrate
from claw.specs.methods import AXES
from claw.texts.token_blocks import Blocks

SIZES = dict(vocab_size=259, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4)
SIZES |= dict(num_key_value_heads=2, head_dim=8, max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=0)


def parts_of(name: str, **changes):
    torch.manual_seed(0)
    return anatomy(getattr(tf, f"{name}ForCausalLM")(getattr(tf, f"{name}Config")(**SIZES, **changes)).eval())


def refused(parts) -> set[str]:
    return {axis for axis in AXES if trial_cut.why_not(parts, axis)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_known_families_allow_every_cut_but_where_norms_follow_a_half(family, dtype):
    model = tiny_model(family, hidden_size=40).to(dtype)  # 40 has no root that half precision holds, and 10,000 of it neither
    assert refused(anatomy(model)) == ({"hidden"} if family == "gemma3" else set())


@pytest.mark.parametrize(
    ("name", "changes", "axes"),
    [
        ("Granite", dict(embedding_multiplier=4.0, residual_multiplier=0.3, logits_scaling=4.0), set()),
        ("SmolLM3", dict(no_rope_layers=[1, 0, 1]), set()),
        ("Olmo", {}, {"hidden"}),  # LayerNorm subtracts the mean, and has no weights
        ("VaultGemma", {}, {"hidden"}),  # embeddings are scaled by the root of the hidden width
        ("HunYuanDenseV1", dict(rms_norm_eps=1e-7), set()),
        ("HunYuanDenseV1", dict(rms_norm_eps=1e-2), {"hidden"}),  # a narrower model gets another ε, its norms on heads too
        ("Gemma", {}, {"hidden"}),
        ("Helium", {}, {"heads", "hidden"}),  # its output projection is always square
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_architectures(name, changes, axes, dtype):
    assert refused(anatomy(parts_of(name, **changes).model.to(dtype))) == axes


def test_a_table_that_is_wrong_by_more_than_rounding_is_seen_in_half_precision_too():
    model = tiny_model("gemma3").to(torch.bfloat16)
    model.model.embed_tokens.embed_scale.mul_(1.02)
    assert "off by" in trial_cut.why_not(anatomy(model), "ffn")


class ByNumber(torch.nn.Module):
    """Multiplies by something that depends on the number of the layer, known only when the model is built."""

    def __init__(self, number: int):
        super().__init__()
        self.factor = 1.0 / (number + 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.silu(x) * self.factor


def test_blocks_that_compute_by_their_number_cannot_be_removed():
    model = tiny_model("llama")
    for number, layer in enumerate(model.model.layers):
        layer.mlp.act_fn = ByNumber(number)
    with pytest.raises(InputError, match=r"cannot have blocks cut.*off by.*No other axis"):
        trial_cut.check_cut(anatomy(model), "layers")


@pytest.mark.parametrize("axis", AXES)
def test_what_a_hook_adds_is_not_cut_silently(axis):
    model = tiny_model("llama")
    model.model.layers[1].mlp.register_forward_hook(lambda module, inputs, output: output + inputs[0])
    assert "off by" in trial_cut.why_not(anatomy(model), axis)


def test_methods_say_which_other_axes_are_left(own_cache):
    model = parts_of("Olmo").model
    ids = torch.randint(3, 259, (8, 32), generator=torch.Generator().manual_seed(0))
    scored = torch.ones_like(ids, dtype=torch.bool)
    blocks = Blocks(ids=ids, scored=scored, words=1.0, bytes=1, corpus="random", purpose="calibration")
    statistics = calibrate(model, blocks)
    with pytest.raises(InputError, match=r"the hidden width cut.*ffn, heads, layers"):
        compress.compress(model, "slicegpt", 0.25, statistics=statistics)
    for method in ("magnitude", "wanda-sp+ridge", "claw"):
        small, _ = compress.compress(model, method, 0.2, ratio_of="nonembedding", statistics=statistics)
        assert small.num_parameters() < model.num_parameters()


def test_the_trial_is_made_once(monkeypatch):
    made = []
    monkeypatch.setattr(trial_cut, "_tried", lambda parts, axis: made.append(axis) or "")
    parts = anatomy(tiny_model("llama"))
    for _ in range(3):
        trial_cut.check_cut(parts, "ffn")
    assert made == ["ffn"]
