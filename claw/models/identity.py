"""The name under which a model's results may be kept: everything that computes is in it.

That is all weights and buffers with their types, every field of the configuration but labels, each module's class, the code of
its forward pass and its plain attributes (an epsilon, a window, a scale), the kind of attention, the versions of torch and
transformers. What cannot be named so is an `obstacle`: a hook, a forward pass or attention function put in by hand, a
parametrisation, a class that neither library wrote, dropout that is on. Results of such a model are computed each time.
"""

import contextlib
import functools
import hashlib
import json
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from torch.nn.modules import module as torch_module
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from claw.files import digest

LABELS = set(
    "_name_or_path _model_name_or_path name_or_path transformers_version architectures dtype torch_dtype id2label label2id "
    "problem_type finetuning_task task_specific_params use_cache output_attentions output_hidden_states return_dict "
    "initializer_range".split()
)
"""Fields of a configuration that name or book and compute nothing; the number type is that of the weights."""
BOOKKEEPING = set(
    "config name_or_path generation_config kernel_config loss_type gradient_checkpointing all_tied_weights_keys hf_device_map "
    "warnings_issued forward _is_hf_initialized _hf_hook _old_forward _gradient_checkpointing_func".split()
)
"""Attributes of modules that compute nothing, or are looked at by themselves."""
BASE = set(vars(nn.Module()))
PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size)
LIBRARIES = tuple(str(Path(str(library.__file__)).parent) + "/" for library in (torch, transformers))
OURS = str(Path(__file__).parents[1]) + "/"
BY_LENGTH = ("dynamic", "longrope")  # rotary tables that are made anew for a longer text
TABLES = ("inv_freq", "max_seq_len_cached", "attention_scaling")
DECORATORS = (contextlib.__file__, functools.__file__)  # of Python itself
CAPTURING = "install_output_capuring_hook"  # of transformers, which leaves hooks that only look


@dataclass(frozen=True)
class Identity:
    """What a model computes: `name` is equal for equal computations only, unless there is an `obstacle` to saying so."""

    name: str  # 16 hex digits
    obstacle: str  # why nothing may be kept under the name; empty where it may


def identify(model: nn.Module) -> Identity:
    """The identity of a model as it is now, read from the tensors themselves: about 0.6 seconds per gigabyte."""
    bare = architecture(model)
    return Identity(digest(f"{bare.name} {weights_hash(model)}"), bare.obstacle)


def architecture(model: nn.Module) -> Identity:
    """The identity of a model but for its weights, which takes no time."""
    obstacle = next(_obstacles(model), "")
    parts = [torch.__version__, transformers.__version__, _config(model), obstacle]
    configured = getattr(model, "config", None)
    for name, module in model.named_modules():
        kind = type(module)
        parts.append(f"{name} {kind.__module__}.{kind.__qualname__} {_forward_code(kind.forward)}")
        if getattr(module, "config", configured) is not configured:
            parts.append(_config(module))
        parts += [f"{key}={_told(value)}" for key, value in sorted(_attributes(module))]
    return Identity(digest("\n".join(parts)), obstacle)


def weights_hash(model: nn.Module) -> str:
    """First 16 hex digits of a sha256 over names, shapes, types and bytes of all weights and buffers (tied ones once)."""
    hashed = hashlib.sha256()
    lasting = (pair for pair in model.named_buffers() if not _follows_text(model, pair[0]))
    for name, tensor in sorted([*model.named_parameters(), *lasting]):
        hashed.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        if tensor.device.type != "meta":  # nothing is there to read
            hashed.update(_bytes(tensor))
    return hashed.hexdigest()[:16]


def _follows_text(model: nn.Module, name: str) -> bool:
    """Whether a buffer is a rotary table that follows the length of the last text, as the configuration says."""
    owner, _, last = name.rpartition(".")
    return last.endswith(TABLES) and _rotates_by_length(model.get_submodule(owner))


def _rotates_by_length(module: nn.Module) -> bool:
    kinds: Any = getattr(module, "rope_type", None)
    return any(kind in BY_LENGTH for kind in (kinds.values() if isinstance(kinds, dict) else [kinds]))


def _bytes(tensor: torch.Tensor) -> Any:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


def _config(module: nn.Module) -> str:
    """The configuration of a model or part of one without its labels, and its kind of attention, as text."""
    config: Any = getattr(module, "config", None)
    if not hasattr(config, "to_dict"):
        return ""
    fields = _without_labels(config.to_dict())
    return json.dumps(
        [type(config).__qualname__, fields, getattr(config, "_attn_implementation", "")], sort_keys=True, default=str
    )


def _without_labels(fields: Any) -> Any:
    if isinstance(fields, dict):
        return {str(name): _without_labels(value) for name, value in fields.items() if name not in LABELS}
    return fields


def _attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """What a module was given beside weights and parts; of a whole model, its private plans for loading are left out."""
    whole = isinstance(module, transformers.PreTrainedModel)
    for name, value in vars(module).items():
        plan = whole and name.startswith("_") and not callable(value)
        table = name.endswith(TABLES) and _rotates_by_length(module)
        if not (plan or table or name in BASE or name in BOOKKEEPING):
            yield name, value


