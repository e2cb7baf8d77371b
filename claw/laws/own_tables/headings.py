"""What the headings of published tables mean: the words for ratio, method, model, loss, perplexity, accuracy and tasks.

Notable choices:
- A heading is read word by word. It means a ratio if it has a word for removing and else only words such as `pct` or `target`,
  so `Pruning Ratio`, `sparsity_pct` and `target compression (%)` are one kind and need no list.
- Names that claw itself writes (`claw.records.COLUMNS`) mean what they say and are never guessed at.
"""

import re
from typing import NamedTuple

from claw.records import COLUMNS

REMOVING = set(
    "ratio sparsity sparsities sparse prune pruned pruning compression compressed compress removed removal removing remove "
    "reduction reduced reduce slicing sliced slice cut dropped drop deleted rate".split()
)
KEEPING = set("kept keep keeping remaining remain remained retained retain retention density left dense preserved".split())
AMOUNT = set(
    "ratio rate level levels pct percent percentage perc fraction frac share amount target nominal of the model models weights "
    "weight degree overall global degree in to r".split()
)
PARAMETERS = set("param params parameter parameters parms".split())
METHOD = set("method methods algorithm algo approach technique pruner strategy scheme criterion".split())
MODEL = set("model models llm llms network backbone checkpoint".split())
OF_METHOD = set("pruning prune compression selection name the used".split())
OF_MODEL = set("name names id base hf source the".split())
LOSS = set("loss losses nll ce crossentropy xent".split())
OF_LOSS = set(
    "cross entropy eval evaluation val valid validation test heldout held out lm mean avg average token per nats language "
    "modeling modelling log ln".split()
)
PERPLEXITY = set("ppl ppls perplexity perplexities ppx perp".split())
BITS = {"bpb": "bits_per_byte", "bitsperbyte": "bits_per_byte"}
ACCURACY = set("acc accuracy accuracies".split())
MEAN = set("average avg ave mean score scores".split())
OF_ACCURACY = set(
    "zero shot zeroshot 0 5 0shot 5shot overall total norm tasks task downstream commonsense reasoning qa pct".split()
)
METRIC = set(
    "acc accuracy norm none em f1 score shot 0 1 5 10 25 0shot 1shot 5shot 10shot 25shot mc1 mc2 zeroshot pct c h".split()
)
NOT_IT = set("std stderr stdev sd se ci err error delta diff change gap increase drop train training low high n chance".split())
OTHER = set(
    "size seed seeds epoch step steps tokens samples flops macs speedup latency time memory throughput gb mb hours device gpu "
    "gpus note notes year source paper rank index id layers bits lr hidden".split()
)
UNITS = set("b m k g ms s gb mb per second sec token number of total avg mean in pct the model".split())
BILLIONS, MILLIONS, THOUSANDS = set("b g billion billions".split()), set("m million millions".split()), {"k", "thousands"}
CORPORA = set(
    "wikitext wikitext2 wikitext103 wiki wiki2 wt2 c4 ptb penntreebank pile thepile redpajama slimpajama fineweb alpaca "
    "bookcorpus".split()
)
SAY_DENSE = set(
    "dense none no not o without 0 baseline base original orig full unpruned uncompressed unmodified vanilla pretrained fp16 "
    "bf16 fp32 float16 bfloat16 float32 reference na n nan null".split()
)
BESIDE_DENSE = set("w pct un pruning pruned compression compressed model llm a".split())
TASKS: dict[str, tuple[str, float | None]] = {}
"""By spelling: name in claw and accuracy of guessing, None where it is not one number."""
for _name, _chance, _spellings in (
    ("arc_challenge", 0.25, "arcchallenge arcc arcch"),
    ("arc_easy", 0.25, "arceasy arce"),
    ("boolq", 0.5, "boolq"),
    ("hellaswag", 0.25, "hellaswag hella hellas"),
    ("mmlu", 0.25, "mmlu"),
    ("cmmlu", 0.25, "cmmlu"),
    ("ceval", 0.25, "ceval"),
    ("openbookqa", 0.25, "openbookqa obqa openbook"),
    ("piqa", 0.5, "piqa"),
    ("race", 0.25, "race raceh racem racehigh racemiddle"),
    ("social_iqa", 1 / 3, "socialiqa siqa"),
    ("truthfulqa", None, "truthfulqa truthfulqamc truthfulqamc1 truthfulqamc2 tqa"),
    ("winogrande", 0.5, "winogrande wino winog"),
    ("crows_pairs", 0.5, "crows crowspairs"),
    ("copa", 0.5, "copa"),
    ("rte", 0.5, "rte"),
    ("wsc", 0.5, "wsc wsc273"),
    ("wic", 0.5, "wic"),
    ("sst2", 0.5, "sst2"),
    ("qnli", 0.5, "qnli"),
    ("storycloze", 0.5, "storycloze"),
    ("mnli", 1 / 3, "mnli"),
    ("anli", 1 / 3, "anli"),
    ("sciq", 0.25, "sciq"),
    ("logiqa", 0.25, "logiqa"),
    ("gpqa", 0.25, "gpqa"),
    ("headqa", 0.25, "headqa"),
    ("medqa", None, "medqa"),
    ("commonsense_qa", 0.2, "commonsenseqa csqa"),
    ("mathqa", 0.2, "mathqa"),
    ("mmlu_pro", 0.1, "mmlupro"),
    ("lambada", 0.0, "lambada lambadaopenai"),
    ("gsm8k", 0.0, "gsm8k"),
    ("triviaqa", 0.0, "triviaqa"),
    ("nq_open", 0.0, "nq nqopen naturalquestions"),
    ("squad", 0.0, "squad squadv2"),
    ("humaneval", 0.0, "humaneval"),
    ("mbpp", 0.0, "mbpp"),
    ("bbh", None, "bbh"),
    ("ifeval", None, "ifeval"),
    ("agieval", None, "agieval"),
):
    TASKS |= dict.fromkeys(_spellings.split(), (_name, _chance))


