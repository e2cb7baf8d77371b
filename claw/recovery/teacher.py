"""What a student learns from: the dense model itself, or its most probable next tokens, computed once and kept on disk.

Notable choices:
- What is kept is named by what it follows from: the teacher's identity, k, and the token ids of a few blocks. So methods,
  ratios, budgets, recipes and runs that train on the same blocks share one pass of the teacher, and no other text or tokenizer
  is ever looked up by mistake; a file that says otherwise of itself is refused.
- Of each position the k most probable tokens are kept, with log-probabilities in float16, and that of all others as one. With
  ids in 16 bits that is 4 bytes per token and k, 256 MB for a million tokens at k = 64.
- A part is written as soon as it is computed and is read where it lies, so memory does not grow with the text.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from claw.engine.head_loss import Head, head_of
from claw.engine.training import Forward
from claw.errors import InputError
from claw.files import digest
from claw.files.seals import made_once
from claw.models.arithmetic import readout_of
from claw.models.identity import identify
from claw.models.undisturbed import undisturbed
from claw.progress import tqdm
from claw.project import cache
from claw.recovery import objective
from claw.texts.token_blocks import Blocks

PART = 32768  # tokens of a file
PASS = {"cpu": 4096, "cuda": 16384}  # tokens in one forward pass
VERSION = 1  # of what is kept; part of its name


class Teacher:
    """A model that is learned from. `vocabulary` is the number of tokens that it tells apart."""

    def __init__(self, model: Any):
        self.model, self.forward = model, Forward(model)
        self.scale = readout_of(model).scale
        self.vocabulary = model.config.get_text_config().vocab_size

    @property
    def head(self) -> Head:
        return head_of(self.model)

    @torch.no_grad()
    def hidden(self, ids: Tensor, inputs: list[Tensor] | None = None) -> Tensor:
        """Hidden states (B, T - 1, d) that predict the tokens of blocks (B, T), scaled as the head reads them."""
        with undisturbed(self.model):
            return self.forward(ids, inputs)[:, :-1] * self.scale

    @torch.no_grad()
    def top(self, ids: Tensor, k: int) -> objective.Top:
        """The k most probable tokens at each place of blocks (B, T), (B·(T - 1), k)."""
        return objective.Top.of(*objective.top_of(self.hidden(ids).flatten(0, 1), self.head, k))


class Remembered:
    """The most probable tokens of a teacher for some blocks, read from disk. Give it as `teacher` in the teacher's place."""

    def __init__(self, paths: list[Path], blocks: Blocks, *, k: int, vocabulary: int, size: int):
        self.k, self.vocabulary = k, vocabulary
        self.places = {_named(ids): divmod(number, size) for number, ids in enumerate(blocks.ids)}
        self.paths = paths
        self.files: dict[int, Any] = {}

    def check(self, blocks: Blocks, k: int | None, vocabulary: int) -> None:
        """InputError unless this is of these blocks, by tokens, and of so many tokens at each place."""
        if vocabulary != self.vocabulary:
            raise InputError(
                f"The teacher's kept probabilities are over {self.vocabulary:,} tokens, but the student has {vocabulary:,}: "
                "they are of another tokenizer. Remember the dense model that this one was made from."
            )
        if missing := sum(_named(ids) not in self.places for ids in blocks.ids):
            raise InputError(
                f"The teacher's kept probabilities are of another text or tokenizer: {missing:,} of {len(blocks):,} blocks are "
                "not among them. Remember the teacher on the blocks that you train on: teacher.remember(dense, blocks, k)."
            )
        if k != self.k:
            raise InputError(
                f"The teacher's {self.k} most probable tokens were kept, but the recipe asks for top_k = {k}. Ask for the same."
            )

    def top(self, ids: Tensor, k: int) -> objective.Top:
        """As of the teacher itself."""
        pieces = [self._row(*self.places[_named(row)]) for row in ids.cpu()]
        tokens, logarithms = (torch.cat(parts) for parts in zip(*pieces, strict=True))
        tokens, logarithms = tokens.int().to(ids.device), logarithms.to(ids.device)  # not every device knows 16 bits unsigned
        return objective.Top.of(tokens, logarithms)

    def _row(self, part: int, row: int) -> tuple[Tensor, Tensor]:
        if part not in self.files:
            while len(self.files) >= 64:  # open at one time
                self.files.pop(next(iter(self.files)))
            self.files[part] = safe_open(self.paths[part], "pt").__enter__()
        return tuple(self.files[part].get_slice(name)[row] for name in ("ids", "logarithms"))


