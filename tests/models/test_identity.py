"""A model's results are kept under a name that changes with whatever computes, or not at all."""

import copy
import functools
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import FAMILIES, tiny_config, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrize
from transformers import AttentionInterface, AutoModelForCausalLM
from transformers.models.llama import modeling_llama

from claw.models.identity import LABELS, architecture, identify

COMPUTING = {
    "rope_parameters": {"rope_type": "default", "rope_theta": 50.0}, "rms_norm_eps": 1.0, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "hidden_act": "gelu", "attention_bias": True, "mlp_bias": True,
    "max_position_embeddings": 8, "vocab_size": 7, "sliding_window": 4, "layer_types": ["sliding_attention"] * 3,
    "tie_word_embeddings": False, "attn_implementation": "eager", "final_logit_softcapping": 3.0, "some_field_of_tomorrow": 5,
}  # fmt: skip


@pytest.fixture(autouse=True)
def unpatched(monkeypatch):
    """Classes and tables of transformers are as before after each test."""
    yield monkeypatch


def name_of(model) -> str:
    identity = identify(model)
    assert identity.obstacle == ""
    return identity.name


def test_equal_models_have_equal_names(family):
    assert name_of(tiny_model(family)) == name_of(tiny_model(family)) == name_of(copy.deepcopy(tiny_model(family)))


def test_a_saved_model_keeps_its_name(family, tmp_path):
    model = tiny_model(family)
    model.save_pretrained(tmp_path)
    assert name_of(AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="sdpa").eval()) == name_of(model)


def test_using_a_model_keeps_its_name(family):
    model = tiny_model(family)
    before = name_of(model)
    ids = torch.tensor([[1, 5, 9, 4]])
    model(ids, output_hidden_states=True, output_attentions=False)
    model.generate(ids, max_new_tokens=3, do_sample=False)
    model.train().eval().requires_grad_(False)
    assert name_of(model) == before


def test_the_name_is_the_same_in_every_process():
    code = "import conftest; from claw.models.identity import identify; print(identify(conftest.tiny_model('gemma3')).name)"
    path = [*sys.path, str(Path(__file__).parents[1])]
    command = [sys.executable, "-c", f"import sys; sys.path = {path}; {code}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "5"})
    assert done.stdout.strip() == name_of(tiny_model("gemma3"))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(FAMILIES), st.data())
def test_any_single_weight_or_table_changes_the_name(family, data):
    model = tiny_model(family)
    before = name_of(model)
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    tensor = tensors[data.draw(st.sampled_from(sorted(tensors)))].data.view(-1)
    place = data.draw(st.integers(0, tensor.numel() - 1))
    was = tensor[place].clone()
    tensor[place] = data.draw(st.sampled_from([float(was) + 1, -float(was) - 1, torch.nan]))  # past version counters
    assert name_of(model) != before
    tensor[place] = was
    assert name_of(model) == before


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(FAMILIES), st.sampled_from(sorted(COMPUTING)))
def test_any_computing_field_changes_the_name(family, field):
    model = tiny_model(family)
    before = name_of(model)
    name = "_attn_implementation" if field == "attn_implementation" else field
    if getattr(model.config, name, None) == COMPUTING[field]:
        return
    setattr(model.config, name, COMPUTING[field])
    assert name_of(model) != before


@pytest.mark.parametrize("field", sorted(LABELS - {"dtype", "torch_dtype", "transformers_version", "id2label", "label2id"}))
def test_labels_do_not(family, field):
    model = tiny_model(family)
    before = name_of(model)
    vars(model.config)[field] = "another"
    assert name_of(model) == before


