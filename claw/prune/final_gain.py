"""Refit the gain of the final norm, so that a compressed model is as sure of its next token as it has reason to be.

What a compressed model writes to the stream is a regression towards what the dense one wrote, and so smaller the less it knows.
The final norm divides by that size, which hides the doubt: the model is as sure as the dense one while it is wrong more often.
Its cross-entropy on text is convex in the gain (logits are linear in it, but for a soft cap), so the gain that the text asks
for is found by Newton steps on one temperature for all dimensions (Guo et al. 2017), and by L-BFGS for each dimension where the
hidden width or most blocks were cut. What the model itself does to the logits after its head is done here too (`Readout`).
"""

import torch
from torch import nn
from torch.nn import functional as F

from claw.models.anatomy import anatomy
from claw.models.arithmetic import Readout, readout_of
from claw.models.blocks import has_gain, has_shift
from claw.prune import surgery
from claw.prune.blockwise import token_batches
from claw.texts.token_blocks import Blocks

TOKENS = 2048  # scored
CHUNK = 64  # tokens whose logits are held at a time: small enough that memory is used again instead of asked for anew
NEWTON_STEPS = 8
CLOSE = 2e-3  # a smaller step is the last
ITERATIONS = 6  # of L-BFGS
PENALTY = 1e-3  # nats for a gain that is off by its own size


@torch.no_grad()
def refit(model: nn.Module, blocks: Blocks, *, each: bool = False) -> None:
    """Scale the gain of the final norm, in place, to the least cross-entropy on `blocks`; `each` dimension apart if asked.

    A norm without weights is left as it is.
    """
    parts = anatomy(model)
    if not has_gain(parts.norm):
        return
    readout = readout_of(model)
    outputs = torch.cat([parts.backbone(input_ids=ids).last_hidden_state for ids in token_batches(parts, blocks.ids)])
    scored = blocks.scored[:, 1:]
    wanted = blocks.ids[:, 1:][scored].to(parts.device)
    step = max(1, len(wanted) // TOKENS)  # evenly spread over the text
    states, targets = outputs[:, :-1][scored][::step], wanted[::step]
    factors = torch.full((parts.hidden,), _temperature(parts.head, readout, states, targets), device=parts.device)
    if each:
        factors = _factor_of_each(parts.head, readout, states, targets, factors)
    gain = surgery.norm_gain(parts.norm, parts)
    parts.norm.weight.data = (gain * factors - parts.gain_offset).to(parts.dtype)
    if has_shift(parts.norm):
        parts.norm.bias.data = (parts.norm.bias.float() * factors).to(parts.dtype)


def _temperature(head: nn.Linear, readout: Readout, states: torch.Tensor, targets: torch.Tensor) -> float:
    """The factor s before the readout f with the least cross-entropy: Newton steps with d/ds = E_p f' - f'_y.

    The second derivative is taken as Var_p f', which it is where f is linear.
    """
    factor = 1.0
    for _ in range(NEWTON_STEPS):
        slope = curvature = 0.0
        for some, wanted in zip(states.split(CHUNK), targets.split(CHUNK), strict=True):
            projected = F.linear(some, head.weight).float() * factor
            change = readout.slope(projected) / factor
            weighted = _biased(readout.logits(projected), head).softmax(-1).mul_(change)
            mean = weighted.sum(-1)
            slope += float((mean - change.gather(-1, wanted[:, None])[:, 0]).sum())
            curvature += float((weighted.mul_(change).sum(-1) - mean.square()).sum())
        step = slope / max(curvature, 1e-6)
        factor = min(max(factor - step, factor / 2), factor * 2)
        if abs(step) < CLOSE:
            break
    return factor


def _biased(logits: torch.Tensor, head: nn.Linear) -> torch.Tensor:
    """Logits with the head's bias, which no factor of the gain multiplies."""
    return logits if head.bias is None else logits + head.bias


def _factor_of_each(
    head: nn.Linear, readout: Readout, states: torch.Tensor, targets: torch.Tensor, start: torch.Tensor
) -> torch.Tensor:
    """Factors (d,) of every dimension with the least cross-entropy, pulled towards `start`."""
    change = torch.zeros_like(start, requires_grad=True)
    weight, bias = head.weight.detach(), None if head.bias is None else head.bias.detach()
    optimiser = torch.optim.LBFGS([change], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimiser.zero_grad()
        penalty = PENALTY * change.square().sum()
        penalty.backward()
        total = float(penalty.detach())
        for some, wanted in zip(states.split(CHUNK), targets.split(CHUNK), strict=True):
            logits = readout.logits(F.linear(some * (start * (1 + change)).to(some.dtype), weight, bias).float())
            loss = F.cross_entropy(logits, wanted, reduction="sum") / len(targets)
            loss.backward()
            total += float(loss.detach())
        return total

    with torch.enable_grad():
        optimiser.step(closure)
    return start * (1 + change.detach())
