"""`claw compress`, `claw compare` and `claw say`: their arguments, and what they print."""

import argparse
import sys
from collections.abc import Callable
from typing import Any

from claw.errors import InputError

Command = Callable[[Callable[[argparse.Namespace], int | None], str], argparse.ArgumentParser]
BOTH = ("heldout", "heldout_tokens", "length", "tasks", "limit", "prompt", "words", "device", "dtype")
OWN = (
    "remove",
    "target",
    "until",
    "method",
    "out",
    "push",
    "gguf",
    "recover",
    "calibrate",
    "calibration_tokens",
    "context",
    "batch",
)


def add_commands(command: Command) -> None:
    """Add the three commands to a parser."""
    compress = command(_compress, "make one model smaller, save it, and show it beside the original")
    compress.add_argument("model", help="known name (claw models), hub id, checkpoint folder or .gguf file")
    how = compress.add_argument_group("how small (one of these)")
    how.add_argument("--remove", metavar="30%", help="share of all parameters that goes")
    how.add_argument(
        "--target", metavar="memory=1.2GB", help="the most it may need: memory, milliseconds (per token) or params"
    )
    how.add_argument("--until", metavar='"loss +10%%"', help="as far as the loss (or perplexity) allows, by measured points")
    compress.add_argument(
        "--method", help="claw unless named, flap+ridge where that takes long (large models, --until) or cannot be"
    )
    compress.add_argument("--out", metavar="DIR", help="new folder for the checkpoint; else below runs/one-model")
    compress.add_argument("--gguf", metavar="TYPE", help="write a GGUF file too: bf16, f16 or q8_0")
    compress.add_argument("--push", metavar="OWNER/NAME", help="send the checkpoint to a private repository of the hub")
    compress.add_argument("--recover", metavar="200k", help="train on so many tokens afterwards")
    compress.add_argument(
        "--calibrate",
        metavar="TEXT",
        help="corpus or file (my.jsonl) that shows what the model is for; a mix is '0.7 my.jsonl + 0.3 wikipedia-train'",
    )
    compress.add_argument("--calibration-tokens", metavar="N", help="tokens of it, 8192 unless named")
    compress.add_argument("--context", type=int, metavar="N", help="with --target memory: count keys and values of N tokens")
    compress.add_argument("--batch", type=int, metavar="N", help="with --context: of N texts at a time")
    compress.add_argument("--seed", type=int)
    compare = command(_compare, "two models side by side: size, loss, tasks, speed, text")
    compare.add_argument("before")
    compare.add_argument("after")
    for parser in (compress, compare):
        parser.add_argument("--tasks", metavar="A,B", help="tasks to score, such as arc_easy,piqa")
        parser.add_argument("--limit", type=int, metavar="N", help="documents of each task, 100 unless named")
        parser.add_argument("--heldout", metavar="TEXT", help="text that the loss is measured on")
        parser.add_argument("--heldout-tokens", metavar="N", help="tokens of it, 8192 unless named")
        parser.add_argument("--length", type=int, metavar="N", help="tokens of a block of text, 512 unless named")
        parser.add_argument("--prompt", help="what both models continue")
        parser.add_argument("--words", type=int, metavar="N", help="tokens that they write")
    say = command(_say, "what a model writes after a prompt")
    say.add_argument("model")
    say.add_argument("prompt")
    say.add_argument("--words", type=int, default=100, metavar="N", help="tokens to write at most, 100 unless named")
    say.add_argument("--chat", action="store_true", help="put the prompt as a question to an instruction-tuned model")
    for parser in (compress, compare, say):
        parser.add_argument("--device", help="auto, cpu, cuda, cuda:1, mps")
        parser.add_argument("--dtype", help="auto, float32, bfloat16, float16")


def _given(parsed: argparse.Namespace, names: tuple[str, ...]) -> dict[str, Any]:
    """What was named on the command line; the specification has the defaults."""
    given = {name: getattr(parsed, name) for name in names if getattr(parsed, name, None) is not None}
    if "tasks" in given:
        given["tasks"] = [name.strip() for name in given["tasks"].split(",") if name.strip()]
    return given


def _tell(doing: str) -> None:
    print(f"claw: {doing}", file=sys.stderr)


def _compress(parsed: argparse.Namespace) -> None:
    from claw.one_model import shrink

    print(shrink.shrink(parsed.model, tell=_tell, **_given(parsed, (*OWN, *BOTH, "seed"))))


def _compare(parsed: argparse.Namespace) -> None:
    from claw.one_model import comparing

    print(comparing.compare_checkpoints(parsed.before, parsed.after, tell=_tell, **_given(parsed, BOTH)))


def _say(parsed: argparse.Namespace) -> None:
    from claw.evaluate import generation
    from claw.models import load
    from claw.specs.spec import Placement, build_spec

    if parsed.words < 1:
        raise InputError(f"--words {parsed.words} is not accepted: a number of tokens, at least 1.")
    where = build_spec(Placement, _given(parsed, ("device", "dtype")))
    model, tokenizer = load.load(parsed.model, dtype=where.dtype, device=where.device)
    prompt, shown = parsed.prompt, ""
    if parsed.chat:
        if not tokenizer.chat_template:
            raise InputError(f"{parsed.model} has no chat template, so it takes no questions. Leave --chat out.")
        asked = [{"role": "user", "content": parsed.prompt}]
        try:
            text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # a template is a small program, and may fail in any way
            raise InputError(
                f"The chat template of {parsed.model} cannot be followed: {' '.join(str(error).split())[:300]}. Correct it "
                "(chat_template.jinja, or chat_template in tokenizer_config.json), or leave --chat out."
            ) from error
        prompt = tokenizer(text, add_special_tokens=False)["input_ids"]  # the template has them
        shown = tokenizer.decode(prompt, skip_special_tokens=True)  # the answer alone is printed

    def grow(text: str) -> None:
        nonlocal shown
        if not text.endswith("\ufffd") and text.startswith(shown):  # half of a letter
            print(text[len(shown) :], end="", flush=True)
            shown = text

    whole = generation.write_on(model, tokenizer, prompt, parsed.words, grow)
    print(whole[len(shown) :] if whole.startswith(shown) else f"\n{whole}")