class Meaning(NamedTuple):
    """What a heading means. `kind`: a column of claw, or kept, mean, task, other; `percent`: the heading says per cent."""

    kind: str
    percent: bool = False
    task: str = ""
    chance: float | None = None


def meaning_of(heading: str) -> Meaning | None:
    """What a heading means; None if it may be the name of a model, a method or anything else."""
    own = re.sub(r"\W+", "_", heading.strip()).strip("_").lower()
    if own in COLUMNS:
        return Meaning(own)
    if _of_claw(own):
        return Meaning("own")
    percent = "%" in heading or bool({"pct", "percent", "percentage", "perc"} & set(_words(heading)))
    camel = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", heading)
    return _by_words(_words(heading), percent) or (_by_words(_words(camel), percent) if camel != heading else None)


def _of_claw(name: str) -> bool:
    """Whether `claw.records` writes a column of this name beside those of COLUMNS."""
    return bool(
        re.fullmatch(r"(speedup|ideal|milliseconds0?)_\w+|\w+_(stderr|n|chance|change|p_right|answer_bpb)|recovery_\w+", name)
    )


def _words(heading: str) -> list[str]:
    return [word for word in re.split(r"[\W_]+", heading.replace("%", " pct ").lower()) if word]


def _by_words(words: list[str], percent: bool) -> Meaning | None:
    have, joined = set(words), "".join(words)
    if not have:
        return None
    if have & PERPLEXITY and not have & NOT_IT:
        if have & {"log", "ln"}:
            return Meaning("loss")
        return Meaning("word_perplexity" if "word" in have else "token_perplexity")
    if joined in BITS:
        return Meaning(BITS[joined])
    rest = [word for word in words if word not in METRIC]
    task = TASKS.get(joined) or TASKS.get("".join(rest))
    if task is not None:
        return Meaning("task", percent, f"{task[0]}_acc{'_norm' if 'norm' in have else ''}", task[1])
    if joined in CORPORA or "".join(rest) in CORPORA:
        return Meaning("token_perplexity")
    if (have & LOSS or {"cross", "entropy"} <= have) and not have & NOT_IT and not have - LOSS - OF_LOSS - CORPORA - {"2"}:
        return Meaning("loss")
    if have & (ACCURACY | MEAN) and not have - ACCURACY - MEAN - OF_ACCURACY:
        return Meaning("accuracy" if have & ACCURACY else "mean", percent)
    if have & PARAMETERS and have & (REMOVING - {"ratio", "rate"}) and not have - PARAMETERS - REMOVING - AMOUNT:
        return Meaning("ratio_params", percent)
    if have & (KEEPING - {"dense", "left"}) and not have - KEEPING - AMOUNT - PARAMETERS:
        return Meaning("kept", percent)
    if (have & REMOVING and not have - REMOVING - AMOUNT) or joined == "r":
        return Meaning("ratio", percent)
    if have & METHOD and not have - METHOD - OF_METHOD:
        return Meaning("method")
    if have & MODEL and not have - MODEL - OF_MODEL:
        return Meaning("model")
    measure = LOSS | PERPLEXITY | ACCURACY | MEAN
    alone = bool(have & (OTHER | PARAMETERS)) and have <= OTHER | NOT_IT | PARAMETERS | UNITS
    apart = alone or bool(have & NOT_IT and have & measure)
    return Meaning("other", percent) if apart else None