def remember(model: nn.Module, blocks: Blocks, k: int) -> Remembered:
    """The k most probable next tokens of `model` for these blocks, each part computed unless the cache has it.

    InputError where there is too little disk, the cache cannot be written, it holds a file that is of something else, or the
    model cannot be told apart from others (`claw.models.identity`).
    """
    teacher, whose = Teacher(model), identify(model)
    if whose.obstacle:
        raise InputError(
            f"What this teacher says cannot be kept, as no name can hold {whose.obstacle}. Give the model as it was loaded."
        )
    k = min(k, teacher.vocabulary)
    device, name = next(model.parameters()).device, whose.name
    size = max(1, PART // blocks.length)
    folder = cache() / "teachers" / name
    paths = []
    parts = blocks.ids.split(size)
    places = [folder / f"{digest(f'{VERSION} {k} {blocks.length}', ids.numpy().tobytes())}.safetensors" for ids in parts]
    _check_space(folder, [ids for ids, place in zip(parts, places, strict=True) if not place.exists()], k, teacher.vocabulary)
    rows = max(1, PASS.get(device.type, 4096) // blocks.length)
    with tqdm(total=len(blocks), desc="teacher", unit=" blocks", disable=None, leave=False) as bar:
        for ids, place in zip(parts, places, strict=True):
            about = {"version": VERSION, "teacher": name, "k": k, "text": digest(ids.numpy().tobytes())}

            def make(scratch: Path, ids: Tensor = ids, about: dict = about) -> None:
                save_file(_computed(teacher, ids, k, rows, device), scratch, metadata={"about": json.dumps(about)})

            paths.append(made_once(place, make))
            _check_file(place, about)
            bar.update(len(ids))
    return Remembered(paths, blocks, k=k, vocabulary=teacher.vocabulary, size=size)


def _computed(teacher: Teacher, ids: Tensor, k: int, rows: int, device: torch.device) -> dict[str, Tensor]:
    """The tensors of one file: ids (B, T - 1, k) and log-probabilities (B, T - 1, k + 1)."""
    narrow = torch.uint16 if teacher.vocabulary <= 1 << 16 else torch.int32
    pieces: list[tuple[Tensor, Tensor]] = []
    for part in ids.split(rows):
        with torch.no_grad():
            tokens, logarithms = objective.top_of(teacher.hidden(part.to(device)).flatten(0, 1), teacher.head, k)
        pieces.append((tokens.cpu().to(narrow), logarithms.cpu()))
    tokens, logarithms = (torch.cat(tensors).unflatten(0, (len(ids), -1)) for tensors in zip(*pieces, strict=True))
    return {"ids": tokens, "logarithms": logarithms}


def _named(ids: Tensor) -> bytes:
    return ids.contiguous().numpy().tobytes()


def _check_file(path: Path, about: dict[str, Any]) -> None:
    """InputError unless a file says of itself that it is of this teacher, these tokens and this k."""
    try:
        with safe_open(path, "pt") as file:
            said = json.loads((file.metadata() or {}).get("about", "{}"))
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(f"{path} in the cache cannot be read: {error}. Delete it; it is made again.") from error
    if different := [name for name in about if said.get(name) != about[name]]:
        raise InputError(
            f"{path} in the cache holds a teacher's probabilities of something else than its name says (other "
            f"{', '.join(different)}): of another text, tokenizer or teacher. Delete it; it is made again."
        )


def _check_space(folder: Path, missing: list[Tensor], k: int, vocabulary: int) -> None:
    need = sum(ids.numel() for ids in missing) * k * (4 if vocabulary <= 1 << 16 else 6)
    place: Iterator[Path] = (parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(next(place)).free
    if need > 0.95 * free:
        raise InputError(
            f"Keeping the teacher's {k} most probable tokens needs {need / 1e9:,.2f} GB in the cache {folder}, where "
            f"{free / 1e9:,.2f} GB are free. Free some space, set CLAW_CACHE to another disk, or ask for a smaller top_k."
        )
