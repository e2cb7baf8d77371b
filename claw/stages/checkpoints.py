"""Save a compressed model as a plain checkpoint that stock transformers reloads with equal logits, and prove it.

A checkpoint is what `save_pretrained` writes, in words that transformers 4 knows too (`claw.stages.portable`), with the
tokenizer, a model card (`README.md`) and `claw.json`: the experiment's spec, the report, and the digest of every file. It is
written beside its final name and renamed, so a folder that is there is whole.

claw writes into a new or an empty folder, or over a checkpoint of its own that holds just the files that `claw.json` names, as
they were written; and it deletes no other (`discard_checkpoint`). No path of this machine is in a checkpoint: where a spec
names a folder or file, `claw.json` has its last part, and the records of the run have the whole (`claw.specs.on_disk`).
"""

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from claw import files
from claw.errors import InputError
from claw.models.pretrained import stock_reload
from claw.models.tokenizer_files import shared_tokenizer
from claw.models.undisturbed import leaves_as_before, undisturbed
from claw.progress import of_transformers
from claw.project import inside_project
from claw.prune.compress import CompressionReport
from claw.prune.slicegpt import is_plain
from claw.specs import on_disk
from claw.specs.experiment import Experiment
from claw.specs.mixture import mix_shares, mix_text
from claw.specs.on_disk import ABOUT, NOTES, checkpoint_note
from claw.stages import model_card, portable, share


def checkpoint_folder(folder: Path, experiment: Experiment) -> Path:
    """Where an experiment's checkpoint is in the folder of a run."""
    return folder / "checkpoints" / experiment.id


@leaves_as_before
def save(
    model: Any,
    tokenizer,
    folder: str | Path,
    report: CompressionReport | None = None,
    *,
    experiment: Experiment | None = None,
    base_model: str | None = None,
    push_to_hub: str | None = None,
) -> Path:
    """Write the checkpoint to `folder` and check that it reloads with equal logits; the folder.

    `push_to_hub` names a repository (OWNER/NAME) that gets all of it too, private unless it is there (`claw.stages.share`).

    `folder` is new, empty, or a checkpoint of claw that nobody touched since, which is replaced. InputError before anything is
    written: any other folder, a link, a file, the current folder, the folder that the model came from, a full disk. InputError
    when the reloaded model differs or the disk refuses; then `folder` is as it was before.
    """
    place = check_place(folder, model.config._name_or_path, base_model)
    if push_to_hub is not None:
        share.check_push(push_to_hub)
    if not is_plain(model):
        raise InputError(
            "This model has shortcut matrices that no stock architecture can hold, so it cannot be saved as a plain "
            "checkpoint. It can be measured in memory; for a checkpoint use slicegpt, the plain form."
        )
    origin = model_card.origin_of(base_model, model.config._name_or_path)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        need = sum(p.numel() * p.element_size() for p in model.parameters())
        free = shutil.disk_usage(place.parent).free
        if need > 0.98 * free:
            raise InputError(
                f"The checkpoint needs {need / 1e6:,.1f} MB but only {free / 1e6:,.1f} MB are free in {place.parent}. Free "
                "some space or choose another run folder; what was measured so far is kept."
            )
        with files.whole(place, instead_of=is_made) as scratch:
            with of_transformers():
                model.save_pretrained(scratch)
            tokenizer.save_pretrained(scratch)
            portable.respell(scratch)
            (scratch / "README.md").write_text(model_card.card(model, report, origin), encoding="utf-8")
            check_reload(model, scratch)
            check_tokens(tokenizer, scratch)
            about: dict[str, Any] = {"schema": NOTES, "id": experiment and experiment.id, "base_model": origin.hub_id}
            about |= {"experiment": experiment and _portable_spec(experiment), "report": report and report.to_dict()}
            about |= {"files": files.manifest(scratch)}
            (scratch / ABOUT).write_text(json.dumps(about, indent=1))
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"The checkpoint could not be written to {folder}: {error}. What was measured so far is kept."
        ) from error
    if push_to_hub is not None:
        share.push(place, push_to_hub)
    return Path(folder)


def amend_card(folder: Path, text: str) -> None:
    """Add what was measured to the model card of a checkpoint, which stays one that claw made; others are left alone."""
    place = Path(folder).absolute()
    if not is_made(place) or not (place / ABOUT).is_file():
        return
    card, about = place / "README.md", checkpoint_note(place)
    files.write_text(card, f"{card.read_text(encoding='utf-8').rstrip()}\n\n{text}")
    about["files"] |= {"README.md": files.sha256(card)}
    files.write_text(place / ABOUT, json.dumps(about, indent=1))


