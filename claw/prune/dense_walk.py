"""The dense model on its way through calibration text, block by block: what a regression of a smaller model aims at.

Where several small models are fitted to the same text, as when costs are measured, the dense one need not go over it again: a
walk with a folder to `keep` it in writes what its blocks read and gave to files, and maps them back when it is taken anew, so
that they take memory only while there is some to spare. The files have no name once they are mapped and go with the walk, also
with a process that is killed.
"""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from claw.models.anatomy import Anatomy
from claw.models.arithmetic import arithmetic_of
from claw.models.blocks import Layer
from claw.prune.blockwise import first_inputs, run_block, token_batches
from claw.texts.token_blocks import Blocks

SPARE_BYTES = 2 << 30  # of the disk that are left free


@dataclass(frozen=True)
class Passage:
    """What a block did to a batch of text; all (B, T, n)."""

    read: tuple[torch.Tensor, ...]  # what the norms before its halves gave, once where both halves share a norm
    written: tuple[torch.Tensor, ...]  # what each half wrote before a norm of its own, where it has one
    middle: torch.Tensor  # the stream after its first half
    after: torch.Tensor  # the stream after it


class DenseWalk:
    """The dense model's way through one batch of ids (B, T); `stream` (B, T, d) is what its next block reads."""

    def __init__(self, parts: Anatomy, ids: torch.Tensor, keep: Path | None = None):
        self.parts, self.ids, self.folder = parts, ids, keep if ids.device.type == "cpu" else None
        self.first, self.arguments = first_inputs(parts, ids)
        self.stream = self.first
        self.known: dict[int, Passage] = {}

    def restart(self) -> None:
        """Go back to before the first block."""
        self.stream = self.first

    def pass_block(self, layer: Layer, *, watched: bool) -> Passage | None:
        """Go past a block; what it did where that is `watched`, else None."""
        passage = self.known.get(layer.index)
        if passage is None and not watched and self.folder is None:
            self.stream = run_block(layer, self.stream, self.arguments[layer.index])
            return None
        if passage is None:
            passage = self._watch(layer)
            if self.folder is not None and (kept := _mapped_passage(passage, self.folder)):
                passage = self.known[layer.index] = kept
        self.stream = passage.after
        return passage if watched else None

    def _watch(self, layer: Layer) -> Passage:
        read: list[torch.Tensor] = []
        written: list[torch.Tensor] = []
        wrote: list[torch.Tensor] = []
        middle: list[torch.Tensor] = []
        entering, shape = self.stream, self.stream.shape
        keep = lambda store: lambda module, args, output=None: store.append((args[0] if output is None else output).view(shape))
        handles = []
        for norm, entry in ((layer.input_norm, layer.attention_entry), (layer.mlp_norm, layer.mlp_entry)):
            add = entry.register_forward_pre_hook if norm is None else norm.register_forward_hook
            handles.append(add(keep(read)))
        handles.append(layer.mlp_entry.register_forward_pre_hook(keep(middle)))
        handles.append(layer.o.register_forward_hook(keep(wrote)))
        for norm in (layer.after_attention, layer.after_mlp):
            if norm is not None:
                handles.append(norm.register_forward_pre_hook(keep(written)))
        try:
            after = run_block(layer, entering, self.arguments[layer.index])
        finally:
            for handle in handles:
                handle.remove()
        between = entering + wrote[0] * arithmetic_of(self.parts).residual if layer.parallel else middle[0]
        return Passage(tuple(read), tuple(written), between, after)


def dense_walks(parts: Anatomy, blocks: Blocks, keep: Path | None = None) -> list[DenseWalk]:
    """A walk for each batch of the text; `keep`, a folder, where they are to be taken several times."""
    return [DenseWalk(parts, ids, keep) for ids in token_batches(parts, blocks.ids)]


def _mapped_passage(passage: Passage, folder: Path) -> Passage | None:
    """The same in files of `folder`; None if they do not fit there."""
    tensors = [*passage.read, *passage.written, passage.middle, passage.after]
    try:
        if shutil.disk_usage(folder).free < SPARE_BYTES + sum(tensor.nbytes for tensor in tensors):
            return None
        read, written = len(passage.read), len(passage.written)
        *kept, middle, after = (_mapped(tensor, folder) for tensor in tensors)
    except OSError:
        return None
    return Passage(tuple(kept[:read]), tuple(kept[read : read + written]), middle, after)


def _mapped(tensor: torch.Tensor, folder: Path) -> torch.Tensor:
    """The same tensor, read from a file without a name; its bytes are written first: a full disk is an OSError, not a crash."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix="walk-") as file:
        tensor.contiguous().view(-1).view(torch.uint8).numpy().tofile(file)
        file.flush()
        return torch.from_file(file.name, shared=False, size=tensor.numel(), dtype=tensor.dtype).view(tensor.shape)
