"""Both forms of SliceGPT: exact at full width, stock or refused, honest about what they add."""

import pytest
import torch
from conftest import tiny_model
from trained import pairs, untrained

from claw.errors import InputError
from claw.models.anatomy import anatomy, describe
from claw.prune import compress, rotation, slicegpt
from claw.prune.statistics import calibrate
from claw.stages import checkpoints
from claw.texts import token_blocks

ROTATABLE = ("llama", "qwen2", "qwen3", "mistral")


@pytest.fixture
def blocks(tokenizer, train_text):
    return token_blocks.blocks(tokenizer, train_text, length=32, count=16)


@pytest.mark.parametrize("family", ROTATABLE)
def test_rotating_at_full_width_changes_no_logit(family, blocks, own_cache):
    model = tiny_model(family)
    directions = slicegpt.principal_directions(calibrate(model, blocks).stream_gram())
    small = rotation.rotated(anatomy(model), directions)
    assert torch.allclose(small(blocks.ids[:4]).logits, model(blocks.ids[:4]).logits, atol=1e-4)


def test_half_precision_weights_are_rotated_as_in_double_precision(blocks, own_cache):
    model = tiny_model("qwen2").bfloat16()
    parts, statistics = anatomy(model), calibrate(model, blocks)
    fast = slicegpt.sliced(parts, parts.shape.with_(hidden=24), statistics).state_dict()
    directions = slicegpt.principal_directions(statistics.stream_gram())[:, :24]
    for name, exact in rotation.rotated(parts, directions).state_dict().items():
        assert fast[name].dtype == torch.bfloat16
        assert torch.allclose(fast[name], exact, rtol=2**-7, atol=1e-6), name  # a tie, rounded to the other side
        assert (fast[name] != exact).float().mean() < 0.01, name


@pytest.mark.parametrize("family", ["phi", "nemotron", "starcoder2", "cohere"])
def test_rotating_layer_norms_at_full_width_changes_no_logit(family):
    """With gains, biases and a mean that all do something."""
    model = untrained(family)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
        elif "embed" in name:
            parameter.data += 0.5
    basis = torch.linalg.qr(torch.randn(32, 32, dtype=torch.float64, generator=generator)).Q
    ids = pairs(4, 0, "calibration").ids
    small = rotation.rotated(anatomy(model), basis)
    assert torch.allclose(small(ids).logits, model(ids).logits, atol=1e-4)


@pytest.mark.parametrize("family", ROTATABLE)
def test_rotations_per_layer_at_full_width_change_no_logit(family, blocks, own_cache):
    model = tiny_model(family)
    parts = anatomy(model)
    small = slicegpt.per_layer(parts, parts.shape, blocks)
    assert torch.allclose(small(blocks.ids[:4]).logits, model(blocks.ids[:4]).logits, atol=1e-4)


@pytest.mark.parametrize("family", ROTATABLE)
def test_a_stream_of_low_rank_survives_the_cut(family, blocks, own_cache):
    """If nothing ever writes outside a subspace, cutting the rest changes nothing."""
    model = tiny_model(family)
    parts = anatomy(model)
    torch.manual_seed(1)
    inside = torch.linalg.qr(torch.randn(32, 24)).Q
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(model.model.embed_tokens.weight @ inside @ inside.T)
        for layer in parts.layers:
            for linear in (layer.o, layer.down):
                linear.weight.copy_(inside @ (inside.T @ linear.weight))
    statistics = calibrate(model, blocks)
    for method in ("slicegpt", "slicegpt-perlayer"):
        small, report = compress.compress(model, method, 0.25, statistics=statistics)
        assert report.small.hidden == 24
        assert torch.allclose(small(blocks.ids[:4]).logits, model(blocks.ids[:4]).logits, atol=2e-3), method


def test_the_untied_head_and_the_shortcuts_are_counted(blocks, own_cache):
    model = tiny_model("mistral")
    statistics = calibrate(model, blocks)
    for method, tied in (("slicegpt", False), ("slicegpt-perlayer", False)):
        small, report = compress.compress(model, method, 0.25, statistics=statistics)
        assert report.small.tied is tied
        assert sum(p.numel() for p in small.parameters()) == report.small.parameters == describe(small).parameters
    assert report.small.shortcuts == 2


def test_a_true_ratio_is_solved_with_what_is_added(blocks, own_cache):
    model = tiny_model("mistral")
    _small, report = compress.compress(model, "slicegpt", 0.3, ratio_of="params", statistics=calibrate(model, blocks))
    assert report.ratio_params == pytest.approx(0.3, abs=0.03) and report.ratio_own > 0.3


def test_the_plain_form_is_a_stock_checkpoint_with_a_cache(blocks, own_cache, tokenizer, tmp_path):
    model = tiny_model("qwen2")
    small, report = compress.compress(model, "slicegpt", 0.25, statistics=calibrate(model, blocks))
    checkpoints.save(small, tokenizer, tmp_path / "small", report)
    ids = blocks.ids[:2, :5]
    out = small.generate(ids, max_new_tokens=5, do_sample=False)
    assert torch.equal(out, small.generate(ids, max_new_tokens=5, do_sample=False, use_cache=False))


def test_shortcuts_work_with_the_key_value_cache(blocks, own_cache):
    model = tiny_model("llama")
    small, _ = compress.compress(model, "slicegpt-perlayer", 0.25, statistics=calibrate(model, blocks))
    ids = blocks.ids[:2, :5]
    out = small.generate(ids, max_new_tokens=5, do_sample=False)
    assert torch.equal(out, small.generate(ids, max_new_tokens=5, do_sample=False, use_cache=False))


def test_a_model_with_shortcuts_is_not_saved(blocks, own_cache, tokenizer, tmp_path):
    model = tiny_model("llama")
    small, report = compress.compress(model, "slicegpt-perlayer", 0.25, statistics=calibrate(model, blocks))
    with pytest.raises(InputError, match="no stock architecture can hold"):
        checkpoints.save(small, tokenizer, tmp_path / "small", report)


def test_slicegpt_refuses_norms_on_what_is_written(blocks, own_cache):
    model = tiny_model("gemma3")
    statistics = calibrate(model, blocks)
    for method in ("slicegpt", "slicegpt-perlayer"):
        with pytest.raises(InputError, match="normalise what they write"):
            compress.compress(model, method, 0.25, statistics=statistics)
