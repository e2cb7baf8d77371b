"""Compression by other people's packages, called as their own documentation says (extra `bench`).

Each function takes a fresh model, a target share of all parameters to remove, and calibration blocks, and returns the
compressed model or None where it cannot get there. What a peer leaves wrong in the configuration is repaired as a careful user
would.
"""

import copy
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import nn

from claw.models.anatomy import anatomy
from claw.prune import targets

Peer = Callable[[nn.Module, float, torch.Tensor, int], nn.Module | None]


def ffn_share(model: nn.Module, target: float) -> float | None:
    """Share of feed-forward neurons to remove so that `target` of all parameters goes; None beyond reach."""
    shape = anatomy(model).shape
    share = target / targets.removed(shape, shape.with_(width=1), "params")
    return share if share < 0.995 else None


def optipfair(model: nn.Module, target: float, ids: torch.Tensor, seed: int) -> nn.Module | None:
    """optipfair's MAW selection: the peak-to-peak magnitude of gate and up rows (PPM)."""
    from optipfair import prune_model

    share = ffn_share(model, target)
    if share is None:
        return None
    return prune_model(
        model, pruning_type="MLP_GLU", neuron_selection_method="MAW", pruning_percentage=100 * share, show_progress=False
    )


@cache
def _policy(seed: int, folder: str):
    from efficient_pruners import PruneNet, PruningConfig

    pruner = PruneNet(PruningConfig(device="cpu", seed=seed, save_dir=f"{folder}/policy-{seed}"))
    pruner.fit(folder)  # its own defaults: 20 episodes at ratio 0.3
    return pruner


def efficient_pruners(model: nn.Module, target: float, ids: torch.Tensor, seed: int) -> nn.Module | None:
    """The PruneNet authors' package: a policy trained once per seed, rows sampled from it."""
    share = ffn_share(model, target)
    if share is None:
        return None
    pruner = _policy(seed, _named_folder(model))
    torch.manual_seed(seed)
    small = pruner.compress(share).to(model.dtype)
    small.config.intermediate_size = small.model.layers[0].mlp.down_proj.in_features
    return small.eval()


_FOLDERS: dict[str, str] = {}


def _named_folder(model: nn.Module) -> str:
    """A float32 checkpoint, as PruneNet factorises weights, which bfloat16 cannot; it tells "llama" by the folder's name."""
    name = f"{model.config.name_or_path} {model.num_parameters()}"  # every ratio gets a copy of the same model
    if name not in _FOLDERS:
        _FOLDERS[name] = str(Path(tempfile.mkdtemp()) / "llama")
        copy.deepcopy(model).float().save_pretrained(_FOLDERS[name])
    return _FOLDERS[name]


def torch_pruning(importance: str) -> Peer:
    """Torch-Pruning over hidden and feed-forward width, heads kept, with magnitude or Taylor importance."""

    def prune(model: nn.Module, target: float, ids: torch.Tensor, seed: int) -> nn.Module | None:
        import torch_pruning as tp

        low, high = 0.0, 0.98
        shape = anatomy(model).shape
        for _ in range(30):  # the one ratio of both widths that removes the target
            middle = (low + high) / 2
            small = shape.with_(width=int(shape.width * (1 - middle)), hidden=int(shape.hidden * (1 - middle)))
            low, high = (middle, high) if targets.removed(shape, small, "params") < target else (low, middle)
        model.config._attn_implementation = "eager"
        model.config.use_cache = False
        model = model.float()
        criteria = {"magnitude": tp.importance.GroupMagnitudeImportance, "taylor": tp.importance.GroupTaylorImportance}
        heads = {layer.self_attn.q_proj: shape.heads for layer in model.model.layers}
        groups = {layer.self_attn.k_proj: shape.groups for layer in model.model.layers}
        groups |= {layer.self_attn.v_proj: shape.groups for layer in model.model.layers}
        options = {"pruning_ratio": middle, "global_pruning": False, "ignored_layers": [model.lm_head]}
        options |= {"num_heads": heads | groups, "prune_num_heads": False, "prune_head_dims": False}
        logits = lambda out: out.logits
        pruner = tp.pruner.BasePruner(
            model, ids[:1, :64], importance=criteria[importance](), output_transform=logits, **options
        )
        if importance == "taylor":
            for block in ids[:8]:
                model(block[None], labels=block[None]).loss.backward()
        pruner.step()
        return _consistent(model)

    return prune


def _consistent(model: nn.Module) -> nn.Module:
    """The configuration brought to what the weights have become, and the tied head tied again."""
    config = copy.deepcopy(model.config)
    layer = model.model.layers[0]
    config.hidden_size, config.intermediate_size = layer.mlp.gate_proj.in_features, layer.mlp.gate_proj.out_features
    model.config = config
    model.zero_grad(set_to_none=True)
    if config.tie_word_embeddings and model.lm_head.weight.shape == model.model.embed_tokens.weight.shape:
        model.lm_head.weight = model.model.embed_tokens.weight
    return model.to(torch.bfloat16).eval()


PEERS: dict[str, Peer] = {
    "optipfair PPM": optipfair,
    "efficient-pruners PruneNet": efficient_pruners,
    "torch-pruning magnitude": torch_pruning("magnitude"),
    "torch-pruning Taylor": torch_pruning("taylor"),
}
