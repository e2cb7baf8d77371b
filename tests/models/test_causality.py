"""Kernels of attention that let tokens see those that follow: found in the model's own number type, turned off, or refused."""

import warnings

import pytest
import torch
from conftest import tiny_model
from torch.backends import cuda
from torch.nn import functional as F

import claw
from claw.engine.score import Scorer
from claw.engine.training import Forward
from claw.errors import InputError
from claw.models import causality
from claw.texts.token_blocks import Blocks

SWITCHES = [
    (cuda.cudnn_sdp_enabled, cuda.enable_cudnn_sdp),
    (cuda.flash_sdp_enabled, cuda.enable_flash_sdp),
    (cuda.mem_efficient_sdp_enabled, cuda.enable_mem_efficient_sdp),
]


@pytest.fixture(autouse=True)
def no_device_is_trusted(monkeypatch):
    """All devices are asked, as a GPU is; what may be used is as before afterwards."""
    before = [is_on() for is_on, _ in SWITCHES]
    for _, turn in SWITCHES:
        turn(True)
    monkeypatch.setattr(causality, "TRUSTED", ())
    yield
    for (_, turn), on in zip(SWITCHES, before, strict=True):
        turn(on)


def leak_while(monkeypatch, is_on):
    """Attention forgets that it is causal while `is_on()`, for the lengths and number type that a fused kernel would take."""
    right = F.scaled_dot_product_attention

    def wrong(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, **kwargs):
        if q.dtype == torch.bfloat16 and q.shape[2] > 64 and is_on():
            attn_mask, is_causal = None, False
        return right(q, k, v, attn_mask, dropout_p, is_causal, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", wrong)


def logits(model, ids):
    return model(input_ids=ids, use_cache=False).logits


@pytest.mark.parametrize("kind", ["llama", "gemma3", "qwen2"])
@pytest.mark.parametrize("number", range(3))
def test_the_kernel_that_leaks_is_turned_off_and_named(kind, number, monkeypatch):
    model = tiny_model(kind).to(torch.bfloat16)
    leak_while(monkeypatch, SWITCHES[number][0])
    with pytest.warns(UserWarning, match="see those that follow"):
        causality.keep_order(model)
    assert [is_on() for is_on, _ in SWITCHES] == [i > number for i in range(3)]
    ids = torch.arange(200)[None] % 50
    torch.testing.assert_close(logits(model, ids)[:, :100], logits(model, torch.cat([ids[:, :100], ids[:, :100]], 1))[:, :100])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        causality.keep_order(model)


def test_nothing_is_said_of_attention_that_is_right():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for dtype in (torch.float32, torch.bfloat16):
            causality.keep_order(tiny_model("llama").to(dtype))
    assert all(is_on() for is_on, _ in SWITCHES)


def test_where_no_kernel_is_right_the_model_is_refused_and_all_is_as_before(monkeypatch):
    model = tiny_model("llama").to(torch.bfloat16)
    leak_while(monkeypatch, lambda: True)
    with pytest.raises(InputError, match="depends on the tokens that follow"):
        causality.keep_order(model)
    assert all(is_on() for is_on, _ in SWITCHES)


def test_measuring_training_and_calibrating_ask_first(monkeypatch):
    ids = torch.arange(128).view(2, 64) % 50
    blocks = Blocks(
        ids=ids, scored=torch.ones_like(ids, dtype=torch.bool), words=1.0, bytes=1, corpus="x", purpose="calibration"
    )
    model = tiny_model("llama").to(torch.bfloat16)
    leak_while(monkeypatch, lambda: True)
    for use in (Scorer, Forward, lambda model: claw.calibrate(model, blocks)):
        with pytest.raises(InputError, match="depends on the tokens that follow"):
            use(model)


def test_the_pass_of_the_engine_is_asked_too(monkeypatch):
    model = tiny_model("llama").to(torch.bfloat16)
    causality.keep_order(model)  # the stock pass is right, and that is remembered
    leak_while(monkeypatch, lambda: True)
    with pytest.raises(InputError, match="depends on the tokens that follow"):
        Scorer(model)


def test_loading_asks(folder_model, monkeypatch):
    leak_while(monkeypatch, lambda: True)
    with pytest.raises(InputError, match="depends on the tokens that follow"):
        claw.load(folder_model, dtype="bfloat16", device="cpu")
