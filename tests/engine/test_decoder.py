"""The fast forward gives the stock hidden states, keeps prefixes, and steps back from what it does not understand."""

import copy

import pytest
import torch
from conftest import tiny_model

from claw.engine.choice import build_decoder
from claw.engine.decoder import Decoder, Packed
from claw.models.anatomy import anatomy


def stock(model, tokens: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model.model(input_ids=tokens, use_cache=False).last_hidden_state


def everywhere(tokens: torch.Tensor) -> torch.Tensor:
    return torch.arange(tokens.numel())


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(259, (3, 40), generator=torch.Generator().manual_seed(2))


def test_hidden_states_are_the_stock_ones(model, tokens):
    decoder, reason = build_decoder(model)
    assert decoder is not None, reason
    hidden = decoder.hidden(Packed.sequences(tokens), everywhere(tokens))
    torch.testing.assert_close(hidden, stock(model, tokens).flatten(0, 1), atol=1e-4, rtol=1e-4)


def test_only_the_places_asked_for_are_returned(model, tokens):
    places = torch.tensor([0, 41, 119])
    hidden = Decoder(anatomy(model)).hidden(Packed.sequences(tokens), places)
    torch.testing.assert_close(hidden, stock(model, tokens).flatten(0, 1)[places], atol=1e-4, rtol=1e-4)


def test_what_comes_after_a_stem_sees_it(model, tokens):
    """Two stems, one after the other, 25 tokens: more than the sliding windows of Mistral (16) and Gemma3 (8)."""
    decoder = Decoder(anatomy(model))
    shared = tokens[0, :25]
    stem = decoder.stem(shared[10:], decoder.stem(shared[:10]))
    ends = tokens[:, 25:]
    hidden = decoder.hidden(Packed.sequences(ends, start=25), everywhere(ends), stem)
    whole = torch.cat([shared.expand(3, -1), ends], dim=1)
    torch.testing.assert_close(hidden, stock(model, whole)[:, 25:].flatten(0, 1), atol=1e-4, rtol=1e-4)


def test_weights_are_used_as_they_are_now(model, tokens):
    decoder, _ = build_decoder(model)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.mul_(2)
    hidden = decoder.hidden(Packed.sequences(tokens), everywhere(tokens))
    torch.testing.assert_close(hidden, stock(model, tokens).flatten(0, 1), atol=1e-4, rtol=1e-4)


def test_building_changes_nothing_of_the_model(model):
    before = copy.deepcopy(model.state_dict())
    config = model.config.to_dict()
    build_decoder(model)
    assert model.config.to_dict() == config
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_model_whose_rounding_is_coarse_is_understood(family):
    """Compressed models amplify rounding: in bfloat16 two right passes differ by more than a wrong one may."""
    model = tiny_model(family, dtype=torch.bfloat16)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight.mul_(20)
    decoder, reason = build_decoder(model)
    assert decoder is not None, reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "length of the longest")],
)
def test_known_obstacles_are_named(changes, reason):
    decoder, why = build_decoder(tiny_model("llama", **changes))
    assert decoder is None and reason in why


def test_a_padding_token_at_the_end_of_the_vocabulary_is_not_an_obstacle(family):
    model = tiny_model(family, pad_token_id=258)
    decoder, reason = build_decoder(model)
    assert decoder is not None, reason
    assert model.get_input_embeddings().padding_idx == 258


def test_a_nan_model_is_not_an_obstacle(model):
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    assert build_decoder(model)[0] is not None
