"""The engine's numbers against the model's own forward, for every way of cutting requests into rows and stems."""

import numpy as np
import pytest
import torch
from conftest import FAMILIES, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from claw.engine import prefix_tree, score
from claw.engine.prefix_tree import Request
from claw.engine.score import Scorer
from claw.errors import InputError

SIZES = {  # ROW_TOKENS, STEM_TOKENS, STEM_SAVING: as shipped, and so small that tiny requests make stems and many rows
    "shipped": (256, 16, 256),
    "small": (24, 4, 8),
    "smallest": (8, 2, 2),
}


def stock(model, request: Request) -> tuple[float, bool]:
    """Log-likelihood and greedy flag by one forward over the request alone."""
    with torch.inference_mode():
        logits = model(torch.from_numpy(request.ids[None, :-1]).long()).logits[0].float()
    logprobs = torch.log_softmax(logits, dim=1)[torch.from_numpy(request.targets - 1)]
    wanted = torch.from_numpy(request.ids[request.targets]).long()
    return float(logprobs.gather(1, wanted[:, None]).double().sum()), bool((logprobs.argmax(1) == wanted).all())


def scores(scorer: Scorer, requests: list[Request], *, greedy: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """All results in the order of the requests; fails if one comes twice or not at all."""
    sums, flags = np.full(len(requests), np.nan), np.zeros(len(requests), dtype=bool)
    for numbers, loglikelihoods, hits in scorer.score(scorer.prefix_tree(requests), greedy=greedy):
        assert np.isnan(sums[numbers]).all()
        sums[numbers], flags[numbers] = loglikelihoods, hits
    assert not np.isnan(sums).any()
    return sums, flags


@st.composite
def families_of_requests(draw) -> list[Request]:
    """Questions with unequal numbers of choices, some of which share a beginning of some length."""
    token = st.integers(0, 258)
    shared = draw(st.lists(token, min_size=40, max_size=40))
    requests = []
    for _ in range(draw(st.integers(1, 8))):
        context = shared[: draw(st.sampled_from([0, 5, 30, 40]))] + draw(st.lists(token, min_size=1, max_size=20))
        for _ in range(draw(st.integers(1, 5))):
            continuation = draw(st.lists(token, min_size=1, max_size=6))
            requests.append(Request.ending(context + continuation, len(continuation)))
    return requests


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("family", FAMILIES)
def test_equal_to_the_stock_forward(family, sizes):
    model = tiny_model(family)

    @settings(max_examples=8, deadline=None)
    @given(requests=families_of_requests(), batch_tokens=st.sampled_from([1, 60, 4096]))
    def check(requests, batch_tokens):
        with pytest.MonkeyPatch.context() as patch:
            for name, value in zip(("ROW_TOKENS", "STEM_TOKENS", "STEM_SAVING"), SIZES[sizes], strict=True):
                patch.setattr(prefix_tree, name, value)
            patch.setattr(prefix_tree, "LONG_ROW_TOKENS", 4 * SIZES[sizes][0])
            scorer = Scorer(model, batch_tokens=batch_tokens)
            assert scorer.decoder is not None, scorer.reason
            sums, flags = scores(scorer, requests)
        wanted = [stock(model, request) for request in requests]
        np.testing.assert_allclose(sums, [w[0] for w in wanted], atol=1e-4, rtol=0)
        assert flags.tolist() == [w[1] for w in wanted]

    check()


@pytest.fixture
def requests() -> list[Request]:
    draw = np.random.default_rng(5)
    contexts = [draw.integers(0, 259, size=draw.integers(1, 60)) for _ in range(12)]
    ends = [draw.integers(0, 259, size=draw.integers(1, 4)) for _ in range(36)]
    return [Request.ending([*contexts[i // 3], *end], len(end)) for i, end in enumerate(ends)]


def test_tiles_of_the_vocabulary_give_the_same_sum_and_the_same_greedy_token(requests, monkeypatch):
    model = tiny_model("qwen2", dtype=torch.bfloat16, vocab_size=2000)
    monkeypatch.setattr(score, "TILE_BYTES", {"cpu": 1})  # tiles of 512 ids: the last one is not full
    wide, flags = scores(Scorer(model), requests)
    monkeypatch.setattr(score, "TILE_BYTES", {"cpu": 1 << 30})
    whole, same = scores(Scorer(model), requests)
    np.testing.assert_allclose(wide, whole, atol=1e-4, rtol=0)
    assert (flags == same).all()


def test_half_precision_is_near_single_precision(family, requests):
    exact, _ = scores(Scorer(tiny_model(family)), requests)
    half, _ = scores(Scorer(tiny_model(family, dtype=torch.bfloat16)), requests)
    assert np.abs(half - exact).max() < 1.5


def test_a_batch_that_does_not_fit_is_halved_and_nothing_is_lost(family, requests, monkeypatch):
    model = tiny_model(family)
    expected, _ = scores(Scorer(model), requests)
    scorer = Scorer(model, batch_tokens=4096)
    hidden, sizes = scorer.decoder.hidden, []

    def limited(trees, *rest):
        sizes.append(len(trees.tokens))
        if len(trees.tokens) > 100:
            raise torch.OutOfMemoryError("no more")
        return hidden(trees, *rest)

    monkeypatch.setattr(scorer.decoder, "hidden", limited)
    sums, _ = scores(scorer, requests)
    np.testing.assert_allclose(sums, expected, atol=1e-4, rtol=0)
    assert sizes[0] > 100 and scorer.batch_tokens <= 100


def test_one_sequence_that_does_not_fit_is_an_error_that_says_so(requests, monkeypatch):
    scorer = Scorer(tiny_model("llama"))

    def never(*_):
        raise torch.OutOfMemoryError("no more")

    monkeypatch.setattr(scorer.decoder, "hidden", never)
    with pytest.raises(InputError, match="single sequence"):
        scores(scorer, requests)


def test_other_errors_are_not_taken_for_lack_of_memory(requests, monkeypatch):
    scorer = Scorer(tiny_model("llama"))

    def broken(*_):
        raise RuntimeError("a mistake")

    monkeypatch.setattr(scorer.decoder, "hidden", broken)
    with pytest.raises(RuntimeError, match="a mistake"):
        scores(scorer, requests)


def test_the_stock_forward_serves_a_model_that_is_not_understood(requests):
    import transformers as tf

    torch.manual_seed(0)
    model = tf.AutoModelForCausalLM.from_config(
        tf.GPTJConfig(vocab_size=259, n_embd=32, n_layer=2, n_head=4, n_positions=128, rotary_dim=4)
    )
    model = model.eval()
    scorer = Scorer(model)
    assert scorer.decoder is None and scorer.reason
    sums, flags = scores(scorer, requests)
    wanted = [stock(model, request) for request in requests]
    np.testing.assert_allclose(sums, [w[0] for w in wanted], atol=1e-4, rtol=0)
    assert flags.tolist() == [w[1] for w in wanted]


def test_without_greedy_the_sums_are_the_same(requests):
    scorer = Scorer(tiny_model("gemma3"))
    np.testing.assert_allclose(scores(scorer, requests, greedy=False)[0], scores(scorer, requests)[0], atol=1e-4, rtol=0)
