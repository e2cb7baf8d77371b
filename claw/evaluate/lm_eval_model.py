"""lm-eval's model interface on claw's engine: same tokens, same numbers, each shared prefix computed once.

Registered as "claw", so that `lm_eval.simple_evaluate(model="claw", model_args={"pretrained": "smollm2-135m"})` works once
this module is imported. lm-eval finds no models of other packages by itself, so its command line is started by
`claw.evaluate.lm_eval_command`: `claw-lm-eval --model claw --model_args pretrained=smollm2-135m --tasks piqa`.

Tokenisation follows lm-eval's Hugging Face class to the letter (tests compare them): the context is encoded by itself, the
continuation is what the encoding of both has beyond the context's length, and what exceeds the window is cut off on the left.
Greedy generation is the engine's too (`generating`); what samples or changes logits is left to lm-eval's class.
"""

import copy
import functools
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lm_eval.models  # noqa: F401  fills the registry, which lm-eval does only while it is empty
import numpy as np
import torch
from lm_eval import utils
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import resolve_max_length

from claw.engine.greedy import GreedyGenerator
from claw.engine.prefix_tree import PrefixTree, Request
from claw.engine.score import Scorer
from claw.errors import InputError, unknown
from claw.evaluate import generating
from claw.evaluate.known_scores import KnownScores
from claw.files import digest
from claw.models import load
from claw.models.identity import architecture
from claw.models.undisturbed import undisturbed
from claw.progress import tqdm

MEANS_NOTHING_ELSE = {
    "trust_remote_code": (False,),
    "parallelize": (False,),
    "revision": ("main",),
    "subfolder": ("",),
    "backend": ("default", "causal"),
    "use_fast_tokenizer": (True,),
    "truncation": (False,),
    "peft": (),
    "delta": (),
    "autogptq": (False,),
    "gptqmodel": (False,),
    "gguf_file": (),
    "softmax_dtype": ("float32",),
    "logits_cache": (True, False),
    "low_cpu_mem_usage": (True, False),
}
"""Arguments of lm-eval's Hugging Face class with the values (None always) that ask for nothing that claw does not do anyway."""
INSTEAD = {
    "trust_remote_code": "claw runs no code that comes with a model. Use lm-eval's own class (--model hf) if you trust it.",
    "parallelize": "claw computes on one device: name it with device=.",
    "revision": "Fetch that revision into a folder and give the folder as pretrained=.",
    "subfolder": "Give the folder itself as pretrained=.",
    "peft": "Give the adapter's folder as pretrained=, or merge it first (peft's merge_and_unload) and save the result.",
    "gguf_file": "Give the .gguf file itself as pretrained=.",
}
"""What to do where such an argument asks for more."""


