"""A small float32 copy of a decoder with one layer of every kind, on which what claw assumes of a model is tried out."""

import copy
from collections.abc import Sequence
from types import FunctionType
from typing import Any

import torch
from torch import nn

from claw.models.families import LLAMA, family_of, part_at

ROWS = 64  # of the vocabulary in a copy
IGNORED = ("config", "layer_idx", "training")  # of a module's attributes: the number of a layer tells it from no other
BOOKKEEPING_LISTS = ("token_id", "architectures", "_ids")  # endings of names of lists that have no entry per layer


def keep_layers(config: Any, depth: int, layers: Sequence[int]) -> None:
    """Cut a configuration of `depth` layers to `layers`, in place, with every list in it that has one entry per layer."""
    if list(layers) == list(range(depth)):
        return
    for name, value in lists_per_layer(config, depth).items():
        setattr(config, name, [value[index] for index in layers])
    config.num_hidden_layers = len(layers)


def lists_per_layer(config: Any, depth: int) -> dict[str, Sequence]:
    """The lists of a configuration that have one entry per layer."""
    lists = {name: value for name, value in vars(config).items() if isinstance(value, (list, tuple)) and len(value) == depth}
    return {name: value for name, value in lists.items() if not name.endswith(BOOKKEEPING_LISTS)}


def layer_kinds(model: Any) -> list[tuple]:
    """What decides how each layer computes: classes and plain attributes of its parts, sizes, entries in the configuration.

    Layers of the same kind compute alike but for their weights.
    """
    layers = _blocks(model)
    lists = lists_per_layer(model.config, len(layers))
    entries = ([(name, _plain(value[index])) for name, value in lists.items()] for index in range(len(layers)))
    return [(tuple(entry), *computing(layer)) for entry, layer in zip(entries, layers, strict=True)]


def _blocks(model: Any) -> Any:
    names = family_of(model) or LLAMA
    return part_at(part_at(model, names.backbone), names.layers)


def computing(module: nn.Module) -> tuple:
    """Everything but weights that decides what a module computes, as a value that can be compared."""
    tensors = (
        (name, tuple(tensor.shape)) for kind in (module.named_parameters, module.named_buffers) for name, tensor in kind()
    )
    return (tuple(tensors), *((name, *_of_part(part)) for name, part in module.named_modules()))


def _of_part(part: nn.Module) -> tuple:
    own = (
        (name, _plain(value)) for name, value in sorted(vars(part).items()) if not name.startswith("_") and name not in IGNORED
    )
    hooks = (len(part._forward_hooks), len(part._forward_pre_hooks))
    return type(part), id(type(part).forward), hooks, tuple(own)


def _plain(value: Any) -> Any:
    """A value that can be compared and hashed; of objects only the class."""
    if isinstance(value, (list, tuple)):
        return tuple(map(_plain, value))
    if isinstance(value, dict):
        return tuple((str(key), _plain(inner)) for key, inner in sorted(value.items(), key=lambda pair: str(pair[0])))
    if value is None or isinstance(value, (bool, int, float, str, torch.dtype, FunctionType)):
        return value
    return type(value)


def structure(model: Any) -> tuple:
    """Everything but weights that decides what a model computes: a key for what was found out about it once."""
    config = {name: value for name, value in vars(model.config).items() if name != "_name_or_path"}
    return (_plain(config), *computing(model))


def few_layers(model: Any, at_least: int = 1) -> Any:
    """A float32 copy with `ROWS` rows of the vocabulary and the first layers, `at_least` so many and one of every kind.

    For models of a known family, and others with the names of Llama's outer parts. Hooks are copied with their modules; a
    forward put into one by hand is not, as it may lead back to the original.
    """
    kinds = layer_kinds(model)
    count = min(max(max(kinds.index(kind) for kind in kinds) + 1, at_least), len(kinds))
    embedding, head, modules = model.get_input_embeddings(), model.get_output_embeddings(), _blocks(model)
    drawn = torch.randperm(len(embedding.weight), generator=torch.Generator().manual_seed(1))[:ROWS]
    memo: dict[int, object] = {}
    for tensor in (embedding.weight, head.weight, getattr(head, "bias", None)):
        if tensor is not None:
            memo[id(tensor)] = nn.Parameter(tensor.detach()[drawn.to(tensor.device)], requires_grad=False)
    memo[id(modules)] = nn.ModuleList(copy.deepcopy(module, memo) for module in modules[:count])
    few: Any = copy.deepcopy(model, memo).float()
    few.requires_grad_(False)
    for module in few.modules():
        vars(module).pop("forward", None)
    embedding, head = few.get_input_embeddings(), few.get_output_embeddings()
    embedding.padding_idx = None  # a row that may not be among these; it changes gradients only
    keep_layers(few.config, len(kinds), range(count))
    embedding.num_embeddings = few.config.vocab_size = len(embedding.weight)
    few.config.pad_token_id = None  # as above: an embedding that is made anew from the configuration refuses another number
    head.out_features = len(head.weight)
    return few.eval()
