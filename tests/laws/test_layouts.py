"""More layouts of published tables: sections, sizes in a column, metrics in rows, a dense column, ratios as headings."""

import pandas as pd
import pytest

from claw import laws
from claw.errors import InputError


def read(tmp_path, text: str, **said) -> list[tuple]:
    """Model, method, ratio and perplexity to two digits of each row, sorted."""
    path = tmp_path / "t.csv"
    path.write_text(text.replace(" | ", ","), encoding="utf-8")
    table = laws.read(path, **said).table
    cells = zip(table["model"], table["method"], table["ratio"], table["token_perplexity"], strict=True)
    return sorted((model, method, round(r, 6), round(value, 2)) for model, method, r, value in cells)


@pytest.mark.parametrize(
    ("text", "said", "rows"),
    [
        (
            "Pruning Ratio | Method | WikiText2 | PTB | BoolQ | PIQA | Average\n"
            "Ratio = 0% | LLaMA-7B | 12.62 | 22 | 73 | 78 | 75\n"
            "Ratio = 20% | LLM-Pruner | 19.09 | 34 | 57 | 75 | 66\nRatio = 50% | LLM-Pruner | 48 | 80 | 52 | 66 | 59\n",
            {"loss": "WikiText2"},
            [("LLaMA-7B", "LLM-Pruner", 0.2, 19.09), ("LLaMA-7B", "LLM-Pruner", 0.5, 48), ("LLaMA-7B", "dense", 0, 12.62)],
        ),
        (
            "Model | Size | Method | Sparsity | PPL\nLLaMA | 7B | Dense | 0 | 5.68\nLLaMA | 7B | Wanda | 50% | 7.26\n"
            "LLaMA | 13B | Dense | 0 | 5.09\nLLaMA | 13B | Wanda | 50% | 6.15\n",
            {},
            [
                ("LLaMA-13B", "Wanda", 0.5, 6.15),
                ("LLaMA-13B", "dense", 0, 5.09),
                ("LLaMA-7B", "Wanda", 0.5, 7.26),
                ("LLaMA-7B", "dense", 0, 5.68),
            ],
        ),
        (
            "Model | Sparsity | Dense | Wanda\nLLaMA-7B | 0.1 | 7.68 | 7.7\nLLaMA-7B | 0.3 | 7.68 | 8\n",
            {},
            [("LLaMA-7B", "Wanda", 0.1, 7.7), ("LLaMA-7B", "Wanda", 0.3, 8), ("LLaMA-7B", "dense", 0, 7.68)],
        ),
        (
            "model | method | ratio | dataset | metric | value\nm | dense | 0 | wikitext2 | perplexity | 5.68\n"
            "m | dense | 0 | piqa | accuracy | 0.77\nm | a | 0.2 | wikitext2 | perplexity | 7\n"
            "m | a | 0.2 | piqa | accuracy | 0.7\n",
            {},
            [("m", "a", 0.2, 7), ("m", "dense", 0, 5.68)],
        ),
        (
            "model | method | ppl\nLLaMA-7B (dense) | SliceGPT | 5.68\nLLaMA-7B (pruned 20%) | SliceGPT | 6\n",
            {},
            [("LLaMA-7B", "SliceGPT", 0, 5.68), ("LLaMA-7B", "SliceGPT", 0.2, 6)],
        ),
        (
            "Method | 0% | 10% | 20%\nWanda | 12.6 | 13.1 | 15.2\n",
            {"model": "m"},
            [("m", "Wanda", 0, 12.6), ("m", "Wanda", 0.1, 13.1), ("m", "Wanda", 0.2, 15.2)],
        ),
        (
            "# | Model | Technique | Compression | Perplexity\n1 | Llama-2-7B | w/o pruning | 0 | 5.47\n"
            "2 | Llama-2-7B | A | 25 | 7.24\n"
            "4 | Llama-2-13B | Llama-2-13B-dense | - | 4.88\n5 | Llama-2-13B | A | 25 | **6.3** ± 0.1\n",
            {},
            [
                ("Llama-2-13B", "A", 0.25, 6.3),
                ("Llama-2-13B", "dense", 0, 4.88),
                ("Llama-2-7B", "A", 0.25, 7.24),
                ("Llama-2-7B", "dense", 0, 5.47),
            ],
        ),
    ],
)
def test_a_layout_is_read(tmp_path, text, said, rows):
    assert read(tmp_path, text, **said) == sorted(rows)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Model | Method | Ratio | Tuned | PPL\nm | none | 0 | no | 5\nm | a | 0.2 | no | 7\nm | a | 0.2 | yes | 6\n", "Tuned"),
        ("Model | Method | Ratio | Data | PPL\nm | none | 0 | c4 | 5\nm | none | 0 | ptb | 7\nm | a | 0.2 | c4 | 6\n", "Data"),
        ("Method | Ratio | PPL\ndense | 0 | 5\na | 0.2 | 6\na | 0.2 | 7\n", 'model="…"'),
        ("Model | Ratio | PPL\nm | 0 | 5\nm | 0.2 | 6\nm | 0.2 | 7\n", 'method="…"'),
        ("Model | Method | PPL\nm | a | 5\nm | b | 6\n", "ratio=0.5"),
        ("Model | Method | Ratio | FooBench | BarBench\nm | a | 0.1 | 5 | 6\n", "accuracy="),
        ("Model | A | B\nm-1B | 3.2 | 3.1\nm-2B | 2.9 | 3.3\n", 'values="perplexity"'),
    ],
)
def test_a_layout_that_could_be_two_things_is_asked_about(tmp_path, text, says):
    with pytest.raises(InputError, match=says):
        read(tmp_path, text)


@pytest.mark.parametrize("name", ["model-0", "run 1", "gpt-2", "phi-2", "opt-0"])
def test_a_whole_number_at_the_end_of_a_name_is_part_of_it(name):
    rows = {
        "model": name,
        "method": ["dense", "flap", "flap", "flap"],
        "ratio": [0, 0.1, 0.2, 0.4],
        "loss": [2.0, 2.1, 2.3, 2.9],
    }
    table = laws.read(pd.DataFrame(rows))
    assert set(table.table["model"]) == {name} and not table.guesses
