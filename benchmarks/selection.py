"""Which neurons should stay? Ways of choosing them at equal FFN ratios, refitted alike.

    python benchmarks/selection.py [--model smollm2-135m] [--ratios .3 .5 .7] [--fit ridge|regression] [--ways flap obs ...]

- `wanda-sp`, `flap`: the scores of these methods;
- `obs-once`: ‖W_:j‖² / (G + λI)⁻¹_jj, what is lost with neuron j alone once the others are refitted (optimal brain surgeon);
- `obs`: the same in turn, a few neurons at a time, the others refitted before the next go (as SlimGPT does);
- `flap-fisher`: `flap` with half of ‖W_:j‖² replaced by W_:jᵀ F W_:j, F the second moment of the loss's gradient where the FFN
  writes, scaled to a mean diagonal of 1 (LaMoC weighs its Gram matrices so); `flap-fisher-only` with all of it. Where only
  neurons go, half of it gains up to .05 nats; in the shapes that `claw` chooses (30, 50, 70 % of SmolLM2-135M) it gained .012,
  -.006 and .001, so `claw` keeps `flap`.

`--fit ridge` refits down_proj as `+ridge` does, `regression` every matrix on what the small model reads, as `claw` does.
"""

import argparse
import time
from typing import Any

import pandas as pd
import torch

import claw
from claw.evaluate import held_out
from claw.models.anatomy import Anatomy, anatomy
from claw.models.blocks import Layer
from claw.prune import regression, scores, surgery
from claw.prune.blockwise import backward_through, forward_through, head_backward, token_batches
from claw.prune.statistics import Statistics
from claw.words import markdown

TURNS = 96  # in which `obs` lets all neurons of a block go


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.3, 0.5, 0.7], help="of the FFN neurons")
    parser.add_argument("--ways", nargs="+", default=["wanda-sp", "flap", "obs-once", "obs", "flap-fisher", "flap-fisher-only"])
    parser.add_argument("--fit", choices=("ridge", "regression"), default="ridge")
    parser.add_argument("--calibration", type=int, default=65_536, help="tokens")
    parser.add_argument("--fisher-tokens", type=int, default=8_192)
    parser.add_argument("--heldout-blocks", type=int, default=32, help="of 512 tokens")
    parser.add_argument("--device", default="auto")
    asked = parser.parse_args()
    model, tokenizer = claw.load(asked.model, device=asked.device)
    parts = anatomy(model)
    blocks = claw.blocks(tokenizer, "wikipedia-train", count=asked.calibration // 512)
    heldout = claw.blocks(tokenizer, "wikipedia-heldout", purpose="heldout", count=asked.heldout_blocks)
    statistics = claw.calibrate(model, blocks)
    fisher: dict[int, torch.Tensor] = {}
    if any("fisher" in way for way in asked.ways):
        started = time.perf_counter()
        fisher = gradient_moments(parts, blocks.part(slice(max(1, asked.fisher_tokens // 512))))
        print(f"Fisher moments of {asked.fisher_tokens:,} tokens in {time.perf_counter() - started:.0f} s", flush=True)
    rows = []
    for way in asked.ways:
        started = time.perf_counter()
        orders = {layer.index: score_of(way, parts, layer, statistics, fisher) for layer in parts.layers}
        row = {"way": way, "seconds": round(time.perf_counter() - started, 1)}
        for ratio in asked.ratios:
            target = parts.shape.with_(width=round((1 - ratio) * parts.width))
            kept = {index: scores.best(score, target.width) for index, score in orders.items()}
            units = surgery.Units(range(parts.depth), {"ffn": kept, "heads": every_group(parts)})
            if asked.fit == "ridge":
                small = surgery.cut(parts, target, units, statistics)
            else:
                small = regression.regressed(parts, target, units, statistics, blocks)
            row[f"{ratio:g}"] = held_out.cross_entropy(small, heldout).mean
        rows.append(row)
        print(row, flush=True)
    print(f"\n{markdown(pd.DataFrame(rows).round(4))}")


def every_group(parts: Anatomy) -> dict[int, torch.Tensor]:
    return {layer.index: torch.arange(parts.groups) for layer in parts.layers}


def score_of(way: str, parts: Anatomy, layer: Layer, statistics: Statistics, fisher: dict[int, torch.Tensor]) -> torch.Tensor:
    """How much each neuron of a block matters, (m,)."""
    if way in scores.NEURONS:
        return scores.NEURONS[way](parts, layer, statistics, torch.Generator())
    weight = layer.down.weight.float()
    if way.startswith("flap-fisher"):
        weighted = (weight * (fisher[layer.index].to(weight.device) @ weight)).sum(0) / weight.square().sum(0).clamp_min(1e-30)
        share = 1.0 if way.endswith("only") else 0.5
        return scores.flap(layer, statistics, "ffn") * (1 - share + share * weighted).cpu()
    inverse = inverse_moments(layer, statistics).to(weight.device)
    if way == "obs-once":
        return (weight.square().sum(0) / inverse.diagonal()).cpu()
    return in_turn(weight.clone(), inverse).cpu()


def inverse_moments(layer: Layer, statistics: Statistics) -> torch.Tensor:
    """(G + λI)⁻¹ of what a block's down_proj reads, with the penalty of `+ridge`."""
    gram, penalty = (statistics.moment(layer.index, "ffn", name) for name in ("gram", "ridge"))
    damped = gram.float().clone()
    damped.diagonal().add_(max(float(penalty), 1e-4) * float(gram.diagonal().mean()))
    return torch.cholesky_inverse(torch.linalg.cholesky(damped))


def in_turn(weight: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
    """When each neuron goes, (m,), if those that cost least go a few at a time and the others are refitted each time."""
    count = len(inverse)
    order, left, gone = torch.zeros(count), torch.ones(count, dtype=torch.bool), 0
    while gone < count:
        cost = weight.square().sum(0) / inverse.diagonal().clamp_min(1e-12)
        cost[~left] = torch.inf
        going = cost.topk(min(max(1, count // TURNS), count - gone), largest=False).indices
        order[going] = torch.arange(gone, gone + len(going), dtype=order.dtype)
        left[going], gone = False, gone + len(going)
        through = torch.linalg.solve(inverse[going][:, going], inverse[going])
        weight -= weight[:, going] @ through
        inverse -= inverse[:, going] @ through
    return order


def gradient_moments(parts: Anatomy, blocks: Any) -> dict[int, torch.Tensor]:
    """Σ g gᵀ of the loss's gradient g (d,) after each block, scaled to a mean diagonal of 1, by the block's index."""
    sums = {layer.index: torch.zeros(parts.hidden, parts.hidden, device=parts.device) for layer in parts.layers}
    batches = token_batches(parts, blocks.ids)
    scored = blocks.scored.to(parts.device).split([len(chunk) for chunk in batches])
    for ids, places in zip(batches, scored, strict=True):
        hidden, entering, arguments = forward_through(parts, ids)
        gradient, _ = head_backward(parts, hidden, ids, places, [])
        for layer, after, *_ in backward_through(parts, entering, arguments, gradient, lambda layer: []):
            rows = after.flatten(0, -2).float()  # the stream after a block has the gradient of what its FFN adds to it
            rows = rows / rows.square().mean().sqrt().clamp_min(1e-30)
            sums[layer.index] += rows.T @ rows
    return {index: total / total.diagonal().mean() for index, total in sums.items()}


if __name__ == "__main__":
    main()