def check_place(folder: str | Path, *origins: str | None) -> Path:
    """The absolute folder, or InputError where no checkpoint of a model from `origins` may be written. Nothing is changed."""
    place = Path(folder).expanduser().absolute()
    try:
        files.refuse_link(place)
        with suppress(FileNotFoundError):
            place.stat()  # refuses a name that no file can have
        if not place.exists():
            return place
        inside = sorted(path.name for path in place.iterdir()) if place.is_dir() else None
    except (OSError, ValueError) as error:
        raise InputError(f"No checkpoint can be written to {str(folder)[:200]!r}: {error}. Name another folder.") from error
    if inside is None:
        raise InputError(f"{folder} is a file. Name a folder for the checkpoint; it is made if it does not exist.")
    if Path.cwd().is_relative_to(place.resolve()):
        raise InputError(f"{folder} is, or holds, the current folder. Name a new folder inside it, such as {place / 'small'}.")
    for origin in filter(None, origins):
        if _is_same(place, origin):
            raise InputError(f"The model came from {folder}, and claw does not overwrite it. Name a new folder.")
    if inside and not is_made(place):
        made = "was changed since claw wrote it" if ABOUT in inside else "was not made by claw"
        raise InputError(
            f"{folder} holds files already ({', '.join(inside[:3])}{', …' if len(inside) > 3 else ''}) and {made}. It replaces "
            "only checkpoints of its own that nobody touched: name a new folder, or move this one away first."
        )
    return place


def _is_same(place: Path, origin: str) -> bool:
    with suppress(OSError, ValueError):  # the origin is a name, no folder
        return place.samefile(Path(origin).expanduser())
    return False


def is_made(folder: Path) -> bool:
    """Whether a folder is a checkpoint of claw with just the files that were written, unchanged; an empty folder is, too."""
    if folder.is_dir() and not any(folder.iterdir()):
        return True
    return files.is_untouched(folder, _written(folder), ABOUT)


def discard_checkpoint(folder: Path, name: str) -> bool:
    """Delete the checkpoint `folder` of the experiment with the id `name`, if claw made it and nobody touched it since.

    Whether it was deleted. Nothing is deleted through a link.
    """
    with suppress(InputError):
        return checkpoint_note(folder).get("id") == name and files.discard_folder(folder, _written(folder), ABOUT)
    return False


def _written(folder: Path) -> dict[str, str]:
    """The files of a checkpoint with their digests, as `claw.json` names them; none where it does not."""
    with suppress(InputError):
        named = checkpoint_note(folder).get("files")
        if isinstance(named, dict) and all(isinstance(digest, str) for digest in named.values()):
            return named
    return {}


@torch.no_grad()
def check_reload(model: Any, folder: Path) -> None:
    """Raise InputError unless stock transformers loads `folder` and gives the same logits as `model`, bit by bit."""
    again = stock_reload(folder, dtype=model.dtype, attn_implementation=model.config._attn_implementation)
    again = again.to(next(model.parameters()).device).eval()
    ids = torch.arange(1, 17, device=again.device).view(2, 8) % model.config.get_text_config().vocab_size
    with undisturbed(model):
        mine, theirs = model(ids, use_cache=False).logits, again(ids, use_cache=False).logits
    if not torch.equal(mine.nan_to_num(), theirs.nan_to_num()):
        difference = (mine.float() - theirs.float()).abs().max().item()
        raise InputError(
            f"The saved checkpoint does not reload as the model in memory: logits differ by up to {difference:.3g}. It was "
            "deleted. Please report the model and method: this is a defect of claw."
        )


def check_tokens(tokenizer: Any, folder: Path) -> None:
    """Raise InputError unless the tokenizer saved in `folder` gives the same ids as `tokenizer`."""
    again = shared_tokenizer(folder)
    text = " ".join(["The naïve 123,456 cats\n\tsat… on it.", *tokenizer.all_special_tokens])
    if again(text)["input_ids"] != tokenizer(text)["input_ids"]:
        raise InputError("The saved tokenizer gives other tokens than the one in memory. Save it with the fast tokenizer.")


def experiment_of(checkpoint: str) -> Experiment:
    """The experiment that a checkpoint folder holds; a model's own name or folder stands for the dense model."""
    return on_disk.checkpoint_experiment(inside_project(checkpoint)) or Experiment.of_dense(checkpoint)


def _portable_spec(experiment: Experiment) -> dict[str, Any]:
    """The spec with the last part of every path in place of the path."""
    spec = experiment.model_dump(mode="json")
    compression = spec["compression"]
    compression["model"] = model_card.bare_name(compression["model"])
    for part in (compression.get("calibration"), spec.get("recovery")):
        if part:
            shares: dict[str, float] = {}
            for name, share in mix_shares(part["corpus"]).items():  # files of one name in two folders are told as one
                shares[Path(name).name or name] = shares.get(Path(name).name or name, 0) + share
            part["corpus"] = mix_text(shares)
    return spec