def counted_in(heading: str) -> float | None:
    """What a count of parameters is in: 1e9 for Params (B), 1 for #params or remaining_params; None for other headings."""
    have = set(_words(heading)) - {"number", "count", "of", "total", "model", "the", "in"}
    scales = {1e9: BILLIONS, 1e6: MILLIONS, 1e3: THOUSANDS}
    units = [scale for scale, words in scales.items() if have & words]
    known = PARAMETERS | KEEPING | BILLIONS | MILLIONS | THOUSANDS | {"size"}
    return None if not have & PARAMETERS or have - known or len(units) > 1 else (units or [1.0])[0]


def means_dense(name: object, model: object = "") -> bool:
    """Whether a method's name says: the uncompressed model. None, baseline, Full model, BF16, -, nothing, the model's name."""
    words = set(_words(str(name if name is not None else "")))
    own = set(_words(str(model or "")))
    if own and own <= words:
        words -= own
    return not words or (bool(words & SAY_DENSE) and words <= SAY_DENSE | BESIDE_DENSE)


_SAYS = "|".join(sorted((REMOVING | KEEPING | {"p", "r", "s", "sp", "with", "at", "w/"}) - {"left"}, key=len, reverse=True))
_SEPARATED = r"[\s_\-–/(\[@,:=]"
_MARKED = re.compile(
    rf"^(?P<base>.*?\S){_SEPARATED}+(?P<word>(?:(?:{_SAYS})(?![a-z]){_SEPARATED}*)*)"
    r"(?P<number>(?<![\d.])(?:\d+(?:[.,]\d+)?|[.,]\d+))\s*"
    rf"(?P<unit>%|pct|percent|per cent)?(?:[\s_\-]*(?P<after>{_SAYS}|left))?[\s)\]]*$",
    re.IGNORECASE,
)


class Marked(NamedTuple):
    """A name with a ratio at its end: `share` as a fraction, `kept` if it is what is left."""

    base: str
    share: float
    kept: bool


def marked_name(name: str) -> Marked | None:
    """SliceGPT (25%) → SliceGPT and .25; Llama-3.2-1B-pruned-30% → Llama-3.2-1B and .3; None for OPT-1.3B or Phi-1.5."""
    match = _MARKED.match(name)
    if match is None:
        return None
    said = set(_words(f"{match['word']} {match['after'] or ''}")) & (REMOVING | KEEPING)
    number, unit = float(match["number"].replace(",", ".")), match["unit"]
    fraction = number < 1 and not unit and not match["number"].isdigit()  # model-0 is a name
    if not (unit or fraction or said) or not 0 <= number <= 100:
        return None
    base = match["base"].rstrip(" -_–/([@,:")
    return Marked(base, number if number < 1 and not unit else number / 100, bool(said & KEEPING)) if base else None


def size_in(name: str) -> tuple[str, float] | None:
    """Family and number of parameters in a model's name: OPT-125M → OPT and 125e6; None where there is no one size."""
    match = re.search(r"^(.*?)[\s_\-/]*(?<![\d.])(?<!\dx)(\d+(?:\.\d+)?)\s*([bm])(?![a-z0-9])", name, re.IGNORECASE)
    if match is None or re.search(r"\d\s*x\s*\d", name, re.IGNORECASE):
        return None
    family = match[1].rpartition("/")[2].strip(" -_")
    return family or name, float(match[2]) * (1e9 if match[3].lower() == "b" else 1e6)
