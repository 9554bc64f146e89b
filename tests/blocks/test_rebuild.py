from dataclasses import replace

import pytest
import torch
import transformers as t
from families import WIDTHS, cifar_resnet, gpt2, har_transformer, llama, swin, tiny

from har_prune import find_blocks, linear_cka, remove_blocks, save_pruned, score_blocks
from har_prune.blocks.example_inputs import example_inputs
from har_prune.blocks.families import Family
from har_prune.blocks.rebuild import without_blocks
from har_prune.checkpoints.provenance import provenances
from har_prune.errors import NotRemovableError, ShapeError, UndeclaredLayerListError, UnknownFamilyError


def test_removing_twice_counts_in_the_original_network():
    model = remove_blocks(remove_blocks(har_transformer(6), [1]), [1, 3])
    assert model.config.har_prune == {"original_depth": 6, "removed_blocks": [1, 2, 4]}
    assert find_blocks(model).original_indices == [0, 3, 5]


def test_the_callers_random_numbers_do_not_move():
    model = har_transformer()
    before = torch.get_rng_state()
    remove_blocks(model, [0])
    find_blocks(model)
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_are_copied_and_dtype_and_training_still_work():
    model = har_transformer().to(torch.bfloat16)
    smaller = remove_blocks(model, [1])
    assert smaller.dtype == torch.bfloat16
    with torch.no_grad():
        smaller.classifier.weight.zero_()
    assert model.classifier.weight.abs().sum() > 0
    smaller = remove_blocks(cifar_resnet(), [1]).train()
    smaller(**example_inputs(smaller), labels=torch.tensor([0, 1])).loss.backward()
    assert all(parameter.grad is not None for parameter in smaller.parameters())


def test_a_family_nobody_wrote_down_is_probed_and_rebuilt():
    model = tiny(t.ElectraForSequenceClassification, num_hidden_layers=4, vocab_size=50, embedding_size=16,
                 hidden_size=32, num_attention_heads=4, intermediate_size=48)  # fmt: skip
    stack = find_blocks(model)
    assert stack.family is None
    assert stack.removable == [0, 1, 2, 3]
    smaller, inputs = remove_blocks(model, [1]), example_inputs(model)
    with torch.no_grad(), stack.bypassed([1]):
        torch.testing.assert_close(smaller(**inputs).logits, model(**inputs).logits)


def test_a_removal_the_config_cannot_express_is_refused():
    model = gpt2(scale_attn_by_inverse_layer_idx=True)
    with torch.no_grad():  # weights large enough for the scale to matter
        for parameter in model.parameters():
            parameter.mul_(4)
    with pytest.raises(NotRemovableError, match="depends on its position"):
        remove_blocks(model, [0])
    assert len(find_blocks(remove_blocks(model, [3]))) == 3, "the last block has none behind it"


def test_shifted_windows_go_in_pairs():
    stack = find_blocks(swin())
    with pytest.raises(NotRemovableError, match=r"block 1 .*cannot be removed alone.*e\.g\. \[1, 2\]"):
        remove_blocks(stack, [1])
    for advised in ([1, 2], [3], [6], [0, 1, 4, 5]):
        assert len(find_blocks(remove_blocks(stack, advised))) == 7 - len(advised)
    assert stack.removal_group(1) == [1, 2]
    assert stack.removal_group(3) == [3]


