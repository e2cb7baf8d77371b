"""PruneNet: the policy is what the paper says, learns, is reusable, and both modes are reproducible."""

import numpy as np
import pytest
import torch
from conftest import tiny_model
from scipy import stats

from claw.errors import InputError
from claw.models.anatomy import anatomy
from claw.prune import compress, prunenet


def test_reward_from_gram_matrices_is_the_reward_from_singular_values():
    torch.manual_seed(0)
    weight = torch.randn(50, 12) * torch.linspace(0.1, 3, 12)
    gram = weight.T @ weight
    reference = prunenet.singular_values(gram, 50)
    for count in (5, 20, 45):
        chosen = torch.randperm(50)[:count]
        exact = np.linalg.svd(weight[chosen].numpy(), compute_uv=False)
        distance = stats.ks_2samp(np.linalg.svd(weight.numpy(), compute_uv=False), exact).statistic
        assert prunenet.spectrum_reward(weight, gram, reference, chosen) == pytest.approx(1 / distance)


def test_training_moves_the_policy_towards_what_is_rewarded(monkeypatch):
    """With a reward that counts kept rows of one kind, their logits rise above the others'."""
    model = tiny_model("llama", intermediate_size=32)
    parts = anatomy(model)
    with torch.no_grad():
        for layer in parts.layers:
            layer.gate.weight[:16, 0] = 3.0
            layer.gate.weight[16:, 0] = -3.0
    monkeypatch.setattr(prunenet, "spectrum_reward", lambda w, g, r, chosen: float((chosen < 16).sum() - 8) / 4)
    policy = prunenet.train(parts, 0.5, seed=0, episodes=80)
    logits = policy.logits(parts.layers[0])
    assert logits[:16].mean() > logits[16:].mean()
    assert np.mean(policy.rewards[-10:]) > np.mean(policy.rewards[:10])


def test_the_best_episode_is_kept(monkeypatch):
    parts = anatomy(tiny_model("llama"))
    rewards = iter([1.0] * 3 + [9.0] * 3 + [2.0] * 30)
    monkeypatch.setattr(prunenet, "spectrum_reward", lambda *a: next(rewards))
    best = prunenet.train(parts, 0.5, seed=0, episodes=4)
    rewards = iter([1.0] * 3 + [9.0] * 30)
    monkeypatch.setattr(prunenet, "spectrum_reward", lambda *a: next(rewards))
    second = prunenet.train(parts, 0.5, seed=0, episodes=2)
    assert torch.equal(best.vector, second.vector) and best.rewards[1] == 27.0


def test_a_policy_is_saved_and_reused_for_other_ratios_and_models(tmp_path):
    parts = anatomy(tiny_model("llama"))
    policy = prunenet.train(parts, 0.3, seed=1, episodes=2)
    policy.save(tmp_path / "p.safetensors")
    again = prunenet.Policy.load(tmp_path / "p.safetensors")
    assert torch.equal(policy.vector, again.vector) and again.offset == policy.offset and again.rewards == policy.rewards
    other = anatomy(tiny_model("qwen2", intermediate_size=96))
    assert again.logits(other.layers[0]).shape == (96,)
    with pytest.raises(InputError, match="trained for hidden width 32"):
        again.logits(anatomy(tiny_model("llama", hidden_size=64)).layers[0])


def test_both_modes_are_reproducible_and_differ(own_cache):
    model = tiny_model("llama")
    kept = {}
    for method in ("prunenet", "prunenet-stochastic"):
        runs = [compress.compress(model, method, 0.5, seed=seed)[1].kept for seed in (0, 0, 1)]
        assert runs[0] == runs[1] != runs[2]
        kept[method] = runs[0]
    assert kept["prunenet"] != kept["prunenet-stochastic"]


def test_sampling_follows_the_probabilities():
    """Rows with a higher keep probability are kept more often."""
    parts = anatomy(tiny_model("llama"))
    policy = prunenet.Policy(torch.zeros(32), 0.0, 0.5, (0.0,))
    logits = torch.linspace(-3, 3, 64)
    policy = type("P", (), {"logits": lambda self, layer: logits})()
    draw = prunenet.PolicyScore(policy, stochastic=True)
    counts = torch.zeros(64)
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        counts[draw(parts, parts.layers[0], None, generator).topk(32).indices] += 1
    assert counts[48:].mean() > 1.3 * counts[:16].mean()
