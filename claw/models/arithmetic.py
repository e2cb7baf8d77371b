"""What a decoder does between its parts, measured and not believed: what multiplies the stream, and what follows the head.

Measured once per model on a float32 copy of a few layers, by hooks on its parts. What does not fit into these numbers is said
in words, and methods that need it refuse the model with them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from claw.errors import InputError
from claw.models.anatomy import Anatomy, anatomy
from claw.models.blocks import Layer
from claw.models.few_layers import few_layers, structure

TOLERANCE = 1e-4  # relative, in float32
LENGTH = 24  # tokens


@dataclass(frozen=True)
class Readout:
    """What comes after the head: logits = cap · tanh(scale · W h / cap), or scale · W h without a cap."""

    scale: float = 1.0
    cap: float | None = None

    def logits(self, projected: Tensor) -> Tensor:
        """The logits for W h; changes what it is given if it can."""
        scaled = projected if self.scale == 1 else projected * self.scale
        return scaled if self.cap is None else (scaled / self.cap).tanh() * self.cap

    def slope(self, projected: Tensor) -> Tensor:
        """d logits / d factor at factor 1, where W h is multiplied by the factor."""
        scaled = projected * self.scale
        return scaled if self.cap is None else scaled * (1 - (scaled / self.cap).tanh().square())


@dataclass(frozen=True)
class Arithmetic:
    """What a model's blocks do: each half adds `residual` times what it writes to the stream. Reasons are why it is not so."""

    residual: float
    why_not_residual: str


_READOUTS: WeakKeyDictionary[nn.Module, tuple[tuple, Readout | str]] = WeakKeyDictionary()
_ARITHMETICS: WeakKeyDictionary[nn.Module, tuple[tuple, Arithmetic]] = WeakKeyDictionary()


def once(known: WeakKeyDictionary, model: nn.Module, make: Callable[[], Any]) -> Any:
    """What `make` gives for this model, made anew only after something but weights has changed."""
    key = structure(model)
    if model not in known or known[model][0] != key:
        known[model] = key, make()
    return known[model][1]


def readout_of(model: Any) -> Readout:
    """What comes after the head of a model; InputError where it is neither a multiple nor a cap."""
    result = once(_READOUTS, model, lambda: _readout(model))
    if isinstance(result, str):
        raise InputError(
            f"{type(model).__name__} cannot be used here: {result}. Accepted are dense decoders of known families (see README) "
            "with a linear head that gives the logits but for a factor or a cap."
        )
    return result


@torch.no_grad()
def _readout(model: Any) -> Readout | str:
    try:
        few = few_layers(model)
        seen: dict[tuple[int, str], Tensor] = {}
        with (
            few.get_output_embeddings().register_forward_pre_hook(_reader(seen, 0, "input")),
            few.get_output_embeddings().register_forward_hook(_recorder(seen, 0, "output")),
        ):
            logits = few(input_ids=_tokens(few), use_cache=False).logits.double()
        projected = seen[0, "output"].double()
        last = few.base_model(input_ids=_tokens(few), use_cache=False).last_hidden_state
    except Exception as error:  # any architecture, each with errors of its own
        return f"its head cannot be looked at ({error_line(error)})"
    if projected.shape != logits.shape:
        return "its logits are not what its head gives"
    if _distance(last, seen[0, "input"]) > TOLERANCE:
        return "its head does not read the last hidden states of its backbone"
    if not logits.isfinite().all():  # a model that gives NaN gives NaN either way
        return Readout()
    fitted: list[tuple[float, int, Readout]] = []
    for cap in dict.fromkeys((getattr(few.config, "final_logit_softcapping", None), None)):  # small logits hardly show a cap
        wide = logits if not cap else torch.atanh((logits / cap).clamp(-0.999999, 0.999999)) * cap
        readout = Readout(_short(_multiple(projected, wide)), cap)
        fitted.append((_distance(readout.logits(projected), logits), len(fitted), readout))
    distance, _, readout = min(fitted, key=lambda one: one[:2])
    if distance <= TOLERANCE:
        if getattr(few.get_output_embeddings(), "bias", None) is not None and readout != Readout():
            return "its head has a bias, and what follows it is not nothing"
        return readout
    return "its logits are no multiple of what its head gives"


