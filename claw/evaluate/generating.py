"""lm-eval's generation requests on claw's engine: the same texts as its Hugging Face class under greedy decoding.

A text ends at the first stop sequence, at the model's end token or after so many tokens. Requests that sample, or models whose
generation settings change the logits (a repetition penalty, say), are left to lm-eval's class; `why_not_greedy` says so.
"""

from collections.abc import Sequence
from typing import Any

from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text

from claw.engine.greedy import GreedyGenerator
from claw.errors import InputError
from claw.progress import tqdm

IDLE = {"bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "transformers_version", "_from_model_config"}
IDLE |= {"output_attentions", "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate"}
IDLE |= {"use_cache", "do_sample", "temperature", "top_p", "top_k", "min_p", "typical_p", "max_length", "max_new_tokens"}
"""Generation settings that mean nothing where the likeliest token is taken and the length is given."""
LOOK_BACK = 6  # tokens beyond those of a stop sequence in which it is looked for
HALF_LETTER = "\ufffd"
DEFAULT_TOKENS = 256  # lm-eval's, where a task names none


def why_not_greedy(model: Any, settings: Sequence[dict[str, Any]]) -> str:
    """Why these requests are not greedy generation by the model's plain logits; empty if they are."""
    own = getattr(model, "generation_config", None)
    changed = set(own.to_diff_dict()) - IDLE if own is not None else set()
    if changed:
        return f"its generation_config sets {', '.join(sorted(changed))}"
    for each in settings:
        kwargs = normalize_gen_kwargs(each, DEFAULT_TOKENS)
        more = set(kwargs) - {"until", "max_gen_toks", "do_sample", "temperature"}
        if more or kwargs["do_sample"]:
            return f"a request asks for {', '.join(sorted(more)) or 'sampling'}"
    return ""


def written(
    generator: GreedyGenerator, model: Any, tokenizer: Any, window: int, prompts: Sequence[list[int]], settings: Sequence[dict]
) -> list[str]:
    """What the model writes after each prompt (token ids), cut at its stop sequences. Settings that are equal share a batch."""
    texts = [""] * len(prompts)
    groups: dict[str, list[int]] = {}
    for number, each in enumerate(settings):
        groups.setdefault(repr(sorted(each.items())), []).append(number)
    with tqdm(total=len(prompts), desc="generating", unit=" texts", disable=None, leave=False) as bar:
        for numbers in groups.values():
            for number, text in _group(generator, model, tokenizer, window, prompts, numbers, settings[numbers[0]]):
                texts[number] = text
                bar.update()
    return texts


def _group(generator: GreedyGenerator, model: Any, tokenizer: Any, window: int, prompts: Any, numbers: list[int], each: dict):
    kwargs = normalize_gen_kwargs(each, DEFAULT_TOKENS)
    end = tokenizer.eos_token_id
    until = handle_stop_sequences(kwargs["until"], eos=None if end is None else tokenizer.decode(end))
    tokens = kwargs["max_gen_toks"]
    if tokens >= window:
        raise InputError(
            f"A task asks for {tokens} tokens, but the model reads {window} in all, prompt included. Choose another task, or a "
            "larger max_length if the model allows it."
        )
    stops = [text for text in until if text]
    reach = LOOK_BACK + max((len(tokenizer.encode(text, add_special_tokens=False)) for text in stops), default=0)

    def is_done(_: int, ids: list[int]) -> bool:
        tail = tokenizer.decode(ids[-reach:])
        if not any(text in tail for text in stops):
            return False
        whole = tokenizer.decode(ids).rstrip(HALF_LETTER)  # which the next tokens may complete
        return any(text in whole for text in stops)

    ends = ends_of(model, tokenizer)
    cut = [prompts[number][-(window - tokens) :] for number in numbers]
    for number, ids in zip(numbers, generator.write(cut, tokens, ends, is_done), strict=True):
        text = tokenizer.decode(ids, skip_special_tokens=True)
        yield number, postprocess_generated_text(text, until, None)


def ends_of(model: Any, tokenizer: Any) -> list[int]:
    """Token ids at which the model's own generation ends."""
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    listed = own if isinstance(own, (list, tuple)) else [own]
    return [int(number) for number in dict.fromkeys([*listed, tokenizer.eos_token_id]) if number is not None]
