"""How fast a compressed model is beside its dense one: reading a prompt and generating, apart, on this machine.

Notable choices:
- Dense and compressed take turns in one process, A B A B, so that whatever else the machine does meets both; each round gives
  one ratio, and the interval is a bootstrap over rounds.
- Prefill reads `prompt` tokens and gives the logits of the last; decode is the mean over `generate` single tokens after it.
- Beside each measured ratio stands the ideal one: of FLOPs for prefill, of bytes read for decode.
- Both sides run through the same code: the stock forward, or with `compiled` torch.compile over a static cache, which on a GPU
  replays CUDA graphs.
"""

import time
import weakref
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from claw.errors import InputError
from claw.models.anatomy import describe
from claw.models.load import check_same_vocabulary
from claw.models.shape import Shape
from claw.progress import tqdm
from claw.specs.experiment import Speed
from claw.specs.spec import build_spec

PHASES = ("prefill", "decode")
DRAWS = 2000  # of the bootstrap
LEVEL = 0.95


@dataclass(frozen=True)
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
        """Share of the ideal speed-up that was got."""
        return self.speedup / self.ideal


@dataclass(frozen=True)
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
        found = asdict(self)
        smallest = min(t.batch for t in self.timings)
        for timing in self.timings:
            name = timing.phase if timing.batch == smallest else f"{timing.phase}_batch{timing.batch}"
            found |= {f"speedup_{name}": timing.speedup, f"speedup_{name}_low": timing.low, f"speedup_{name}_high": timing.high}
            found[f"ideal_{name}"] = timing.ideal
        return found

    def _repr_html_(self) -> str:
        head = ("phase", "batch", "dense, ms", "compressed, ms", "times as fast", "95 % interval", "ideal", "of ideal")
        rows = [
            (t.phase, t.batch, f"{1e3 * t.seconds0:.1f}", f"{1e3 * t.seconds:.1f}", f"{t.speedup:.2f}",
             f"{t.low:.2f} to {t.high:.2f}", f"{t.ideal:.2f}", f"{t.of_ideal:.0%}")
            for t in self.timings
        ]  # fmt: skip
        body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
        return (
            f"<table><tr>{''.join(f'<th>{name}</th>' for name in head)}</tr>{body}</table><p>Prompt of {self.prompt} tokens, "
            f"{self.generate} generated, {self.rounds} interleaved rounds on {self.device} with {self.threads} threads in {self.dtype}; "
            f"memory {self.memory0 / 1e9:.2f} GB dense, {self.memory / 1e9:.2f} GB compressed.</p>"
        )

    def sentences(self) -> str:
        """What was found, in words; slower is called slower."""
        return "\n".join(map(timing_sentence, (asdict(t) for t in self.timings)))


def timing_sentence(timing: dict) -> str:
    """One timing in words, from its numbers."""
    low, high, ratio = timing["low"], timing["high"], timing["speedup"]
    if low > 1:
        found = f"is {ratio:.2f} times as fast as dense"
    elif high < 1:
        found = f"is SLOWER than dense: it takes {1 / ratio:.2f} times as long"
    else:
        found = f"is not measurably faster or slower than dense ({ratio:.2f} times as fast)"
    ideal = "FLOPs" if timing["phase"] == "prefill" else "bytes"
    return (
        f"{timing['phase']} at batch {timing['batch']} {found} [{low:.2f}, {high:.2f}]; {ideal} allow {timing['ideal']:.2f}, so "
        f"{ratio / timing['ideal']:.0%} of the possible was got."
    )


def measure_speed(small: nn.Module, *, against: nn.Module, **choices) -> SpeedReport:
    """Speed-up of `small` over the dense model `against`: prefill and decode at each batch size, with intervals and ideals.

    `choices` are the fields of claw.specs.experiment.Speed: `prompt` and `generate` (tokens), `batches`, `rounds`, `compiled`.
    Raises InputError for models of different vocabularies, devices or number types, and where a prompt does not fit.
    """
    speed = build_spec(Speed, choices)
    check_pair(small, against, speed)
    found = timings(small, against, speed)
    with torch.inference_mode():
        largest = max(speed.batches)
        memory0, memory = (peak_memory(Runner(model, largest, speed)) for model in (against, small))
    device = next(small.parameters()).device
    return SpeedReport(
        timings=found, memory=memory, memory0=memory0, prompt=speed.prompt, generate=speed.generate,
        rounds=speed.rounds, compiled=speed.compiled,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        dtype=str(small.dtype).removeprefix("torch."), threads=torch.get_num_threads(),
    )  # fmt: skip