def arithmetic_of(parts: Anatomy) -> Arithmetic:
    """How the blocks of a model add to the stream."""
    return once(_ARITHMETICS, parts.model, lambda: _arithmetic(parts))


@torch.no_grad()
def _arithmetic(parts: Anatomy) -> Arithmetic:
    few = anatomy(few_layers(parts.model))
    seen: dict[tuple[int, str], Tensor] = {}
    handles = []
    for layer in few.layers:
        index = layer.index
        norms = {"attention": layer.after_attention, "mlp": layer.after_mlp}
        linears = {"attention": layer.o, "mlp": layer.down}
        writers = {half: linears[half] if norm is None else norm for half, norm in norms.items()}
        handles.append(layer.module.register_forward_pre_hook(_reader(seen, index, "start")))
        handles.append(layer.mlp_entry.register_forward_pre_hook(_reader(seen, index, "middle")))
        handles.append(layer.module.register_forward_hook(_recorder(seen, index, "end")))
        for half, writer in writers.items():
            handles.append(writer.register_forward_hook(_recorder(seen, index, half)))
    try:
        few.backbone(input_ids=_tokens(few.model), use_cache=False)
        steps = [step for layer in few.layers for step in _steps(seen, layer)]
    except Exception as error:  # any architecture, each with errors of its own
        return Arithmetic(1.0, f"its blocks cannot be looked at ({error_line(error)})")
    finally:
        for handle in handles:
            handle.remove()
    if not all(tensor.isfinite().all() for step in steps for tensor in step):
        return Arithmetic(1.0, "")
    multiple = _short(_multiple(*(torch.cat([step[i].flatten() for step in steps]).double() for i in (1, 0))))
    if any(_distance(written * multiple, added) > 10 * TOLERANCE for added, written in steps):
        return Arithmetic(1.0, "its blocks do not add what they write, or one multiple of it, to the stream")
    return Arithmetic(multiple, "")


def _steps(seen: dict[tuple[int, str], Tensor], layer: Layer) -> Iterator[tuple[Tensor, Tensor]]:
    """What a block adds to the stream, and what its halves wrote: of each half, or of both where they act side by side."""
    start, end = seen[layer.index, "start"], seen[layer.index, "end"]
    written = {half: seen[layer.index, half].view_as(start) for half in ("attention", "mlp")}
    if layer.parallel:
        yield end - start, written["attention"] + written["mlp"]
        return
    middle = seen[layer.index, "middle"].view_as(start)
    yield middle - start, written["attention"]
    yield end - middle, written["mlp"]


def error_line(error: BaseException) -> str:
    """The kind and the first line of an error."""
    return ": ".join([type(error).__name__, *str(error).splitlines()[:1]])


def _tokens(few: Any) -> Tensor:
    weight = few.get_input_embeddings().weight
    return torch.randint(len(weight), (2, LENGTH), generator=torch.Generator().manual_seed(0)).to(weight.device)


def _recorder(seen: dict[tuple[int, str], Tensor], index: int, what: str) -> Any:
    def record(_module: nn.Module, _args: Any, output: Any) -> None:
        seen[index, what] = (output[0] if isinstance(output, tuple) else output).clone()

    return record


def _reader(seen: dict[tuple[int, str], Tensor], index: int, what: str) -> Any:
    def record(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        seen[index, what] = args[0].clone()

    return record


def _multiple(x: Tensor, y: Tensor) -> float:
    """The number s for which s x is nearest to y; 1 where x is silent, as in a model whose writers are zero."""
    size = float(x.square().sum())
    return float((x * y).sum()) / size if size > 1e-30 else 1.0


def _short(value: float) -> float:
    """A measured number as a configuration would write it: five digits where these agree with it, as those of 0.22 do."""
    rounded = float(f"{value:.5g}")
    return rounded if abs(value - rounded) <= 2e-6 * abs(value) else value


def _distance(x: Tensor, y: Tensor) -> float:
    """Root mean square difference relative to y."""
    return float((x - y).double().norm() / y.double().norm().clamp(min=1e-30))
