"""The text tower of a model of text and images: taken out, compressed, put back; stock transformers reloads it."""

import json

import pytest
import torch
import transformers as tf
from conftest import byte_tokenizer

import claw
from claw.errors import InputError
from claw.models import load

TEXT = dict(vocab_size=259, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4)
TEXT |= dict(num_key_value_heads=2, max_position_embeddings=128, bos_token_id=1, eos_token_id=2, pad_token_id=0)
EYES = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
THREE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
KINDS = {
    "gemma3": lambda: tf.Gemma3Config(
        text_config=TEXT | {"head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8}, vision_config=EYES,
        mm_tokens_per_image=4, image_token_id=258,
    ),
    "llava": lambda: tf.LlavaConfig(
        text_config=tf.LlamaConfig(**TEXT), vision_config=tf.CLIPVisionConfig(**EYES), image_token_index=258
    ),
    "mistral3": lambda: tf.Mistral3Config(
        text_config=tf.MistralConfig(**TEXT, head_dim=8), vision_config=tf.PixtralVisionConfig(**EYES), image_token_index=258
    ),
    "qwen2_5_vl": lambda: tf.Qwen2_5_VLConfig(
        text_config=TEXT | {"rope_parameters": THREE}, vision_config=dict(
            depth=1, hidden_size=16, intermediate_size=32, num_heads=2, out_hidden_size=32, patch_size=14,
            fullatt_block_indexes=[0],
        ),
    ),
}  # fmt: skip


@pytest.fixture(params=KINDS)
def whole(request, tmp_path):
    """Folder of a small random model of text and images, with weights large enough that everything in it shows."""
    torch.manual_seed(0)
    model = tf.AutoModelForImageTextToText.from_config(KINDS[request.param]()).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(0.3 * torch.randn_like(parameter)) if "norm" in name else parameter.mul_(3)
    model.save_pretrained(tmp_path / "whole")
    byte_tokenizer().save_pretrained(tmp_path / "whole")
    (tmp_path / "whole" / "preprocessor_config.json").write_text(json.dumps({"size": 28}))
    return tmp_path / "whole"


def logits(model):
    with torch.no_grad():
        return model(input_ids=torch.arange(20, 52)[None], use_cache=False).logits


@pytest.mark.parametrize(("method", "ratio"), [("magnitude", 0.25), ("shortgpt", 0.34)])
def test_a_tower_is_taken_cut_put_back_and_stock_transformers_reloads_it(whole, tmp_path, train_text, method, ratio):
    load.check_name(whole)
    with pytest.warns(UserWarning, match="its text tower is taken"):
        tower, tokenizer = claw.load(whole, dtype="float32")
    dense = tf.AutoModelForImageTextToText.from_pretrained(whole, dtype=torch.float32).eval()
    torch.testing.assert_close(logits(tower), logits(dense))
    text = claw.calibrate(tower, claw.blocks(tokenizer, train_text, length=32, count=4))
    small, _ = claw.compress(tower, method, ratio, statistics=text)
    made = claw.put_back(small, whole, tmp_path / "small")
    again = tf.AutoModelForImageTextToText.from_pretrained(made, dtype=torch.float32).eval()
    assert type(again) is type(dense)
    assert sum(p.numel() for p in again.parameters()) < sum(p.numel() for p in dense.parameters())
    torch.testing.assert_close(logits(again), logits(small))
    assert not torch.equal(logits(again), logits(dense))
    assert json.loads((made / "preprocessor_config.json").read_text()) == {"size": 28}
    eyes = [n for n, _ in dense.named_parameters() if "vision" in n or "visual" in n]
    own = dict(again.named_parameters())
    assert eyes and all(torch.equal(own[n], p) for n, p in dense.named_parameters() if n in eyes)
    with pytest.warns(UserWarning, match="its text tower is taken"):
        torch.testing.assert_close(logits(claw.load(made, dtype="float32")[0]), logits(small))
    claw.put_back(small, whole, made)  # over its own, which nobody touched


@pytest.mark.filterwarnings("ignore:.*its text tower is taken")
@pytest.mark.parametrize("whole", ["llava"], indirect=True)
def test_what_cannot_be_put_back_is_refused(whole, tmp_path, folder_model):
    tower, _ = claw.load(whole, dtype="float32")
    with pytest.raises(InputError, match="no text tower to replace"):
        claw.put_back(tower, folder_model, tmp_path / "small")
    with pytest.raises(InputError, match="does not overwrite"):
        claw.put_back(tower, whole, whole)
    for change, said in ((dict(hidden_size=16), "hidden_size is 16"), (dict(vocab_size=64), "vocab_size is 64")):
        other = tf.LlamaForCausalLM(tf.LlamaConfig(**TEXT | change))
        with pytest.raises(InputError, match=said):
            claw.put_back(other, whole, tmp_path / "small")
    with pytest.raises(InputError, match="is not the text tower"):
        claw.put_back(tf.Qwen2ForCausalLM(tf.Qwen2Config(**TEXT)), whole, tmp_path / "small")
    assert not (tmp_path / "small").exists()


def test_a_tower_with_more_than_a_plain_decoder_is_refused(tmp_path, monkeypatch):
    """Here a rotary base that the decoder would not have; it stands for anything that only shows in what is computed."""
    from claw.models import towers

    torch.manual_seed(0)
    model = tf.AutoModelForImageTextToText.from_config(KINDS["qwen2_5_vl"]()).eval()
    for parameter in model.parameters():
        parameter.data *= 5
    model.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    right = towers.tower_config

    def other(config):
        plain = right(config)
        plain.rope_parameters = {"rope_type": "default", "rope_theta": 50.0}
        return plain

    monkeypatch.setattr(towers, "tower_config", other)
    with pytest.raises(InputError, match="more than a plain decoder"):
        claw.load(tmp_path, dtype="float32")
