"""DiffusionGemma through its adapter: the loop is that of transformers, the interface ours."""

import pytest
import torch
import transformers

from fastdecode import DiffusionGemmaGenerator, DiffusionGenerator, UnsupportedModelError
from tests.models import byte_tokenizer, small_model
from tests.threads import one_thread  # noqa: F401

gemma = pytest.importorskip("transformers.models.diffusion_gemma", reason="this transformers has no DiffusionGemma")
SETTINGS = {"max_denoising_steps": 4, "t_min": 0.4, "t_max": 0.8}


@pytest.fixture(scope="module")
def model():
    text = dict(vocab_size=259, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=16, global_head_dim=16, sliding_window=8, layer_types=["sliding_attention", "full_attention"], max_position_embeddings=512, num_experts=4, top_k_experts=2, moe_intermediate_size=16, pad_token_id=256, eos_token_id=258, bos_token_id=257)
    vision = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1, head_dim=16)
    torch.manual_seed(0)
    return transformers.DiffusionGemmaForBlockDiffusion(transformers.DiffusionGemmaConfig(text_config=text, vision_config=vision, canvas_length=8)).eval()


def test_results_are_those_of_its_own_loop(model):
    made = DiffusionGemmaGenerator(model, byte_tokenizer())
    result = made.generate([5, 6, 7, 8], max_new_tokens=14, seed=3, **SETTINGS)
    torch.manual_seed(3)
    with torch.inference_mode():
        want = model.generate(torch.tensor([[5, 6, 7, 8]]), attention_mask=torch.ones(1, 4, dtype=torch.long), max_new_tokens=14, return_dict_in_generate=True, **SETTINGS)
    assert result.token_ids == want.sequences[0, 4:18].tolist()[: len(result.token_ids)] and len(result.token_ids) == 14
    assert result.finish_reason == "length" and result.text == byte_tokenizer().decode(result.token_ids, skip_special_tokens=True)
    assert result.stats.forwards >= 1 and result.stats.emitted == 14
    assert made.generate([5, 6, 7, 8], max_new_tokens=14, seed=3, **SETTINGS).token_ids == result.token_ids


def test_batches_and_stop_strings(model):
    made = DiffusionGemmaGenerator(model, byte_tokenizer())
    results = made.generate(["hello", [5, 6]], max_new_tokens=8, seed=1, **SETTINGS)
    assert len(results) == 2 and all(len(r.token_ids) == 8 for r in results)
    whole = made.generate("hello", max_new_tokens=8, seed=2, **SETTINGS)
    cut = made.generate("hello", max_new_tokens=8, seed=2, stop=whole.text[2], **SETTINGS)
    assert cut.finish_reason == "stop" and cut.text == whole.text[: whole.text.find(whole.text[2])]


def test_generators_name_each_other(model):
    with pytest.raises(UnsupportedModelError, match="use DiffusionGemmaGenerator"):
        DiffusionGenerator(model, byte_tokenizer(), mask_token_id=255)
    with pytest.raises(ValueError, match="DiffusionGenerator runs LLaDA"):
        DiffusionGemmaGenerator(small_model())
    with pytest.raises(ValueError, match="max_new_tokens=0"):
        DiffusionGemmaGenerator(model).generate([5], max_new_tokens=0)