@pytest.mark.parametrize("change", [dict(rope_parameters=COMPUTING["rope_parameters"]), dict(rms_norm_eps=1.0)])
def test_the_same_weights_under_another_configuration(change):
    model, other = tiny_model("llama"), AutoModelForCausalLM.from_config(tiny_config("llama", **change)).eval()
    other.load_state_dict(model.state_dict())
    assert name_of(other) != name_of(model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_number_type_changes_the_name(dtype):
    assert name_of(tiny_model("qwen3", dtype=dtype)) != name_of(tiny_model("qwen3"))


ATTRIBUTES = {
    "variance_epsilon": "model.layers.1.input_layernorm", "scaling": "model.layers.2.self_attn",
    "attention_scaling": "model.rotary_emb", "head_dim": "model.layers.0.self_attn", "is_causal": "model.layers.0.self_attn",
}  # fmt: skip


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_an_attribute_of_a_module_changes_the_name(name):
    model = tiny_model("llama")
    before = name_of(model)
    setattr(model.get_submodule(ATTRIBUTES[name]), name, 7)
    assert name_of(model) != before


class Doubled(modeling_llama.LlamaMLP):
    """An MLP of one's own."""

    def forward(self, x):
        return 2 * super().forward(x)


class Scaled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def mlp(model, layer: int = 1):
    return model.model.layers[layer].mlp


def own_attention(model, patch):
    AttentionInterface.register("mine", lambda *args, **kwargs: modeling_llama.eager_attention_forward(*args, **kwargs))
    model.config._attn_implementation = "mine"


def wrapped(function):
    return functools.wraps(function)(lambda *args, **kwargs: function(*args, **kwargs))


def patched_class(model, patch):
    patch.setattr(modeling_llama.LlamaMLP, "forward", wrapped(modeling_llama.LlamaMLP.forward))


def parametrised(model, patch):
    parametrize.register_parametrization(mlp(model).up_proj, "weight", Scaled())


def patched_function(model, patch):
    patch.setattr(modeling_llama, "apply_rotary_pos_emb", lambda q, k, *rest, **options: (q, k))


def own_class(model, patch):
    mlp(model).__class__ = Doubled


def from_a_string(model, patch):
    made: dict = {}
    exec("def forward(self, x):\n    return x", made)
    patch.setattr(modeling_llama.LlamaMLP, "forward", made["forward"])


def global_hook(model, patch):
    patch.setattr(nn.modules.module, "_global_forward_hooks", {1: print})


def in_training(model, patch):
    model.config.attention_dropout = model.model.layers[2].self_attn.attention_dropout = 0.1
    model.train()


def own_dropout(model, patch):
    mlp(model).down_proj = nn.Sequential(mlp(model).down_proj, nn.Dropout(0.5)).train()


OBSTACLES = {
    "forward hook": lambda model, patch: mlp(model).register_forward_hook(lambda module, args, out: out * 0),
    "forward pre-hook": lambda model, patch: model.model.register_forward_pre_hook(lambda module, args: None),
    "hook with keywords": lambda model, patch: mlp(model).register_forward_hook(lambda *_, **__: None, with_kwargs=True),
    "hook on the head": lambda model, patch: model.lm_head.register_forward_hook(lambda module, args, out: out),
    "hook on all modules": global_hook,
    "forward of a part": lambda model, patch: patch.setattr(mlp(model), "forward", lambda x: x),
    "forward of the model": lambda model, patch: patch.setattr(model, "forward", wrapped(model.forward)),
    "method of a part": lambda model, patch: setattr(model.model.norm, "extra_repr", lambda: "x"),
    "private method of the model": lambda model, patch: setattr(model.model, "_prepare", lambda: "x"),
    "another object": lambda model, patch: setattr(mlp(model), "adapter", object()),
    "class of one's own": own_class,
    "patched class": patched_class,
    "class patched with code that has no file": from_a_string,
    "patched function": patched_function,
    "parametrisation of one's own": parametrised,
    "parametrisation of torch": lambda model, patch: nn.utils.parametrizations.weight_norm(mlp(model).up_proj),
    "attention of one's own": own_attention,
    "dropout in training": in_training,
    "dropout put in": own_dropout,
    "weights elsewhere": lambda model, patch: mlp(model).to("meta"),
}  # fmt: skip


@pytest.mark.parametrize("kind", OBSTACLES)
def test_what_no_name_can_hold_is_said(kind, unpatched):
    model = tiny_model("llama")
    before = identify(model)
    OBSTACLES[kind](model, unpatched)
    now = identify(model)
    assert before.obstacle == "" != now.obstacle and now.name != before.name
    assert architecture(model).obstacle == now.obstacle


def test_training_without_dropout_computes_the_same():
    model = tiny_model("llama")
    assert name_of(model.train()) == name_of(model.eval())


def test_weights_that_accelerate_moves_have_a_name():
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    model = tiny_model("llama")
    before = name_of(model)
    add_hook_to_module(mlp(model), AlignDevicesHook(io_same_device=True))
    assert name_of(model) == before


def test_rotary_tables_that_follow_the_text_are_no_part_of_an_identity():
    rope = {"rope_type": "longrope", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 16}
    model = tiny_model("llama", rope_parameters=rope | {"short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 3.0, 4.0]})
    before = identify(model).name
    model(input_ids=torch.arange(3, 40)[None])
    assert identify(model).name == before
