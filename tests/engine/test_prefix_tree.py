"""Prefix trees of requests: every request reads exactly its own tokens, each shared one is there once."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from claw.engine.prefix_tree import PrefixTree, Request, common_prefix

token = st.integers(0, 3)  # few, so that much is shared by accident


@st.composite
def requests(draw) -> list[Request]:
    beginning = draw(st.lists(token, max_size=60))
    drawn = []
    for _ in range(draw(st.integers(1, 30))):
        ids = beginning[: draw(st.integers(0, len(beginning)))] + draw(st.lists(token, min_size=2, max_size=30))
        drawn.append(Request.ending(ids, draw(st.integers(1, len(ids) - 1))))
    return drawn


def read(tree: PrefixTree, step: int) -> dict[int, list[list[int]]]:
    """For each request the ids that each of its scored places can look at, by the masks of the batches."""
    seen = {}

    def walk(stem, above):
        path = [*above, *stem.ids.tolist()]
        if stem.rows:
            batch = tree.batch(stem, stem.rows, step)
            assert sum(group.span.stop - group.span.start for group in batch.groups) == len(batch.tokens)
            contexts = {}
            for group in batch.groups:
                count, length = group.end.shape
                index = (
                    np.arange(group.span.start, group.span.stop).reshape(count, length) if group.index is None else group.index
                )
                places = index.flatten() if group.back is None else index.flatten()[group.back]
                assert places.tolist() == list(range(group.span.start, group.span.stop))  # back undoes index
                for row in range(count):
                    for i in range(length):
                        looked = [j for j in range(length) if j <= i < group.end[row, j]]
                        ids = [int(batch.tokens[index[row, j]]) for j in looked]
                        positions = [int(batch.positions[index[row, j]]) for j in looked]
                        if positions == list(range(len(path), len(path) + len(looked))):  # padding sees itself alone
                            contexts.setdefault(int(index[row, i]), path + ids)
            for number, request in enumerate(batch.requests):
                own = batch.owner == number
                seen[int(request)] = [
                    [*contexts[int(place)], int(target)]
                    for place, target in zip(batch.places[batch.place[own]], batch.target[own], strict=True)
                ]
        for below in stem.stems:
            walk(below, path)

    walk(tree.root, [])
    return seen


@settings(max_examples=60, deadline=None)
@given(asked=requests(), share=st.booleans(), step=st.sampled_from([1, 4]))
def test_each_target_is_predicted_from_all_before_it_and_nothing_else(asked, share, step):
    seen = read(PrefixTree(asked, share=share), step)
    assert sorted(seen) == list(range(len(asked)))
    for number, request in enumerate(asked):
        assert seen[number] == [request.ids[: target + 1].tolist() for target in request.targets]


@settings(max_examples=60, deadline=None)
@given(asked=requests())
def test_sharing_never_computes_more(asked):
    tree = PrefixTree(asked)
    unshared = sum(len(request.ids) - 1 for request in asked)
    assert tree.tokens <= unshared == PrefixTree(asked, share=False).tokens


def test_choices_of_one_question_and_examples_of_a_task_are_computed_once():
    draw = np.random.default_rng(0)
    examples = draw.integers(0, 1000, 400)
    questions = [np.concatenate([examples, draw.integers(0, 1000, 30)]) for _ in range(20)]
    asked = [Request.ending([*question, choice], 1) for question in questions for choice in range(4)]
    tree = PrefixTree(asked)
    assert tree.tokens == 400 + 20 * 30  # one-token choices are read off the same place
    assert [stem.length for stem in tree.root.walk()] == [0, 400]


def test_no_requests_make_an_empty_tree():
    tree = PrefixTree([])
    assert len(tree) == 0 and tree.tokens == 0


@given(a=st.lists(token, max_size=12), b=st.lists(token, max_size=12))
def test_common_prefix(a, b):
    n = common_prefix(np.array(a), np.array(b))
    assert a[:n] == b[:n] and (n in (len(a), len(b)) or a[n] != b[n])