@register_model("claw")
class ClawLM(TemplateLM):
    """A causal language model that lm-eval can score.

    `pretrained` is anything that `claw.load` takes, or a loaded model (then with its `tokenizer`). `dtype` and `device` are
    as in `claw.load`; `max_length`, `add_bos_token` and `prefix_token_id` as in lm-eval's Hugging Face class. With `cache`,
    results are kept in claw's cache, so an interrupted evaluation continues. `batch_size` and `max_batch_size` are accepted
    because lm-eval passes them, and ignored: batches are sized by tokens. Other arguments of lm-eval's Hugging Face class are
    accepted where they ask for what claw does anyway (`MEANS_NOTHING_ELSE`); InputError otherwise.
    """

    def __init__(
        self,
        pretrained: Any = None,
        tokenizer: Any = None,
        *,
        dtype: Any = "auto",
        device: str | None = None,
        max_length: int | None = None,
        add_bos_token: bool | None = None,
        prefix_token_id: int | None = None,
        cache: bool = True,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        **others: Any,
    ) -> None:
        super().__init__()
        _check_others(others)
        if pretrained is None:
            raise InputError("No model is named. Say which: --model_args pretrained=NAME, with any name that claw.load takes.")
        if max_length is not None and (isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < 1):
            raise InputError(f"max_length = {max_length!r} is not accepted: a number of tokens, at least 1.")
        if isinstance(tokenizer, str):
            raise InputError(
                "claw takes the tokenizer that is with the model; to use another, save it into the model's folder."
            )
        if isinstance(pretrained, str | Path):
            dtype = str(dtype).removeprefix("torch.")
            self.model, self.tokenizer = load.load(str(pretrained), dtype=dtype, device=_present(device))
        elif tokenizer is None:
            raise InputError("A loaded model needs its tokenizer: ClawLM(model, tokenizer).")
        else:
            self.model, self.tokenizer = pretrained, tokenizer
        load.check_vocabulary(self.model, self.tokenizer)
        self._device = next(self.model.parameters()).device
        self._cache = cache
        self._scorer: tuple[Any, Scorer] | None = None
        self._options = {"max_length": max_length, "add_bos_token": add_bos_token, "prefix_token_id": prefix_token_id}
        backend = getattr(self.tokenizer, "backend_tokenizer", None)  # what decides how this tokenizer encodes
        slow = lambda: json.dumps([type(self.tokenizer).__name__, self.tokenizer.get_vocab()], sort_keys=True)
        letters = str(getattr(self.tokenizer, "split_special_tokens", False))  # whether control tokens in texts are text
        fingerprint = digest(slow() if backend is None else backend.to_str(), letters)
        self.encoding = Encoding(self.tokenizer, fingerprint, self.prefix_token_id, add_bos_token, self.max_length)

    @property
    def max_length(self) -> int:
        """Tokens that the model reads at most."""
        return self._options["max_length"] or resolve_max_length(self.model.config, self.tokenizer)

    @property
    def eot_token_id(self) -> int | None:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int | None:
        """What stands before a text without context: the beginning-of-text token, else the end-of-text token."""
        tokens = (self._options["prefix_token_id"], self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
        return next((token for token in tokens if token is not None), None)

    @property
    def tokenizer_name(self) -> str:
        return self.tokenizer.name_or_path.replace("/", "__")

    @property
    def scorer(self) -> Scorer:
        """The engine for this model, made anew where more than weights has changed."""
        now = architecture(self.model)
        if self._scorer is None or self._scorer[0] != now:
            self._scorer = now, Scorer(self.model)
        return self._scorer[1]

    @functools.cached_property
    def _stock(self) -> Any:
        """lm-eval's own class around the same model, with a tokenizer of its own, to which it may add a padding token."""
        from lm_eval.models.huggingface import HFLM

        with undisturbed(self.model):
            return HFLM(pretrained=self.model, tokenizer=copy.deepcopy(self.tokenizer), batch_size=8, **self._options)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs) -> list[int]:
        return self.encoding.encode([string], add_special_tokens)[0]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return self._stock.apply_chat_template(chat_history, add_generation_prompt)

    def get_model_info(self) -> dict:
        return self._stock.get_model_info()

    def generate_until(self, requests, disable_tqdm: bool = False) -> list[str]:
        """What the model writes after each context: by the engine where that is greedy, else by lm-eval's class."""
        prompts, settings = self.encoding.encode([request.args[0] for request in requests]), [r.args[1] for r in requests]
        load.check_ids(prompts, self.model)
        with undisturbed(self.model):
            generator = GreedyGenerator(self.model)
            if generator.reason or generating.why_not_greedy(self.model, settings) or not all(prompts):
                return self._stock.generate_until(requests, disable_tqdm=disable_tqdm)
            texts = generating.written(generator, self.model, self.tokenizer, self.max_length, prompts, settings)
        for request, text in zip(requests, texts, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, text)
        return texts

    def loglikelihood(self, requests, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation, and whether greedy decoding would produce it."""
        pairs = tuple(request.args for request in requests)
        encoded = _encode_pairs(self.encoding, pairs)
        answers = self._answers(encoded, [request.task_name or "requests" for request in requests], disable_tqdm)
        for pair, answer in zip(pairs, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", pair, answer)
        return answers

    def loglikelihood_rolling(self, requests, disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, in windows as lm-eval cuts them."""
        windows, owner = [], []
        for number, request in enumerate(requests):
            ids, prefix = self.tok_encode(request.args[0]), self.encoding.prefix()
            cut = utils.get_rolling_token_windows(ids, prefix, max_seq_len=self.max_length, context_len=1)
            for context, continuation in map(utils.make_disjoint_window, cut):
                windows.append(self.encoding.request(context, continuation))
                owner.append(number)
        tasks = [requests[number].task_name or "requests" for number in owner]
        parts = self._answers(tuple(windows), tasks, disable_tqdm)
        sums = np.bincount(owner, weights=[part[0] for part in parts], minlength=len(requests)).tolist()
        for request, total in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return sums

    def _loglikelihood_tokens(self, requests, disable_tqdm: bool = False, **kwargs) -> list[tuple[float, bool]]:
        encoded = tuple(self.encoding.request(context, continuation) for _, context, continuation in requests)
        return self._answers(encoded, ["requests"] * len(encoded), disable_tqdm)

    def _answers(self, encoded: tuple[Request, ...], tasks: Sequence[str], disable_tqdm: bool) -> list[tuple[float, bool]]:
        """Score what is not known yet, in evaluation mode, keeping what is scored even if interrupted."""
        load.check_ids([request.ids for request in encoded], self.model)
        with undisturbed(self.model):
            return self._scored(encoded, tasks, disable_tqdm)

    def _scored(self, encoded: tuple[Request, ...], tasks: Sequence[str], disable_tqdm: bool) -> list[tuple[float, bool]]:
        scorer = self.scorer
        known = KnownScores(encoded, tasks, self.model if self._cache else None)
        missing, count = known.missing(), len(encoded)
        if len(missing) == count:
            tree = _prefix_tree(encoded, share=scorer.decoder is not None)
        else:
            tree = scorer.prefix_tree([encoded[i] for i in missing])
        shown: dict[str, Any] = {"desc": "scoring", "unit": " requests", "leave": False, "disable": disable_tqdm or None}
        with tqdm(total=count, initial=count - len(missing), **shown) as bar, known:
            for numbers, loglikelihoods, greedy in scorer.score(tree):
                known.add(missing[numbers], loglikelihoods, greedy)
                bar.update(len(numbers))
        return list(zip(known.loglikelihood.tolist(), known.greedy.tolist(), strict=True))


@dataclass(frozen=True)
class Encoding:
    """How texts become token requests. Equal for tokenizers of equal content, so requests are encoded once for all models."""

    tokenizer: Any = field(compare=False)
    fingerprint: str
    prefix_token_id: int | None
    add_bos_token: bool | None
    max_length: int

    def prefix(self) -> int:
        """The token before a text without context."""
        if self.prefix_token_id is None:
            raise InputError("The tokenizer has no token for the beginning of a text: name one with prefix_token_id=.")
        return self.prefix_token_id

    def encode(self, texts: Sequence[str], add_special_tokens: bool | None = None) -> list[list[int]]:
        """Token ids of texts. What the tokenizer adds by itself is not added to a text that begins with it already."""
        usual = self.add_bos_token if add_special_tokens is None else add_special_tokens
        marked = [False] * len(texts)
        if add_special_tokens is None and self.prefix_token_id is not None:
            start = self.tokenizer.decode(self.prefix_token_id)
            marked = [text.startswith(start) for text in texts]
        plain = iter(self._batch([text for text, has in zip(texts, marked, strict=True) if not has], usual))
        bare = iter(self._batch([text for text, has in zip(texts, marked, strict=True) if has], False))
        return [next(bare if has else plain) for has in marked]

    def _batch(self, texts: list[str], add_special_tokens: bool | None) -> list[list[int]]:
        options = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return self.tokenizer(texts, verbose=False, **options)["input_ids"] if texts else []

    def pairs(self, pairs: Sequence[tuple[str, str]]) -> tuple[Request, ...]:
        """Requests of contexts and continuations, as lm-eval's `TemplateLM.loglikelihood` encodes them.

        Spaces at the end of a context belong to the continuation, as tokenizers see it.
        """
        contexts = list(dict.fromkeys(context.rstrip() for context, _ in pairs if context))
        of_context = dict(zip(contexts, self.encode(contexts), strict=True))
        wholes = iter(self.encode([context + continuation for context, continuation in pairs if context]))
        alone = iter(self.encode([continuation for context, continuation in pairs if not context], add_special_tokens=False))
        requests = []
        for context, _ in pairs:
            if context:
                before = of_context[context.rstrip()]
                requests.append(self.request(before, next(wholes)[len(before) :]))
            else:
                ids, prefix = next(alone), self.prefix()
                requests.append(self.request(ids[:1], ids[1:]) if ids[:1] == [prefix] else self.request([prefix], ids))
        return tuple(requests)

    def request(self, context: list[int], continuation: list[int]) -> Request:
        """One request, cut from the left to what the model reads; refused where lm-eval would stop."""
        if not context or not continuation or len(continuation) > self.max_length:
            name, ids = ("continuation", continuation) if context else ("context", context)
            raise InputError(
                f"A request's {name} has {len(ids)} tokens after encoding; it needs at least one, and a continuation at most "
                f"{self.max_length}, the model's window. Choose another task, or a larger max_length if the model allows it."
            )
        return Request.ending((context + continuation)[-(self.max_length + 1) :], len(continuation))


def _check_others(others: dict[str, Any]) -> None:
    """InputError for arguments that ask for what this class does not do."""
    for name, value in others.items():
        if name not in MEANS_NOTHING_ELSE:
            own = {"pretrained", "tokenizer", "dtype", "device", "max_length", "add_bos_token", "prefix_token_id", "cache"}
            raise unknown("model argument", name, own | set(MEANS_NOTHING_ELSE))
        if value is not None and value not in MEANS_NOTHING_ELSE[name]:
            instead = INSTEAD.get(name, "Leave it out, or use lm-eval's own class (--model hf).")
            raise InputError(f"Model argument {name} = {value!r} asks for what claw does not do. {instead}")


def _present(device: str | None) -> str:
    """The device asked for. lm-eval asks for its default cuda:0 in the name of users who named none, so that means auto."""
    if device == "cuda:0" and not torch.cuda.is_available():
        logging.getLogger("lm_eval").warning("There is no CUDA device cuda:0 here; claw uses the best that there is.")
        return "auto"
    return device or "auto"


_encode_pairs = functools.lru_cache(maxsize=4)(Encoding.pairs)  # once for all models of a process that share a tokenizer
_prefix_tree = functools.lru_cache(maxsize=4)(PrefixTree)  # planned once for all models that score the same requests
