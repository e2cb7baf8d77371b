"""PruneNet: a small learned policy says which FFN neurons to keep, without any text (Sengupta et al. 2025, arXiv 2501.15296).

The state of block i is its gate matrix W_i (m, d), or without a gate its up matrix. One policy for all blocks gives each row
the keep probability α_j = σ(((W_i Aᵀ + 1bᵀ) s)_j). There is no nonlinearity before the last, so after training it is
α_j = σ(w_j·v + c) with v = Aᵀs and c = b·s: d + 1 numbers, which is what `Policy` holds and what fits any model of the same
hidden width.

Training samples k = ⌊(1-r)m⌋ rows without replacement from the noisy p̃ = σ(logit u + logit α), u uniform, rewards the block
with R = 1/KS(singular values of W, of the sampled rows), and descends -γ^i R_i Σ log p̃_j by AdamW; the policy of the best
episode is kept. KS needs the spectrum only, so it comes from the d×d Gram matrix of the kept rows, not from an SVD of m×d.

Two modes: `prunenet` keeps the top k by w_j·v, the same model every time; `prunenet-stochastic` samples as published, seeded.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from scipy import stats
from torch import nn

from claw.errors import InputError
from claw.files import digest, made_once
from claw.models.anatomy import Anatomy
from claw.models.blocks import Layer
from claw.models.identity import identify
from claw.models.undisturbed import undisturbed
from claw.progress import tqdm
from claw.project import cache

EPISODES = 20
ROUNDING = 2  # raised where training rounds differently: a policy in the cache is what training would give, bit for bit
DISCOUNT = 0.99
LEARNING_RATE = 1e-3
IDENTICAL = 99_999.0  # reward where the spectra cannot be told apart


@dataclass(frozen=True)
class Policy:
    """A trained policy: keep probability of a gate row w is σ(w·vector + offset)."""

    vector: torch.Tensor  # (d,)
    offset: float
    ratio: float  # fraction removed while training
    rewards: tuple[float, ...]  # total reward of each episode

    def logits(self, layer: Layer) -> torch.Tensor:
        """w_j·v + c for the neurons of a block, (m,)."""
        weight = layer.first.weight.float()
        if weight.shape[1] != len(self.vector):
            raise InputError(
                f"This PruneNet policy was trained for hidden width {len(self.vector)}, the model has {weight.shape[1]}. "
                "Train one with claw.prune.prunenet.train(anatomy, ratio, seed)."
            )
        return (weight @ self.vector.to(weight.device) + self.offset).cpu()

    def save(self, path: Path) -> None:
        """Write the policy as safetensors."""
        tensors = {"vector": self.vector, "rewards": torch.tensor(self.rewards, dtype=torch.float64)}
        save_file(tensors, path, metadata={"offset": repr(self.offset), "ratio": repr(self.ratio)})

    @classmethod
    def load(cls, path: Path) -> "Policy":
        """A policy that `save` wrote."""
        with safe_open(path, "pt") as file:
            about = file.metadata()
            rewards = tuple(file.get_tensor("rewards").tolist())
            return cls(file.get_tensor("vector"), float(about["offset"]), float(about["ratio"]), rewards)


def policy_for(parts: Anatomy, ratio: float, seed: int) -> Policy:
    """The policy of this model, ratio and seed, from the cache or trained now."""
    model = identify(parts.model)
    if model.obstacle:
        return train(parts, ratio, seed)
    key = digest(f"{model.name} {ratio!r} {seed} {EPISODES} {ROUNDING}")
    path = cache() / "policies" / f"{key}.safetensors"
    return Policy.load(made_once(path, lambda scratch: train(parts, ratio, seed).save(scratch)))


def train(parts: Anatomy, ratio: float, seed: int, episodes: int = EPISODES) -> Policy:
    """Train a policy on the gate matrices of all blocks; deterministic by seed."""
    weights = [layer.first.weight.detach().float() for layer in parts.layers]
    grams = [weight.T @ weight for weight in weights]
    references = [singular_values(gram, parts.width) for gram in grams]
    count = max(1, int((1 - ratio) * parts.width))
    generator = torch.Generator().manual_seed(seed)  # all is drawn on the CPU, so a GPU learns from the same draws
    with undisturbed(), torch.enable_grad():
        torch.manual_seed(seed)
        project = nn.Linear(parts.hidden, parts.width).to(parts.device)
        combine = nn.Parameter(torch.rand(parts.width).to(parts.device))
        trained = [*project.parameters(), combine]
        optimiser = torch.optim.AdamW(trained, lr=LEARNING_RATE)
        effective = lambda: (project.weight.T @ combine, project.bias @ combine)  # v and c: (W Aᵀ) s is m times as dear
        best = tuple(part.detach() for part in effective())
        rewards: list[float] = []
        for _ in tqdm(range(episodes), desc=f"PruneNet policy r={ratio:g}", unit=" episodes", leave=False):
            loss, total = torch.zeros((), device=parts.device), 0.0
            vector, offset = effective()
            for i, weight in enumerate(weights):
                noisy = keep_probabilities(weight @ vector + offset, generator)
                chosen = torch.multinomial(noisy.detach().cpu(), count, generator=generator).to(parts.device)
                reward = spectrum_reward(weight, grams[i], references[i], chosen)
                total += reward
                loss = loss - DISCOUNT**i * reward * torch.log(noisy[chosen].clamp_min(1e-12)).sum()
            if total > max(rewards, default=-math.inf):
                best = vector.detach(), offset.detach()  # the policy that earned this episode's reward
            rewards.append(total)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
    return Policy(best[0].cpu(), float(best[1]), ratio, tuple(rewards))


def keep_probabilities(logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """p̃ = σ(logit u + logit α) for logits of α, u ~ U(0, 1) drawn on the CPU."""
    noise = torch.rand(logits.shape, generator=generator).to(logits.device).clamp(1e-6, 1 - 1e-6)
    return torch.sigmoid(torch.logit(noise) + logits).clamp(1e-12, 1.0)


def singular_values(gram: torch.Tensor, rows: int) -> torch.Tensor:
    """The min(rows, d) singular values of a matrix from its d×d Gram matrix."""
    return torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()[-rows:]


def spectrum_reward(weight: torch.Tensor, gram: torch.Tensor, reference: torch.Tensor, chosen: torch.Tensor) -> float:
    """1/KS between the singular values of W and of its chosen rows; from the smaller of kept and removed rows."""
    gone = torch.ones(len(weight), dtype=torch.bool, device=weight.device)
    gone[chosen] = False
    fewer = weight[gone] if gone.sum() < len(chosen) else weight[chosen]
    kept = fewer.T @ fewer if len(fewer) == len(chosen) else gram - fewer.T @ fewer
    distance = stats.ks_2samp(reference.cpu().numpy(), singular_values(kept, len(chosen)).cpu().numpy()).statistic
    return 1 / float(distance) if distance > 0 else IDENTICAL


@dataclass(frozen=True)
class PolicyScore:
    """A trained policy as a score of `claw.prune.scores`; when stochastic it draws from the generator it is given."""

    policy: Policy
    stochastic: bool

    def __call__(self, parts: Anatomy, layer: Layer, statistics: object, generator: torch.Generator) -> torch.Tensor:
        logits = self.policy.logits(layer)
        if not self.stochastic:
            return logits
        noisy = keep_probabilities(logits, generator)
        # Gumbel keys: the top k of log p + Gumbel noise are k draws without replacement in proportion to p
        uniform = torch.rand(logits.shape, generator=generator).clamp_min(math.ulp(0.0) * 1e6)
        return noisy.log() - torch.log(-torch.log(uniform.clamp(1e-12, 1 - 1e-7)))
