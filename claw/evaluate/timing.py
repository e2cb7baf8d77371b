"""How fast a compressed model is beside its dense one on this machine: prefill (reading a prompt) and decode (generating).

Notable choices:
- Dense and compressed take turns in one process, A B A B, so that other load on the machine affects both; each round gives
  one ratio, and the interval is a bootstrap over rounds.
- Prefill reads `prompt` tokens and gives the logits of the last; decode is the mean over `generate` single tokens after it.
- Beside each measured ratio stands the ideal one: of FLOPs for prefill, of bytes read for decode.
- Both models run through the same code: the stock forward, or with `compiled` torch.compile over a static cache, which on a
  GPU replays CUDA graphs.
"""

import time
import weakref
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import DynamicCache, StaticCache

from claw.errors import InputError
from claw.models.anatomy import describe
from claw.models.load import check_same_vocabulary
from claw.models.shape import Shape
from claw.models.undisturbed import leaves_as_before
from claw.progress import tqdm
from claw.specs.experiment import Speed
from claw.specs.spec import build_spec
from claw.words import html_table

PHASES = ("prefill", "decode")
DRAWS = 2000  # of the bootstrap
LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One phase at one batch size. Seconds are medians: of a whole prompt batch, or of one decoding step of the batch."""

    phase: str
    batch: int
    seconds: float
    seconds0: float  # of the dense model
    speedup: float  # dense over compressed, median over rounds
    low: float  # 95 % bootstrap interval
    high: float
    ideal: float

    @property
    def of_ideal(self) -> float:
        """Share of the ideal speed-up that was reached."""
        return self.speedup / self.ideal


@dataclass(frozen=True, kw_only=True)
class SpeedReport:
    """Timings of a compressed model against its dense one, and the memory that each needs in bytes (weights, cache, peak)."""

    timings: tuple[Timing, ...]
    memory: int
    memory0: int
    prompt: int
    generate: int
    rounds: int
    compiled: bool
    device: str
    dtype: str
    threads: int

    def of(self, phase: str, batch: int) -> Timing:
        """The timing of a phase at a batch size."""
        return next(t for t in self.timings if (t.phase, t.batch) == (phase, batch))

    def to_dict(self) -> dict:
        """Plain values for a record; the smallest batch gives the columns without a batch in their name."""
        columns, smallest = asdict(self), min(timing.batch for timing in self.timings)
        for t in self.timings:
            name = t.phase if t.batch == smallest else f"{t.phase}_batch{t.batch}"
            columns |= {f"speedup_{name}": t.speedup, f"speedup_{name}_low": t.low, f"speedup_{name}_high": t.high}
            columns[f"ideal_{name}"] = t.ideal
        return columns

    def _repr_html_(self) -> str:
        head = ("phase", "batch", "dense, ms", "compressed, ms", "times as fast", "95 % interval", "ideal", "of ideal")
        rows = []
        for t in self.timings:
            measured = (t.phase, t.batch, f"{1e3 * t.seconds0:.1f}", f"{1e3 * t.seconds:.1f}", f"{t.speedup:.2f}")
            rows.append((*measured, f"{t.low:.2f} to {t.high:.2f}", f"{t.ideal:.2f}", f"{t.of_ideal:.0%}"))
        return (
            f"{html_table(rows, head)}<p>Prompt of {self.prompt} tokens, {self.generate} generated, {self.rounds} interleaved "
            f"rounds on {self.device} with {self.threads} threads in {self.dtype}; memory {self.memory0 / 1e9:.2f} GB dense, "
            f"{self.memory / 1e9:.2f} GB compressed.</p>"
        )

    def sentences(self) -> str:
        """The timings in words; slower is called slower."""
        return "\n".join(timing_sentence(asdict(timing)) for timing in self.timings)


def timing_sentence(timing: dict) -> str:
    """One timing in words, from its numbers."""
    low, high, ratio, ideal = (timing[name] for name in ("low", "high", "speedup", "ideal"))
    if low > 1:
        verdict = f"is {ratio:.2f} times as fast as dense"
    elif high < 1:
        verdict = f"is SLOWER than dense: it takes {1 / ratio:.2f} times as long"
    else:
        verdict = f"is not measurably faster or slower than dense ({ratio:.2f} times as fast)"
    resource = "FLOPs" if timing["phase"] == "prefill" else "bytes"
    return (
        f"{timing['phase']} at batch {timing['batch']} {verdict} [{low:.2f}, {high:.2f}]: {ratio / ideal:.0%} of the ideal "
        f"{ideal:.2f} by {resource}."
    )


@leaves_as_before
def measure_speed(small: Any, *, against: Any, **choices) -> SpeedReport:
    """Speed-up of `small` over the dense model `against`: prefill and decode at each batch size, with intervals and ideals.

    `choices` are the fields of claw.specs.experiment.Speed: `prompt` and `generate` (tokens), `batches`, `rounds`, `compiled`.
    Raises InputError for models of different vocabularies, devices or number types, and where a prompt does not fit.
    """
    speed = build_spec(Speed, choices)
    check_pair(small, against, speed)
    measured: dict[str, Any] = {"timings": timings(small, against, speed)}
    with torch.inference_mode():
        for name, model in (("memory0", against), ("memory", small)):
            measured[name] = peak_memory(Runner(model, max(speed.batches), speed))
    settings = {name: getattr(speed, name) for name in ("prompt", "generate", "rounds", "compiled")}
    device, dtype = next(small.parameters()).device, str(small.dtype).removeprefix("torch.")
    place = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return SpeedReport(**settings, **measured, device=place, dtype=dtype, threads=torch.get_num_threads())


@leaves_as_before
@torch.inference_mode()
def timings(small: Any, dense: Any, speed: Speed, *, quiet: bool = False) -> tuple[Timing, ...]:
    """Both phases at each batch size, dense and compressed in turns; `quiet` shows no progress."""
    models = (dense, small)
    shapes = [describe(model) for model in models]
    measured = []
    batches = tuple(dict.fromkeys(speed.batches))
    bar = tqdm(total=len(batches) * (speed.rounds + 1), desc="timing", unit=" rounds", disable=quiet or None, leave=False)
    for batch in batches:
        bar.set_postfix_str(f"batch {batch}")
        seconds = interleaved([Runner(model, batch, speed) for model in models], speed.rounds, bar.update)
        for phase in PHASES:
            times0, times = (series[phase] for series in seconds)
            ratio, low, high = interval(times0, times)
            ideal = ideal_ratio(phase, *shapes, batch=batch, speed=speed, element=small.dtype.itemsize)
            medians = {"seconds": float(np.median(times)), "seconds0": float(np.median(times0))}
            measured.append(Timing(phase=phase, batch=batch, **medians, speedup=ratio, low=low, high=high, ideal=ideal))
    bar.close()
    return tuple(measured)


def check_pair(small: Any, dense: Any, speed: Speed) -> None:
    """InputError where the two models cannot be compared or the prompt does not fit."""
    check_same_vocabulary(small, dense)
    settings = [{"device": next(model.parameters()).device, "number type": model.dtype} for model in (small, dense)]
    for name, value in settings[0].items():
        if value != settings[1][name]:
            other = settings[1][name]
            raise InputError(f"The compressed model has {name} {value}, the dense one {other}, so times do not compare.")
    room = min(model.config.get_text_config().max_position_embeddings for model in (small, dense))
    if speed.prompt + speed.generate > room:
        asked = f"prompt={speed.prompt} and generate={speed.generate}"
        raise InputError(f"{asked} do not fit into the {room} positions of the model. Ask for fewer tokens.")


class Runner:
    """One model with a prompt: times one prefill and the decoding after it."""

    def __init__(self, model: Any, batch: int, speed: Speed):
        self.model, self.speed = model, speed
        self.device = next(model.parameters()).device
        vocabulary = model.config.get_text_config().vocab_size
        generator = torch.Generator().manual_seed(0)
        self.ids = torch.randint(vocabulary, (batch, speed.prompt), generator=generator).to(self.device)
        self.places = torch.arange(speed.prompt + speed.generate, device=self.device)
        self.forward, self.static = model.forward, None
        if speed.compiled:
            self.static = StaticCache(config=model.config, max_cache_len=speed.prompt + speed.generate)
            self.forward = torch.compile(model.forward, mode="reduce-overhead", fullgraph=False)  # CUDA graphs on a GPU

    def __call__(self) -> dict[str, float]:
        """Seconds of a prefill and of one decoding step."""
        prompt, generate = self.speed.prompt, self.speed.generate
        if self.static is not None:
            self.static.reset()
        cache = DynamicCache(config=self.model.config) if self.static is None else self.static
        started = self._now()
        token = self._step(self.model.forward, self.ids, cache, self.places[:prompt])
        middle = self._now()
        for place in range(prompt, prompt + generate):
            token = self._step(self.forward, token, cache, self.places[place : place + 1])
        ended = self._now()
        return {"prefill": middle - started, "decode": (ended - middle) / generate}

    def _step(self, forward: Callable, ids: torch.Tensor, cache: Any, places: torch.Tensor) -> torch.Tensor:
        """The most probable next token (B, 1)."""
        positions = places[None].expand(len(ids), -1)
        out = forward(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1, position_ids=positions)
        return out.logits[:, -1:].argmax(-1)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def interleaved(runners: list[Runner], rounds: int, tell: Callable[[], Any] = lambda: None) -> list[dict[str, np.ndarray]]:
    """Seconds of every round by phase, for each runner, in turns, after warming up. `tell` hears of each round, outside it."""
    for runner in runners:
        for _ in range(2 if runner.speed.compiled else 1):  # the first replay comes after capture
            runner()
    tell()
    seconds = []
    for _ in range(rounds):
        seconds.append([runner() for runner in runners])
        tell()
    return [{phase: np.array([times[phase] for times in own]) for phase in PHASES} for own in zip(*seconds, strict=True)]


def interval(dense: np.ndarray, compressed: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """Median over rounds of dense over compressed seconds, and its bootstrap interval over rounds."""
    ratios = dense / compressed
    draws = np.random.default_rng(seed).integers(len(ratios), size=(DRAWS, len(ratios)))
    low, high = np.quantile(np.median(ratios[draws], axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(np.median(ratios)), float(low), float(high)


def ideal_ratio(phase: str, dense: Shape, small: Shape, *, batch: int, speed: Speed, element: int) -> float:
    """Speed-up if time followed FLOPs (prefill) or bytes read (decode, mean over the tokens generated)."""
    if phase == "prefill":
        return prefill_flops(dense, speed.prompt) / prefill_flops(small, speed.prompt)
    read = [shape.bytes_per_token(speed.prompt + speed.generate // 2, batch, element) for shape in (dense, small)]
    return read[0] / read[1]


def prefill_flops(shape: Shape, prompt: int) -> int:
    """Forward FLOPs of one prompt whose last position alone has logits."""
    head = 2 * shape.vocabulary * shape.hidden
    return prompt * (shape.flops_per_token(prompt) - head) + head


def peak_memory(runner: Runner) -> int:
    """Bytes of the weights and of everything else that one prefill and its decoding hold at their highest point."""
    weights = sum(p.numel() * p.element_size() for p in runner.model.parameters())
    if runner.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(runner.device)
        before = torch.cuda.memory_allocated(runner.device)
        runner()
        return weights + torch.cuda.max_memory_allocated(runner.device) - before
    with Held() as held:
        runner()
    return weights + held.highest


class Held(TorchDispatchMode):
    """Bytes of the tensors that operations make while this is on: held now, and the highest so far."""

    def __init__(self):
        super().__init__()
        self.now = self.highest = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        inputs = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        result = operation(*args, **(kwargs or {}))
        for storage in (t.untyped_storage() for t in tree_leaves(result) if isinstance(t, torch.Tensor)):
            place = storage.data_ptr()
            if place not in self.known and place not in inputs:  # a view or an operation in place makes nothing
                self.known.add(place)
                self.now += storage.nbytes()
                self.highest = max(self.highest, self.now)
                weakref.finalize(storage, self._free, place, storage.nbytes())
        return result

    def _free(self, place: int, size: int) -> None:
        self.known.discard(place)
        self.now -= size