_DECODER = {
    **{"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 48},
    **{"num_hidden_layers": 4, "vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}


def test_a_layer_list_nobody_declared_is_an_error():
    model = tiny(t.SmolLM3ForCausalLM, no_rope_layers=[1, 1, 0, 1], **_DECODER)
    with pytest.raises(UndeclaredLayerListError, match=r"config\.no_rope_layers .* per_layer_fields"):
        remove_blocks(model, [1])


def test_only_the_whole_depth_tells_what_is_a_list_of_layers():
    stack = find_blocks(tiny(t.LlamaForCausalLM, **{**_DECODER, "eos_token_id": [2, 3]}))
    for _ in range(3):  # it is as long as the network when two blocks are left
        stack = without_blocks(stack, [0])
    assert stack.model.config.eos_token_id == [2, 3]
    assert len(stack) == 1


def test_places_of_blocks_move_with_them():
    torch.manual_seed(0)
    sizes = {"image_size": 64, "pretrain_image_size": 64, "patch_size": 8, "window_size": 8}
    model = tiny(t.VitDetModel, **sizes, **WIDTHS, num_hidden_layers=6, window_block_indices=[0, 1, 3, 4])
    stack = find_blocks(model)
    with pytest.raises(UndeclaredLayerListError, match=r"window_block_indices .* add .* to index_fields"):
        remove_blocks(stack, [2])
    stack.family = Family("encoder.layer", "num_hidden_layers", index_fields=("window_block_indices",),
                          derived_fields=("stage_names", "out_features", "out_indices"))  # fmt: skip
    for removed, places in ((2, [0, 1, 2, 3]), (0, [0, 2, 3]), (5, [0, 1, 3, 4])):
        smaller = remove_blocks(stack, [removed])
        assert smaller.config.window_block_indices == places
        larger = {"pixel_values": torch.randn(1, 3, 128, 128)}  # four windows: in one, all attention is alike
        with torch.no_grad(), stack.bypassed([removed]):
            torch.testing.assert_close(smaller(**larger)[0], model(**larger)[0])


def test_a_config_that_refuses_is_named():
    model = llama()
    stack = find_blocks(model)
    stack.family = replace(stack.family, depth_field="number_of_layers")
    with pytest.raises(NotRemovableError, match=r"config\.number_of_layers states the depth, and there is no such"):
        remove_blocks(stack, [1])

    class Stubborn(t.LlamaConfig):
        def __post_init__(self, **kwargs):
            if self.num_hidden_layers < 4:
                raise ValueError("at least four layers")
            super().__post_init__(**kwargs)

    model.config.__class__ = Stubborn
    with pytest.raises(NotRemovableError, match=r"refuses to describe the network without blocks.*at least four"):
        remove_blocks(model, [1])


def test_layer_types_lose_their_entries_in_any_family():
    kinds = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
    model = tiny(t.Olmo3ForCausalLM, layer_types=kinds, sliding_window=4, **_DECODER)
    assert remove_blocks(model, [0]).config.layer_types == kinds[1:]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_hides_nothing(dtype):
    """Noise of half precision would hide a wrong layer: the check computes in float32."""
    model = gpt2(n_layer=12, scale_attn_by_inverse_layer_idx=True)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.15)
    model = model.to(dtype)
    for index in (2, 6, 10):
        with pytest.raises(NotRemovableError, match="depends on its position"):
            remove_blocks(model, [index])
    assert model.dtype == dtype, "the check leaves the weights as they are"
    assert remove_blocks(model, [11]).dtype == dtype
    rounded = llama().to(dtype)  # rounds the rotary frequencies, which a reload has exact
    assert remove_blocks(rounded, [1]).model.rotary_emb.inv_freq.dtype == torch.float32


def test_inputs_that_never_run_the_blocks_check_nothing():
    model = t.CLIPModel(_clip().config).eval()
    text_only = {"input_ids": _clip_inputs()["input_ids"]}
    stack = find_blocks(model, _clip_inputs(), within="vision_model")

    class TextOnly(t.CLIPModel):
        def forward(self, input_ids):
            return (self.get_text_features(input_ids=input_ids),)

    model.__class__ = TextOnly
    with pytest.raises(NotRemovableError, match="never reach all that is gone"):
        remove_blocks(stack, [1], example_inputs=text_only)


def test_towers_need_no_inputs_where_they_can_be_made_up(tmp_path):
    tower = find_blocks(_clip(), within="vision_model")
    smaller = remove_blocks(tower, [1])
    assert save_pruned(smaller, tmp_path / "clip").exists()


def test_both_towers_of_a_checkpoint_keep_its_name_and_licence(tmp_path):
    _clip().save_pretrained(tmp_path / "parent")
    (tmp_path / "parent" / "README.md").write_text("---\nlicense: mit\n---\n")
    model = t.CLIPModel.from_pretrained(tmp_path / "parent").eval()
    for within in ("vision_model", "text_model"):
        model = remove_blocks(find_blocks(model, within=within), [1])
    found = provenances(model.config)
    assert {name: record["license"] for name, record in found.items()} == {
        "vision_config": "mit",
        "text_config": "mit",
    }
    card = (save_pruned(model, tmp_path / "pruned") / "README.md").read_text()
    assert "1 of 4 residual blocks of vision_config" in card
    assert "1 of 3 residual blocks of text_config" in card
    assert "None" not in card


def test_a_path_inside_a_tower_fixes_the_blocks_outside_of_it():
    stack = find_blocks(swin(), within="swin.encoder.layers.1")
    assert stack.removable == [4, 5, 6]
    assert remove_blocks(stack, [4, 5]).config.depths == [4, 1]
    with pytest.raises(NotRemovableError, match=r"lies outside of 'swin\.encoder\.layers\.1'"):
        remove_blocks(stack, [3])


def test_frozen_parameters_stay_frozen_and_checkpointing_stays_on():
    model = llama()
    model.model.requires_grad_(False)
    model.gradient_checkpointing_enable()
    smaller = remove_blocks(model, [1])
    assert {name for name, p in smaller.named_parameters() if p.requires_grad} == {"lm_head.weight"}
    assert smaller.model.layers[0].gradient_checkpointing


def test_single_parameters_of_another_type_keep_it():
    model = llama().to(torch.bfloat16)
    model.model.norm.float()
    smaller = remove_blocks(model, [1])
    assert smaller.model.norm.weight.dtype == torch.float32
    assert smaller.lm_head.weight.dtype == torch.bfloat16


def test_what_a_block_hands_on_beside_its_hidden_state_is_kept():
    """T5: the first block computes the position bias of all."""
    model = tiny(t.T5EncoderModel, d_model=32, num_layers=4, num_heads=4, d_kv=8, d_ff=48, vocab_size=50)
    smaller = remove_blocks(model, [1, 2])
    assert smaller.config.num_layers == 2
    inputs = example_inputs(model, batch_size=8)
    double = model.double()
    for score in score_blocks(double, [inputs], candidates=[1, 2, 3]):
        kept, gone = (_representation(m, inputs) for m in (double, remove_blocks(double, [score.index])))
        assert score.importance == pytest.approx(1 - linear_cka(kept, gone), abs=1e-6)
    with pytest.raises(NotRemovableError, match="cannot express a network without blocks"):
        remove_blocks(model, [0])


@torch.no_grad()
def _representation(model, inputs):
    return model(**inputs).last_hidden_state.mean(1)


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        (2, r"e\.g\. \[3, 7\]; this is 2"),
        ([1.0], "list of indices"),
        (["1"], "list of indices"),
        ([True], "list of indices"),
        ([], "at least one index"),
        ([-1], "block -1 does not exist: this model has blocks 0-3"),
    ],
)
def test_indices_that_are_none_are_refused(indices, message):
    with pytest.raises(NotRemovableError, match=message):
        remove_blocks(llama(), indices)
    assert len(find_blocks(remove_blocks(llama(), torch.tensor([1]).numpy()))) == 3


