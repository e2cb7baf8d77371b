"""Statistics are those of the model that was given, whatever the cache holds of others that look like it."""

import dataclasses
import gc

import pytest
import torch
from conftest import FAMILIES, tiny_config, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

import claw
from claw import project
from claw.errors import InputError
from claw.models.anatomy import anatomy
from claw.prune.statistics import Statistics

SITES = ("attention", "heads", "mlp", "ffn")
CHANGES = {
    "rope_theta": dict(rope_parameters={"rope_type": "default", "rope_theta": 50.0}),
    "rms_norm_eps": dict(rms_norm_eps=1.0),
    "heads": dict(num_attention_heads=2, num_key_value_heads=1, head_dim=16),
    "activation": dict(hidden_act="relu"),
}


@pytest.fixture(scope="module")
def blocks(tokenizer, train_text):
    return claw.blocks(tokenizer, train_text, length=32, count=8)


def moments(statistics: Statistics) -> list[torch.Tensor]:
    return [statistics.moment(index, site, "gram") for index in range(statistics.depth) for site in SITES]


def equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(map(torch.equal, one, other))


def alone(model, blocks, monkeypatch, folder) -> list[torch.Tensor]:
    """The moments of a model with an empty cache."""
    with monkeypatch.context() as patch:
        patch.setenv("CLAW_CACHE", str(folder))
        return moments(claw.calibrate(model, blocks))


def silenced(model):
    for layer in model.model.layers[1:]:
        layer.mlp.register_forward_hook(lambda module, args, out: out * 0)
    return model


def test_a_second_call_reads_what_the_first_wrote(own_cache, blocks, monkeypatch):
    first = claw.calibrate(tiny_model("llama"), blocks)
    monkeypatch.setattr("claw.prune.statistics._collect", None)
    assert claw.calibrate(tiny_model("llama"), blocks) == first and first.folder.is_relative_to(own_cache)


@pytest.mark.parametrize("change", CHANGES)
def test_the_same_weights_under_another_configuration(own_cache, tmp_path, blocks, monkeypatch, change):
    model, other = tiny_model("llama"), AutoModelForCausalLM.from_config(tiny_config("llama", **CHANGES[change])).eval()
    other.load_state_dict(model.state_dict())
    plain, changed = claw.calibrate(model, blocks), claw.calibrate(other, blocks)
    assert plain.model != changed.model and not equal(moments(plain), moments(changed))
    assert equal(moments(changed), alone(other, blocks, monkeypatch, tmp_path / "empty"))
    with pytest.raises(InputError, match="belong to another model"):
        claw.compress(other, "wanda-sp", 0.5, statistics=plain)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(FAMILIES), st.data())
def test_one_changed_weight(tmp_path_factory, blocks, family, data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLAW_CACHE", str(tmp_path_factory.mktemp("cache")))
        model = tiny_model(family)
        before = claw.calibrate(model, blocks)
        weight = data.draw(st.sampled_from([model.model.embed_tokens, model.model.layers[0].mlp.up_proj])).weight.data.view(-1)
        weight[data.draw(st.integers(0, len(weight) - 1))] += 0.5
        assert claw.calibrate(model, blocks).folder != before.folder


def test_a_model_with_hooks_has_statistics_of_its_own(own_cache, tmp_path, blocks, monkeypatch):
    plain = claw.calibrate(tiny_model("llama"), blocks)
    hooked = silenced(tiny_model("llama"))
    own = claw.calibrate(hooked, blocks, gradients=True)
    assert not equal(moments(plain), moments(own))
    assert equal(moments(own), alone(hooked, blocks, monkeypatch, tmp_path / "empty"))
    assert own.taylor(0, "ffn").isfinite().all() and own.blocks().sha256 == blocks.sha256
    assert sorted((own_cache / "statistics").iterdir()) == sorted(
        plain.folder.with_name(f"{plain.folder.name}{end}") for end in ("", ".lock", ".seal")
    )
    with pytest.raises(InputError, match="hooks differ"):
        claw.compress(hooked, "wanda-sp", 0.5, statistics=plain)
    with pytest.raises(InputError, match="computes more than that"):  # what is cut would be a model without the hooks
        claw.compress(hooked, "wanda-sp", 0.5, statistics=own)
    folder, copy = own.folder, dataclasses.replace(own)
    del own
    gc.collect()
    assert folder.exists()
    del copy
    gc.collect()
    assert not folder.exists()


def test_hooks_on_blocks_act_once_and_stay(own_cache, blocks):
    """What the walk block by block reads is what the model's own forward gives, hooks, replaced forwards and all."""
    model = tiny_model("llama")
    first, second, last = (layer.module for layer in anatomy(model).layers)
    first.register_forward_pre_hook(lambda module, args, kwargs: ((args[0] * 1.5, *args[1:]), kwargs), with_kwargs=True)
    first.register_forward_hook(lambda module, args, out: out * 0.5)
    forward = second.forward
    second.forward = lambda *args, **kwargs: forward(*args, **kwargs) + 1
    statistics = claw.calibrate(model, blocks)
    assert "forward" in vars(second) and "forward" not in vars(last)
    assert len(first._forward_hooks) == len(first._forward_pre_hooks) == 1
    read = []
    last.mlp.down_proj.register_forward_pre_hook(lambda module, args: read.append(args[0].flatten(0, 1)))
    with torch.no_grad():
        model(blocks.ids)
    gram = read[0].T @ read[0] / len(read[0])
    torch.testing.assert_close(statistics.moment(2, "ffn", "gram"), gram, rtol=1e-3, atol=1e-4 * float(gram.abs().max()))


def test_text_that_is_to_be_tested_on_is_refused(own_cache, blocks, tokenizer, train_text, heldout_text):
    model = tiny_model("llama")
    same = claw.blocks(tokenizer, train_text, length=32, count=4, purpose="heldout")
    with pytest.raises(InputError, match="must not be tested on"):
        claw.calibrate(model, blocks, heldout=same)
    claw.calibrate(model, blocks, heldout=claw.blocks(tokenizer, heldout_text, length=32, count=4, purpose="heldout"))
    assert project.cache() == own_cache