@torch.inference_mode()
def timings(small: nn.Module, dense: nn.Module, speed: Speed) -> tuple[Timing, ...]:
    """Both phases at each batch size, dense and compressed in turns."""
    models = (dense.eval(), small.eval())
    shapes = tuple(describe(model) for model in models)
    found = []
    for batch in tqdm(dict.fromkeys(speed.batches), desc="speed", unit=" batch sizes", disable=None, leave=False):
        seconds = interleaved([Runner(model, batch, speed) for model in models], speed.rounds)
        for phase in PHASES:
            times0, times = (np.array(each[phase]) for each in seconds)
            ratio, low, high = interval(times0, times)
            ideal = ideal_ratio(phase, *shapes, batch=batch, speed=speed, element=small.dtype.itemsize)
            found.append(Timing(phase, batch, float(np.median(times)), float(np.median(times0)), ratio, low, high, ideal))
    return tuple(found)


def check_pair(small: nn.Module, dense: nn.Module, speed: Speed) -> None:
    """InputError where the two models cannot be compared or the prompt does not fit."""
    check_same_vocabulary(small, dense)
    for what, of in (("device", lambda m: next(m.parameters()).device), ("number type", lambda m: m.dtype)):
        if of(small) != of(dense):
            raise InputError(
                f"The compressed model has {what} {of(small)} and the dense one {of(dense)}, so their times do not compare. Load "
                "both alike."
            )
    for model in (small, dense):
        room = model.config.get_text_config().max_position_embeddings
        if speed.prompt + speed.generate > room:
            raise InputError(
                f"prompt={speed.prompt} and generate={speed.generate} do not fit into the {room} positions of the model. Ask for "
                "fewer tokens."
            )


class Runner:
    """One model with a prompt: times one prefill and the decoding after it."""

    def __init__(self, model: nn.Module, batch: int, speed: Speed):
        self.model, self.speed, self.batch = model, speed, batch
        self.device = next(model.parameters()).device
        vocabulary = model.config.get_text_config().vocab_size
        generator = torch.Generator().manual_seed(0)
        self.ids = torch.randint(vocabulary, (batch, speed.prompt), generator=generator).to(self.device)
        self.places = torch.arange(speed.prompt + speed.generate, device=self.device)
        self.cache = self._cache() if speed.compiled else None
        self.forward = _compiled(model) if speed.compiled else model.forward

    def __call__(self) -> dict[str, float]:
        """Seconds of a prefill and of one decoding step."""
        prompt = self.speed.prompt
        cache = self.cache if self.cache is not None else self._cache()
        if self.cache is not None:
            self.cache.reset()
        started = self._now()
        token = self._step(self.model.forward, self.ids, cache, self.places[:prompt])
        middle = self._now()
        for place in range(prompt, prompt + self.speed.generate):
            token = self._step(self.forward, token, cache, self.places[place : place + 1])
        ended = self._now()
        return {"prefill": middle - started, "decode": (ended - middle) / self.speed.generate}

    def _step(self, forward: Callable, ids: torch.Tensor, cache, places: torch.Tensor) -> torch.Tensor:
        """The likeliest next token (B, 1)."""
        out = forward(
            input_ids=ids,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
            position_ids=places[None].expand(len(ids), -1),
        )
        return out.logits[:, -1:].argmax(-1)

    def _cache(self):
        from transformers import DynamicCache, StaticCache

        if self.speed.compiled:
            return StaticCache(config=self.model.config, max_cache_len=self.speed.prompt + self.speed.generate)
        return DynamicCache(config=self.model.config)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _compiled(model: nn.Module) -> Callable:
    """The forward pass of one token, compiled; CUDA graphs where there is a GPU."""
    return torch.compile(model.forward, mode="reduce-overhead", fullgraph=False)


def interleaved(runners: list[Runner], rounds: int) -> list[dict[str, list[float]]]:
    """Seconds by phase of each runner, in turns, after warming up."""
    for runner in runners:
        runner()
        if runner.speed.compiled:  # the first replay comes after capture
            runner()
    seconds = [{phase: [] for phase in PHASES} for _ in runners]
    for _ in range(rounds):
        for runner, found in zip(runners, seconds, strict=True):
            for phase, value in runner().items():
                found[phase].append(value)
    return seconds


def interval(dense: np.ndarray, compressed: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """Median over rounds of dense over compressed seconds, and its bootstrap interval over rounds."""
    ratios = dense / compressed
    draws = np.random.default_rng(seed).integers(len(ratios), size=(DRAWS, len(ratios)))
    medians = np.median(ratios[draws], axis=1)
    low, high = np.quantile(medians, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(np.median(ratios)), float(low), float(high)


def ideal_ratio(phase: str, dense: Shape, small: Shape, *, batch: int, speed: Speed, element: int) -> float:
    """Speed-up if time followed FLOPs (prefill) or bytes read (decode, mean over the tokens generated)."""
    if phase == "prefill":
        return prefill_flops(dense, speed.prompt) / prefill_flops(small, speed.prompt)
    middle = speed.prompt + speed.generate // 2
    read = [shape.bytes_per_token(middle, batch, element) for shape in (dense, small)]
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
        self.now, self.highest, self.known = 0, 0, set()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        inputs = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        result = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
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