def test_a_backbone_that_returns_several_maps_is_pruned_and_asks_for_a_representation():
    model = tiny(t.ResNetBackbone, embedding_size=8, hidden_sizes=[8, 12], depths=[3, 2], layer_type="basic",
                 out_features=["stage1", "stage2"])  # fmt: skip
    smaller = remove_blocks(model, [1])
    assert len(smaller(**example_inputs(model)).feature_maps) == 2
    with pytest.raises(ShapeError, match="name a module as representation"):
        score_blocks(model, [example_inputs(model)])
    assert score_blocks(model, [example_inputs(model, batch_size=6)], representation="encoder.stages.1")


def test_a_network_with_one_block_left_has_nothing_to_score():
    with pytest.raises(NotRemovableError, match="nothing to score"):
        score_blocks(llama(depth=1), [])


def test_a_stale_record_is_noticed():
    model = remove_blocks(llama(), [1])
    model.config.har_prune["removed_blocks"] = [0, 1]
    with pytest.raises(NotRemovableError, match=r"says that 2 of 4 blocks are left, and this model has 3"):
        remove_blocks(model, [1])


def test_a_class_without_a_class_for_fewer_blocks_is_refused():
    model = tiny(t.MobileNetV2ForSemanticSegmentation, image_size=64, depth_multiplier=0.25)
    with pytest.raises(NotRemovableError, match=r"there is for MobileNetV2Model, MobileNetV2ForImageClassification"):
        remove_blocks(model, [1])


def test_quantised_weights_are_refused():
    model = llama()
    model.config.quantization_config = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    with pytest.raises(NotRemovableError, match="load the checkpoint it was quantised from"):
        remove_blocks(model, [1])


def test_weights_are_handed_over_where_asked():
    model = llama()
    kept = model.model.layers[2].mlp.up_proj.weight
    smaller = remove_blocks(model, [1], copy=False)
    assert smaller.model.layers[1].mlp.up_proj.weight.data_ptr() == kept.data_ptr()
    copied = remove_blocks(model, [1])
    assert copied.model.layers[1].mlp.up_proj.weight.data_ptr() != kept.data_ptr()


