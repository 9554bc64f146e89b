"""The representation is what the classifier reads: its layer on it gives the logits, to the bit or nearly."""

import pytest
import torch
import transformers as t
from families import TOKENS, WIDTHS, classifier, tiny

from har_prune import score_blocks, train_model
from har_prune.runtime.feature_hook import FeatureHook, body_of
from har_prune.training.config import TrainConfig

_SMALL = {"num_hidden_layers": 3, "num_key_value_heads": 2, **WIDTHS, **TOKENS, "num_labels": 3}
_GPT2 = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 34, "vocab_size": 50, "pad_token_id": 2}
DECODERS = {
    "Qwen2": lambda: tiny(t.Qwen2ForSequenceClassification, **_SMALL),
    "Llama": lambda: tiny(t.LlamaForSequenceClassification, **_SMALL),
    "GPT-2": lambda: classifier(t.GPT2ForSequenceClassification, **_GPT2),
}


def _texts(left: bool):
    """Five texts of other lengths, padded on one side."""
    tokens = torch.randint(3, 50, (5, 12), generator=torch.Generator().manual_seed(0))
    lengths, places = torch.tensor([[12], [9], [7], [4], [1]]), torch.arange(12)
    mask = (places >= 12 - lengths if left else places < lengths).long()
    return {"input_ids": tokens * mask + 2 * (1 - mask), "attention_mask": mask}


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("left", [False, True])
def test_a_decoder_is_read_at_the_token_it_classifies_by(name, left):
    torch.manual_seed(0)
    model, texts = DECODERS[name](), _texts(left)
    hook = FeatureHook(model)
    with torch.no_grad():
        read, output = hook.read(texts)
        assert hook.read(texts, without_head=True)[1] is None
        torch.testing.assert_close(read @ model.score.weight.T, output.logits)
        torch.testing.assert_close(hook.read(texts, without_head=True)[0], read)


def test_a_block_that_the_answer_does_not_need_has_no_importance():
    torch.manual_seed(0)
    model, texts = DECODERS["Qwen2"](), _texts(left=True)
    with torch.no_grad():
        for block in (1, 2):  # one works in front of the last token alone, the other at it alone
            attention, mlp = model.model.layers[block].self_attn, model.model.layers[block].mlp
            attention.o_proj.weight.zero_()
            mlp.down_proj.weight.mul_(30)

        def at(places):
            def masked(module, args, output):
                kept = torch.zeros(output.shape[1]).index_fill(0, torch.tensor(places), 1.0)
                return output * kept[:, None]

            return masked

        model.model.layers[1].mlp.register_forward_hook(at(list(range(11))))
        model.model.layers[2].mlp.register_forward_hook(at([11]))
    of_one, of_two = (score.importance for score in score_blocks(model, [texts], "cka", candidates=[1, 2]))
    assert of_one == pytest.approx(0, abs=1e-6)
    assert of_two > 0.01


@pytest.mark.parametrize("model_class", [t.CLIPForImageClassification, t.SiglipForImageClassification])
def test_a_tower_under_another_name_is_the_body(model_class):
    torch.manual_seed(0)
    vision = {**WIDTHS, "num_hidden_layers": 3, "image_size": 16, "patch_size": 8}
    model = classifier(model_class, vision_config=vision)
    assert body_of(model) is model.vision_model
    pixels = {"pixel_values": torch.randn(4, 3, 16, 16)}
    with torch.no_grad():
        read, output = FeatureHook(model).read(pixels)
        torch.testing.assert_close(torch.nn.functional.linear(read, model.classifier.weight, model.classifier.bias),
                                   output.logits)  # fmt: skip
    before = model.classifier.weight.clone()
    rows = [{"pixel_values": image, "labels": torch.tensor(0)} for image in pixels["pixel_values"]]
    train_model(
        model, torch.utils.data.DataLoader(rows, batch_size=2), None,
        TrainConfig(epochs=1, parameters="norms_and_head"),
    )  # fmt: skip
    assert not torch.equal(model.classifier.weight, before)


def test_bare_models_have_no_head():
    for model in (tiny(t.CLIPModel, vision_config={**WIDTHS, "num_hidden_layers": 2, "image_size": 16,
                                                   "patch_size": 8},
                       text_config={**WIDTHS, **TOKENS, "num_hidden_layers": 2}),
                  tiny(t.ViTModel, num_hidden_layers=2, image_size=16, patch_size=8, **WIDTHS)):  # fmt: skip
        assert body_of(model) is model
        assert FeatureHook(model).head is None
