"""How fast claw writes beside lm-eval's Hugging Face class, which sees the same requests, and how many texts are equal.

    python benchmarks/generation.py --model smollm2-135m --dtype float32 --batches 1 8

Both take turns in one process, `--rounds` times; seconds are the medians. `--beginning 2000` puts the same 2,000 letters before
every prompt, as examples of a task would be. Texts are equal in float32; in half precision near ties fall either way.
"""

import argparse
import copy
import itertools
import statistics
import time

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

import claw
from claw.evaluate.lm_eval_model import ClawLM
from claw.texts import corpora

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--model", default="smollm2-135m")
parser.add_argument("--dtype", default="float32")
parser.add_argument("--text", default="wikipedia-heldout", help="corpus or file: each document's beginning is a prompt")
parser.add_argument("--prompts", type=int, default=16)
parser.add_argument("--tokens", type=int, default=48)
parser.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="of lm-eval's class, whose own default is 1")
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--beginning", type=int, default=0, help="letters that all prompts begin with")
asked = parser.parse_args()

model, tokenizer = claw.load(asked.model, dtype=asked.dtype)
texts = [text[: 120 + 13 * (n % 9)] for n, text in enumerate(itertools.islice(corpora.stream(asked.text), asked.prompts))]
if asked.beginning:
    begin = "\n\n".join(itertools.islice(corpora.stream("wikipedia-train"), 20))[: asked.beginning]
    texts = [f"{begin}\n\n{text}" for text in texts]
settings = {"until": ["\n\n\n"], "max_gen_toks": asked.tokens}


def timed(language_model, count: int) -> tuple[list[str], float]:
    """Texts for the first prompts, and seconds."""
    requests = [
        Instance(request_type="generate_until", doc={}, arguments=(text, settings), idx=0, metadata=("made", n, 1))
        for n, text in enumerate(texts[:count])
    ]
    started = time.perf_counter()
    written = language_model.generate_until(requests, disable_tqdm=True)
    return written, time.perf_counter() - started


ours = ClawLM(model, tokenizer, cache=False)
timed(ours, 1)
for batch in asked.batches:
    theirs = HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=batch)
    timed(theirs, 1)
    turns = [(timed(theirs, len(texts)), timed(ours, len(texts))) for _ in range(asked.rounds)]
    ((other, _), (mine, _)) = turns[0]
    slow, fast = (statistics.median(turn[who][1] for turn in turns) for who in (0, 1))
    ratio = statistics.median(turn[0][1] / turn[1][1] for turn in turns)
    equal = sum(a == b for a, b in zip(mine, other, strict=True))
    print(
        f"{asked.model} {asked.dtype}, {torch.get_num_threads()} threads, {len(texts)} texts of {asked.tokens} tokens: lm-eval "
        f"at batch {batch} {slow:.1f} s, claw {fast:.1f} s, {ratio:.1f} times as fast; {equal} texts equal"
    )
