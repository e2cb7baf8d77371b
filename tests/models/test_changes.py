"""A model that was changed by hand anywhere is not plain, and the reason says where."""

import types

import torch
from conftest import tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrize

from claw.models.changes import why_not_plain

PARTS = [name for name, _ in tiny_model("gemma3").named_modules()]
HOOKS = ("register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook", "register_full_backward_pre_hook")


def test_a_model_as_it_is_built_is_plain(model):
    assert why_not_plain(model) == ""


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(PARTS), st.sampled_from(HOOKS))
def test_a_hook_of_any_kind_on_any_part(name, hook):
    model = tiny_model("gemma3")
    handle = getattr(model.get_submodule(name), hook)(lambda *_: None)
    assert "hooks" in why_not_plain(model) and name in why_not_plain(model)
    handle.remove()
    assert why_not_plain(model) == ""


@settings(deadline=None, max_examples=20)
@given(st.sampled_from(PARTS))
def test_a_forward_replaced_on_any_part(name):
    model = tiny_model("gemma3")
    part = model.get_submodule(name)
    part.forward = types.MethodType(lambda self, *args, **kwargs: type(self).forward(self, *args, **kwargs), part)
    assert "replaced" in why_not_plain(model)


def test_a_forward_replaced_on_a_class(monkeypatch):
    model = tiny_model("llama")
    monkeypatch.setattr(type(model.model.layers[0].mlp), "forward", lambda self, x: x)
    assert "LlamaMLP" in why_not_plain(model)


def test_hooks_on_all_modules():
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert "every module" in why_not_plain(tiny_model("llama"))
    finally:
        handle.remove()


def test_parametrised_weights():
    class Twice(nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return 2 * weight

    model = tiny_model("llama")
    parametrize.register_parametrization(model.model.layers[1].mlp.up_proj, "weight", Twice())
    assert "parametrised" in why_not_plain(model)


def test_training_mode_of_the_model_and_of_a_part():
    model = tiny_model("llama")
    assert "training mode" in why_not_plain(model.train())
    assert why_not_plain(model, training=False) == ""
    model.eval().model.layers[2].train()
    assert "layers.2 is in training mode" in why_not_plain(model)
