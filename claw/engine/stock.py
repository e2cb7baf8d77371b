"""A model's own forward on sequences of one length, and what must be true of it for log-likelihoods to mean anything."""

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from claw.engine.decoder import Packed
from claw.errors import InputError
from claw.models.arithmetic import error_line, once
from claw.models.few_layers import few_layers

LENGTH = 6  # tokens of the trial
SEEN = {torch.float32: (1e-4, 1e-3), torch.float64: (1e-4, 1e-3)}
"""Relative differences of logits that only tokens that follow can make: by another last token, and by none in its place, where
another length rounds otherwise."""
SEEN_HALF = (0.02, 0.1)  # in half precision

_TRIALS: WeakKeyDictionary[nn.Module, tuple[tuple, str]] = WeakKeyDictionary()


class StockForward:
    """Logits of a model's own forward, every sequence computed as if it came alone and first."""

    def __init__(self, model: Any):
        self.model = model
        if why := once(_TRIALS, model, lambda: _why_not_causal(model)):
            raise InputError(
                f"{type(model).__name__} cannot be scored: {why}. Accepted are causal language models that give logits for "
                "plain token ids, without images, sounds or an encoder's output."
            )

    def logits(self, packed: Packed, places: Tensor) -> Tensor:
        """Logits (K, V) at these places of sequences of one length, (N,) packed."""
        (rows,) = packed.groups
        tokens = packed.tokens.view(rows.end.shape)
        self._forget()
        try:
            logits = self.model(input_ids=tokens, use_cache=False).logits
        except (IndexError, ValueError, TypeError, AssertionError) as error:
            raise InputError(
                f"{type(self.model).__name__} does not compute sequences of {tokens.shape[1]} tokens ({error}). Use a context "
                f"within its limits{self._limit()}."
            ) from error
        return logits.flatten(0, 1)[places]

    def _forget(self) -> None:
        """Have rotary tables that grow with the longest sequence so far start again, which a short sequence does."""
        for module in self.model.modules():
            if getattr(module, "max_seq_len_cached", None) is not None and hasattr(module, "original_max_seq_len"):
                self.model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=self._device()), use_cache=False)
                return

    def _limit(self) -> str:
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return f" (max_position_embeddings: {limit})" if limit else ""

    def _device(self) -> torch.device:
        return next(self.model.parameters()).device


@torch.inference_mode()
def _why_not_causal(model: Any) -> str:
    """Why log-likelihoods of this model mean nothing; empty if a short pass shows nothing."""
    device = next(model.parameters()).device
    vocabulary = getattr(model.config.get_text_config(), "vocab_size", None) or 2
    tokens = torch.randint(vocabulary, (1, LENGTH), generator=torch.Generator().manual_seed(0)).to(device)
    changed = tokens.clone()
    changed[0, -1] = (tokens[0, -1] + 1) % vocabulary
    try:
        first, second, shorter = (model(input_ids=ids, use_cache=False).logits for ids in (tokens, changed, tokens[:, :-1]))
    except Exception as error:  # any architecture, each with errors of its own
        return f"its forward fails on plain token ids ({error_line(error)})"
    if first.shape[:2] != tokens.shape:
        return f"it gives logits of shape {tuple(first.shape)} for {LENGTH} tokens"
    if model.training or not first.isfinite().all():
        return ""
    limits = SEEN.get(next(model.parameters()).dtype, SEEN_HALF)
    before, *others = (logits[0, : LENGTH - 1].double() for logits in (first, second, shorter))
    size = (before - before.mean()).norm()
    seen = any((other - before).norm() > limit * size for other, limit in zip(others, limits, strict=True))
    if seen and limits is SEEN_HALF and hasattr(getattr(model, "model", None), "layers"):
        return _why_not_causal(few_layers(model))  # heavily compressed models round that much: look again in float32
    if seen:
        return "its prediction of a token depends on the tokens that follow (is it meant to be a decoder? see is_decoder)"
    return ""