def _obstacles(model: nn.Module) -> Iterator[str]:
    """Everything about a model that its name cannot hold."""
    if any(hooks for name, hooks in vars(torch_module).items() if name.startswith("_global_") and name.endswith("_hooks")):
        yield "a hook on all modules"
    attention = ALL_ATTENTION_FUNCTIONS.get(getattr(getattr(model, "config", None), "_attn_implementation", None))
    if attention is not None and not _known(attention):
        yield "an attention function of one's own"
    for name, module in model.named_modules():
        place = name or "the model"
        hooks = {**module._forward_hooks, **module._forward_pre_hooks}
        if any(not (_known(hook) and CAPTURING in hook.__qualname__) for hook in hooks.values()):
            yield f"a hook on {place}"
        if hasattr(module, "parametrizations"):
            yield f"a parametrisation of {place}"
        if "forward" in vars(module) and not _of_accelerate(module):
            yield f"a forward pass put into {place}"
        if reason := _strange_class(type(module)):
            yield f"{place} is {reason}"
        if module.training and any("drop" in key and _positive(value) for key, value in (*_attributes(module), *_rate(module))):
            yield f"dropout in {place} in training mode"
        for key, value in _attributes(module):
            if not _tellable(value):
                yield f"the attribute {key} of {place}"
    if any(tensor.device.type == "meta" for tensor in (*model.parameters(), *model.buffers())):
        yield "weights that are not in memory"


def _rate(module: nn.Module) -> Iterator[tuple[str, Any]]:
    if isinstance(module, nn.modules.dropout._DropoutNd):
        yield "dropout", module.p


def _positive(value: Any) -> bool:
    return isinstance(value, float | int) and value > 0


def _of_accelerate(module: nn.Module) -> bool:
    """Whether accelerate alone stands before a module's forward pass: it moves tensors between devices and computes nothing."""
    function = getattr(vars(module)["forward"], "func", None)
    before = getattr(vars(module).get("_old_forward"), "__func__", None)
    return getattr(function, "__module__", "") == "accelerate.hooks" and before is type(module).forward


def _strange_class(kind: type) -> str:
    """What is not a library's own about a module's class; nothing where all of it is."""
    for cls in kind.__mro__[: kind.__mro__.index(nn.Module)]:
        for name, member in vars(cls).items():
            function = getattr(member, "__func__", member)  # of a static or class method
            if isinstance(function, types.FunctionType) and not _known(function):
                return f"of the class {kind.__qualname__}, whose {name} was written elsewhere"
            if name == "forward" and not isinstance(function, types.FunctionType):
                return f"of the class {kind.__qualname__}, whose forward is no function"
            used = _globals_used(function) if name == "forward" else ()
            if strange := [other for other, value in used if not _known(value)]:
                return f"of the class {kind.__qualname__}, whose forward uses another {strange[0]}"
    return ""


def _globals_used(function: Any) -> Iterator[tuple[str, Any]]:
    """Functions of its own module that a forward pass calls by name."""
    function = _unwrapped(function)[-1]
    for name in function.__code__.co_names:
        value = function.__globals__.get(name)
        if isinstance(value, types.FunctionType):
            yield name, value


def _unwrapped(function: Any) -> list[Any]:
    """A function and those that it wraps, from the outside."""
    layers = [function]
    while hasattr(layers[-1], "__wrapped__"):
        layers.append(layers[-1].__wrapped__)
    return layers


def _known(function: Any) -> bool:
    """Whether this function, with all that it wraps, was read from the files of torch, transformers or claw."""
    files = [getattr(getattr(layer, "__code__", None), "co_filename", "") for layer in _unwrapped(function)]
    return all(file.startswith((*LIBRARIES, OURS)) or file in DECORATORS for file in files)


@functools.lru_cache(maxsize=1024)
def _forward_code(function: Any) -> str:
    """Hash of what a forward pass was compiled to, through all that is wrapped around it."""
    return digest(repr([_code(layer.__code__) for layer in _unwrapped(function) if hasattr(layer, "__code__")]))


def _code(code: types.CodeType) -> tuple:
    constants = [_code(one) if isinstance(one, types.CodeType) else _told(one) for one in code.co_consts]
    return code.co_qualname, code.co_code.hex(), code.co_names, constants


def _tellable(value: Any) -> bool:
    """Whether the text of a value says all of it."""
    if isinstance(value, (*PLAIN, torch.Tensor, types.BuiltinFunctionType)):
        return True
    if isinstance(value, functools.partial):
        return all(map(_tellable, (value.func, value.args, value.keywords)))
    if isinstance(value, dict):
        return all(map(_tellable, (*value, *value.values())))
    if isinstance(value, list | tuple | set | frozenset):
        return all(map(_tellable, value))
    return isinstance(value, types.FunctionType | type) and _is_a_librarys(value)


def _is_a_librarys(value: Any) -> bool:
    return (
        _known(value) if isinstance(value, types.FunctionType) else value.__module__.split(".")[0] in ("torch", "transformers")
    )


def _told(value: Any) -> str:
    """A value as text, the same in every process."""
    if isinstance(value, torch.Tensor):
        return f"{tuple(value.shape)} {value.dtype} {digest(bytes(_bytes(value)))}"
    if isinstance(value, functools.partial):
        return f"{_told(value.func)}({_told(value.args)}, {_told(value.keywords)})"
    if isinstance(value, dict):
        return str(sorted((_told(key), _told(one)) for key, one in value.items()))
    if isinstance(value, set | frozenset):
        return str(sorted(map(_told, value)))
    if isinstance(value, list | tuple):
        return str(list(map(_told, value)))
    if isinstance(value, PLAIN):
        return repr(value)
    return f"{type(value).__qualname__} {getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"
