"""Put a compressed text tower back into the model of text and images that it was taken from, and prove that it reloads."""

import json
import shutil
from pathlib import Path
from typing import Any

from claw import files
from claw.errors import InputError
from claw.models import folders, load, pretrained, towers
from claw.models.undisturbed import leaves_as_before
from claw.progress import of_transformers
from claw.specs.on_disk import ABOUT, NOTES
from claw.stages import model_card, portable
from claw.stages.checkpoints import check_place, is_made

BESIDE = ("*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt")
"""Tokenizer, processors of images and templates, which stay as they are."""
WRITTEN = {"config.json", "generation_config.json", "model.safetensors.index.json", ABOUT}


@leaves_as_before
def put_back(tower: Any, whole: str | Path, folder: str | Path) -> Path:
    """Write the model of text and images `whole` with `tower` in place of its own text tower; the folder.

    `whole` is what `claw.load` took the tower from (a folder or a hub id), `tower` what became of it by cuts that keep its
    hidden width; `folder` is new, empty, or one that claw wrote. Tokenizer and processors are copied. InputError, with `folder`
    as it was, unless stock transformers reloads it and gives the tower's logits on text.
    """
    origin = load.resolve(whole)
    checkpoint = folders.check_folder(origin)
    if not towers.is_composite(checkpoint.config):
        raise InputError(f"{whole} is no model of text and images, so it has no text tower to replace. Use claw.save.")
    place = check_place(folder, str(origin), str(whole))
    dense = pretrained.checkpoint_in(origin, checkpoint.tensors, checkpoint.config, images=True, dtype=tower.dtype).eval()
    made = towers.with_tower(dense, tower)
    try:
        with files.whole(place, instead_of=is_made) as scratch:
            with of_transformers():
                made.save_pretrained(scratch)
            for path in sorted({path for pattern in BESIDE for path in origin.glob(pattern)}):
                if path.name not in WRITTEN and path.is_file():
                    shutil.copyfile(path, scratch / path.name)
            portable.respell(scratch)
            again = pretrained.stock_reload(scratch, images=True, dtype=tower.dtype)
            towers.check_same_on_text(tower, again.to(tower.device).eval(), folder)
            hub_id = model_card.origin_of(str(whole)).hub_id
            about = {"schema": NOTES, "id": None, "base_model": hub_id, "experiment": None, "report": None}
            (scratch / ABOUT).write_text(json.dumps(about | {"files": files.manifest(scratch)}, indent=1), encoding="utf-8")
    except OSError as error:
        raise InputError(f"The model could not be written to {folder}: {error}.") from error
    return Path(folder)
