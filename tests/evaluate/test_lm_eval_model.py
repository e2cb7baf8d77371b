"""claw's lm-eval class against lm-eval's own Hugging Face class, in float32, request by request."""

import copy
import math

import numpy as np
import pytest
import torch
from conftest import FAMILIES, WORDS, byte_tokenizer, sentences, tiny_model
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.models.huggingface import HFLM

from claw.errors import InputError
from claw.evaluate import generating, lm_eval_model
from claw.evaluate.lm_eval_model import ClawLM

TOLERANCE = 1e-4
VOCABULARY = 400


@pytest.fixture(scope="module")
def merging():
    """A byte-level tokenizer with merges across spaces' edges, so that context and continuation encode differently together."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special, alphabet = ["<pad>", "<s>", "</s>"], pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False, initial_alphabet=alphabet)
    tokenizer.train_from_iterator([sentences(3, 200)], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def requests_of(pairs: list[tuple]) -> list[Instance]:
    kind = "loglikelihood" if len(pairs[0]) == 2 else "loglikelihood_rolling"
    return [Instance(request_type=kind, doc={}, arguments=pair, idx=0, metadata=("made", i, 1)) for i, pair in enumerate(pairs)]


def answers(language_model, pairs: list[tuple[str, str]]) -> tuple[np.ndarray, list[bool]]:
    results = language_model.loglikelihood(requests_of(pairs), disable_tqdm=True)
    return np.array([a[0] for a in results]), [bool(a[1]) for a in results]


def assert_equal(ours: ClawLM, theirs: HFLM, pairs: list[tuple[str, str]]) -> None:
    mine, my_flags = answers(ours, pairs)
    other, other_flags = answers(theirs, pairs)
    np.testing.assert_allclose(mine, other, atol=TOLERANCE, rtol=0)
    assert my_flags == other_flags


def both(model, tokenizer, **options) -> tuple[ClawLM, HFLM]:
    return (
        ClawLM(model, tokenizer, cache=False, **options),
        HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=4, **options),
    )


words = st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join)
context = st.one_of(
    st.just(""), words, words.map(lambda text: text + " "), words.map(lambda text: text + "\n"), st.just("é\u0301 ω")
)
ending = st.one_of(words.map(lambda text: " " + text), words, st.sampled_from(["s", "ed", " A", "é", ".", "\n\n"]))


@st.composite
def questions(draw) -> list[tuple[str, str]]:
    """Pairs of context and continuation, of which some share their context, with unequal numbers of choices."""
    pairs = []
    for _ in range(draw(st.integers(1, 5))):
        question = draw(context)
        pairs += [(question, choice) for choice in draw(st.lists(ending, min_size=1, max_size=4))]
    return pairs


@pytest.mark.parametrize("max_length", [None, 16])
@pytest.mark.parametrize("family", FAMILIES)
def test_equal_to_lm_eval(family, max_length, merging):
    """With a window of 16 tokens most contexts are cut from the left."""
    ours, theirs = both(tiny_model(family, vocab_size=VOCABULARY), merging, max_length=max_length)

    @settings(max_examples=25, deadline=None)
    @given(pairs=questions())
    def check(pairs):
        try:
            encoded = ours.encoding.pairs(pairs)
        except InputError:  # nothing is left of a continuation, or it is longer than the window: lm-eval stops too
            assume(False)
        assert all(len(request.ids) <= ours.max_length + 1 for request in encoded)
        assert_equal(ours, theirs, pairs)

    check()


def test_a_merge_across_the_border_is_scored_as_lm_eval_scores_it(merging):
    whole = merging("the")["input_ids"]
    assert len(whole) < len(merging("th")["input_ids"]) + len(merging("e")["input_ids"])
    ours, theirs = both(tiny_model("llama", vocab_size=VOCABULARY), merging)
    assert_equal(ours, theirs, [("of th", "e and"), ("of the an", "d the"), ("and ", "the"), ("and", " the")])


@pytest.mark.parametrize("family", FAMILIES)
def test_rolling_equals_lm_eval(family, merging):
    ours, theirs = both(tiny_model(family, vocab_size=VOCABULARY), merging, max_length=20)
    texts = [(sentences(seed, 1 + 3 * seed),) for seed in range(4)]
    mine = ours.loglikelihood_rolling(requests_of(texts), disable_tqdm=True)
    other = theirs.loglikelihood_rolling(requests_of(texts), disable_tqdm=True)
    np.testing.assert_allclose(mine, other, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("add_bos_token", [True, False])
def test_equal_with_and_without_a_beginning_token(add_bos_token, merging):
    ours, theirs = both(tiny_model("gemma3", vocab_size=VOCABULARY), merging, add_bos_token=add_bos_token)
    assert_equal(ours, theirs, [("the of", " and"), ("", "the"), ("<s>the of", " and"), ("the of", " to")])


@pytest.mark.parametrize("missing", ["pad_token", "bos_token"])
def test_a_tokenizer_without_a_token_works(missing):
    tokenizer = byte_tokenizer()
    setattr(tokenizer, missing, None)
    ours, theirs = both(tiny_model("llama"), tokenizer)
    mine, _ = answers(ours, [("the", " of"), ("", "and"), ("the", " a")])
    assert getattr(tokenizer, missing) is None  # lm-eval's class adds one of its own, ours needs none
    np.testing.assert_allclose(mine, answers(theirs, [("the", " of"), ("", "and"), ("the", " a")])[0], atol=TOLERANCE, rtol=0)


def test_no_token_to_stand_before_a_text_is_refused_when_it_is_needed():
    tokenizer = byte_tokenizer()
    tokenizer.bos_token = tokenizer.eos_token = None
    ours = ClawLM(tiny_model("llama"), tokenizer, cache=False)
    assert len(answers(ours, [("the", " of")])[0]) == 1
    with pytest.raises(InputError, match="prefix_token_id"):
        answers(ours, [("", "of")])


def test_ids_beyond_the_embedding_are_refused_where_they_occur(tokenizer):
    with pytest.warns(UserWarning, match="59 ids beyond the 200 rows"):
        model = ClawLM(tiny_model("llama", vocab_size=200), tokenizer, cache=False)
    assert len(answers(model, [("the", "of")])[0]) == 1
    with pytest.raises(InputError, match="id 223, but the model embeds only 200 ids"):
        answers(model, [("the", "of"), ("the", " of")])  # the space


@pytest.mark.parametrize("pair", [("the", ""), ("   ", "of"), ("the", "of " * 200)])
def test_what_lm_eval_cannot_score_is_refused(pair, tokenizer):
    with pytest.raises(InputError, match="tokens after encoding"):
        answers(ClawLM(tiny_model("llama"), tokenizer, cache=False), [pair])


def generated(language_model, arguments):
    asked = [
        Instance(request_type="generate_until", doc={}, arguments=pair, idx=0, metadata=("made", number, 1))
        for number, pair in enumerate(arguments)
    ]
    return language_model.generate_until(asked, disable_tqdm=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_is_that_of_lm_eval(family, merging, monkeypatch):
    """Prompts of all lengths, stop sequences that occur, beyond windows, until the end token, and with padding."""
    ours, theirs = both(tiny_model(family, vocab_size=VOCABULARY, seed=3), merging)
    texts = [sentences(seed, 1 + seed % 3)[: 1 + 17 * seed] for seed in range(8)]
    settings = [{"until": ["\n", " a"], "max_gen_toks": 30}, {"until": [], "max_gen_toks": 12, "do_sample": False}]
    free = theirs.tokenizer.decode(theirs.tokenizer.encode(generated(theirs, [(texts[5], settings[1])])[0])[3:5])
    settings += [{"until": [free or "x"], "max_gen_toks": 20, "temperature": 0.0}, {"max_gen_toks": 70}]
    arguments = [(text, each) for text in texts for each in settings]
    expected = generated(theirs, arguments)
    monkeypatch.setattr(ClawLM, "_stock", None)  # the engine alone
    assert generated(ours, arguments) == expected
    assert len(set(map(len, expected))) > 3


def test_what_is_not_greedy_is_left_to_lm_eval(tokenizer):
    model = tiny_model("llama")
    ours, _ = both(model, tokenizer)
    sampled = {"until": ["\n"], "max_gen_toks": 3, "do_sample": True, "temperature": 0.5}
    assert generating.why_not_greedy(model, [{"until": ["x"], "max_gen_toks": 3}]) == ""
    assert "sampling" in generating.why_not_greedy(model, [sampled])
    assert len(generated(ours, [("the of", sampled)])) == 1
    model.generation_config.repetition_penalty = 1.3
    assert "repetition_penalty" in generating.why_not_greedy(model, [])


@pytest.mark.parametrize("rows", [1, 3, 32])
def test_batches_of_any_size_write_the_same(rows, monkeypatch):
    from claw.engine import greedy

    monkeypatch.setattr(greedy, "ROWS", {"cpu": rows})
    model = tiny_model("gemma3")
    prompts = [list(range(3, 4 + n)) for n in (1, 9, 4, 30, 2, 17, 8)]
    generator = greedy.GreedyGenerator(model)
    alone = [generator.write([prompt], 20, [], lambda number, ids: False)[0] for prompt in prompts]
    lengths = [3, 20, 1, 7, 12, 2, 5]
    written = generator.write(prompts, 20, [], lambda number, ids: len(ids) >= lengths[number])
    assert written == [ids[:length] for ids, length in zip(alone, lengths, strict=True)]
    stock = model.generate(torch.tensor([prompts[1]]), max_new_tokens=20, do_sample=False, eos_token_id=None)
    assert stock[0, len(prompts[1]) :].tolist() == alone[1]


def test_lm_eval_knows_it_by_name(folder_model):
    model = get_model("claw").create_from_arg_string(f"pretrained={folder_model},dtype=float32,cache=False", {"device": "cpu"})
    assert isinstance(model, ClawLM)
    assert math.isfinite(answers(model, [("the", " of")])[0][0])


def test_requests_are_encoded_and_planned_once_for_models_with_equal_tokenizers():
    pairs = [("the of", " and"), ("the of", " to")]
    lm_eval_model._encode_pairs.cache_clear()
    lm_eval_model._prefix_tree.cache_clear()
    for seed in range(2):
        answers(ClawLM(tiny_model("llama", seed=seed), byte_tokenizer(), cache=False), pairs)
    assert (lm_eval_model._encode_pairs.cache_info().misses, lm_eval_model._prefix_tree.cache_info().misses) == (1, 1)


def test_what_is_known_is_not_computed_again_and_an_interrupted_run_continues(own_cache, tokenizer, monkeypatch):
    model = tiny_model("qwen3")
    pairs = [(f"the {word}", f" {other}") for word in WORDS for other in WORDS[:4]]
    expected, flags = answers(ClawLM(model, tokenizer, cache=False), pairs)
    first = ClawLM(model, tokenizer)
    first.scorer.batch_tokens = 64
    score, done = first.scorer.score, []

    def interrupted(tree, **options):
        for result in score(tree, **options):
            yield result
            done.extend(result[0].tolist())
            if len(done) > 20:
                raise KeyboardInterrupt

    monkeypatch.setattr(first.scorer, "score", interrupted)
    with pytest.raises(KeyboardInterrupt):
        answers(first, pairs)
    second = ClawLM(model, tokenizer)
    prefix_tree, left = second.scorer.prefix_tree, []
    monkeypatch.setattr(second.scorer, "prefix_tree", lambda missing: left.append(len(missing)) or prefix_tree(missing))
    sums, same = answers(second, pairs)
    np.testing.assert_allclose(sums, expected, atol=TOLERANCE, rtol=0)
    assert same == flags
    assert left == [len(pairs) - len(done)]


def test_other_weights_are_another_cache_entry(own_cache, tokenizer):
    model = tiny_model("llama")
    before, _ = answers(ClawLM(model, tokenizer), [("the", " of")])
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(1.5)
    after, _ = answers(ClawLM(model, tokenizer), [("the", " of")])
    assert abs(after[0] - before[0]) > TOLERANCE


def test_a_model_that_is_not_understood_is_scored_by_its_own_forward_with_a_warning(tokenizer):
    import transformers as tf

    torch.manual_seed(0)
    config = tf.GPTJConfig(vocab_size=259, n_embd=32, n_layer=2, n_head=4, n_positions=64, rotary_dim=4)
    ours, theirs = both(tf.AutoModelForCausalLM.from_config(config).eval(), tokenizer)
    pairs = [("the of", " and"), ("the of", " to it"), ("", "a"), ("to be " * 20, "or not")]
    with pytest.warns(UserWarning, match="stock forward, because"):
        assert_equal(ours, theirs, pairs)
