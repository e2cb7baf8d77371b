"""Every causal architecture of transformers, tiny: equal to stock by whichever forward, or refused with a reason; nothing else.

The large version, with more configurations and a table, is benchmarks/families.py.
"""

import numpy as np
import pytest
import torch
from scripts import ROOT, script
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

RIGHT = {"fast", "stock", "equal", "refused", "no statistics"}
TAKEN_APART = (
    "arcee cohere cohere2 cwm ernie4_5 exaone4 gemma gemma2 gemma3_text glm glm4 gpt2 gpt_neox granite helium hunyuan_v1_dense "
    "hyperclovax internlm3 iquestcoder llama ministral ministral3 mistral nemotron olmo olmo2 olmo3 opt phi phi3 qwen2 qwen3 "
    "seed_oss smollm3 stablelm starcoder2 vaultgemma"
).split()
TRAINED = ("llama", "mistral", "qwen2", "qwen3", "gemma3_text")
SLOW = {"falcon_h1", "gemma4", "nemotron_h", "prophetnet", "qwen3_5_text", "qwen3_5_moe_text", "qwen3_next", "qwen4_exp_text"}


@pytest.fixture(scope="module")
def families():
    module = script("benchmarks/families.py")
    module.quiet()
    return module


@pytest.mark.parametrize("family", [name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if name not in SLOW | {*TAKEN_APART}])
@pytest.mark.filterwarnings("ignore")
def test_the_number_of_every_architecture_is_the_stock_one(families, family, own_cache):
    for _, model in families.drawn_models(family, draws=1):
        results = families.outcomes(model, ["magnitude"])
        assert {what for what, _ in results.values()} <= RIGHT, results


@pytest.mark.parametrize("family", TAKEN_APART)
@pytest.mark.filterwarnings("ignore")
def test_numbers_and_methods_over_drawn_configurations(families, family, own_cache):
    """The default configuration of documented families is tried below."""
    tried = 0
    for changes, model in list(families.drawn_models(family, draws=2))[family in families.KNOWN :]:
        results = families.outcomes(model, list(families.METHODS))
        assert {what for what, _ in results.values()} <= RIGHT, (changes, results)
        tried += 1
    assert tried


@pytest.mark.parametrize("family", TRAINED)
@pytest.mark.filterwarnings("ignore")
def test_recoverys_own_forward_is_taken_where_it_is_known(families, family):
    _, plain = next(families.drawn_models(family, draws=1))
    assert families.recovery(plain)[0] == "fast"


ROWS = [row for row in (ROOT / "docs" / "families.md").read_text(encoding="utf-8").splitlines() if row.count("| ") == 9]
DOCUMENTED = [row.split("|")[2].strip().strip("`") for row in ROWS[1:]]  # the first names the columns


def test_the_documented_families_are_those_of_the_benchmark(families):
    assert list(families.KNOWN) == DOCUMENTED


@pytest.mark.parametrize("family", DOCUMENTED)
@pytest.mark.filterwarnings("ignore")
def test_what_is_documented_of_a_family_is_so(families, family, own_cache):
    """Rows are made by python benchmarks/families.py --table."""
    assert families.table_row(family) in ROWS


@pytest.mark.parametrize("family", DOCUMENTED)
@pytest.mark.filterwarnings("ignore")
def test_half_precision_is_as_near_to_float32_as_the_stock_forward(families, family):
    """Some architectures turn heads or normalise in float32 whatever their weights are."""
    _, model = next(families.drawn_models(family, 1))
    wanted = families.stock_logits(model, families.sequences())
    half = model.to(torch.bfloat16)
    stock = families.stock_logits(half, families.sequences())
    losses = lambda logits: np.array([families.loss_of(*pair) for pair in zip(logits, families.sequences(), strict=True)])
    spread = np.abs(losses(stock) - losses(wanted)).max()
    assert np.abs(families.losses(half) - losses(wanted)).max() < 3 * spread + 2e-3