def _clip():
    tower = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48, "num_hidden_layers": 3}
    text = {**tower, "vocab_size": 50, "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 1}
    vision = {**tower, "num_hidden_layers": 4, "image_size": 16, "patch_size": 8}
    return t.CLIPModel(t.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).eval()


def _clip_inputs(size=3):
    generator = torch.Generator().manual_seed(0)
    return {
        "input_ids": torch.randint(2, 50, (size, 8), generator=generator),
        "pixel_values": torch.rand((size, 3, 16, 16), generator=generator),
    }


def test_a_tower_is_addressed_by_its_path(tmp_path):
    model, inputs = _clip(), _clip_inputs()
    with pytest.raises(UnknownFamilyError, match=r"several towers: 'text_model', 'vision_model'.*within='text_model'"):
        find_blocks(model, inputs)
    with pytest.raises(UnknownFamilyError, match="Did you mean 'vision_model'"):
        find_blocks(model, inputs, within="vison_model")
    stack = find_blocks(model, inputs, within="vision_model")
    assert stack.names[0] == "vision_model.encoder.layers.0"
    assert stack.config_path == ("vision_config",)
    with pytest.raises(NotRemovableError, match="would leave a stage without a block"):
        remove_blocks(stack, range(4))
    smaller = remove_blocks(stack, [1], example_inputs=inputs)
    assert (smaller.config.vision_config.num_hidden_layers, smaller.config.text_config.num_hidden_layers) == (3, 3)
    assert smaller.config.vision_config.har_prune["removed_blocks"] == [1]
    with torch.no_grad(), stack.bypassed([1]):
        torch.testing.assert_close(smaller(**inputs)[0], model(**inputs)[0])
    again = remove_blocks(find_blocks(smaller, inputs, within="vision_model"), [1], example_inputs=inputs)
    assert provenances(again.config)["vision_config"]["removed_blocks"] == [1, 2]
    again = remove_blocks(find_blocks(again, inputs, within="text_model"), [0], example_inputs=inputs)
    folder = save_pruned(again, tmp_path / "clip", example_inputs=inputs)
    loaded = t.CLIPModel.from_pretrained(folder).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs)[0], again(**inputs)[0])


def test_a_tower_is_scored_by_its_path():
    model = _clip()
    stack = find_blocks(model, _clip_inputs(), within="vision_model")
    scores = score_blocks(stack, [_clip_inputs(8)], representation="visual_projection")
    assert [score.name for score in scores] == stack.names
    assert all(score.importance > 0 for score in scores)


def test_one_tower_behind_a_head_needs_no_path():
    fields = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48, "num_hidden_layers": 4}
    config = t.CLIPConfig(vision_config={**fields, "image_size": 16, "patch_size": 8}, num_labels=3)
    model = t.CLIPForImageClassification(config).eval()
    inputs = {"pixel_values": torch.rand(2, 3, 16, 16)}
    smaller = remove_blocks(find_blocks(model, inputs), [2], example_inputs=inputs)
    assert smaller.config.vision_config.num_hidden_layers == 3


def test_a_backbone_has_the_family_of_its_own_config():
    backbone = t.Dinov2Config(hidden_size=32, num_attention_heads=4, num_hidden_layers=4, mlp_ratio=2, image_size=28,
                              patch_size=14, out_features=["stage4"], reshape_hidden_states=False)  # fmt: skip
    config = t.DepthAnythingConfig(backbone_config=backbone, reassemble_hidden_size=32, patch_size=14,
                                   neck_hidden_sizes=[8], reassemble_factors=[1], fusion_hidden_size=8)  # fmt: skip
    model, inputs = t.DepthAnythingForDepthEstimation(config).eval(), {"pixel_values": torch.rand(2, 3, 28, 28)}
    stack = find_blocks(model, inputs, within="backbone")
    assert stack.family is not None
    assert stack.names == [f"backbone.encoder.layer.{i}" for i in range(4)]
    assert remove_blocks(stack, [1], example_inputs=inputs).config.backbone_config.num_hidden_layers == 3


def test_a_stem_of_as_many_convolutions_as_there_are_blocks_is_no_list_of_blocks():
    model = har_transformer(2, stem_channels=[8, 12], patch_size=2, patch_stride=2)
    smaller = remove_blocks(model, [0])
    assert (smaller.config.num_hidden_layers, list(smaller.config.stem_channels)) == (1, [8, 12])
