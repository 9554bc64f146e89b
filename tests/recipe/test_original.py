"""A network that does not fit the data is refused in a few words."""

import pytest
import tiny_checkpoints
from families import TOKENS, WIDTHS, classifier, tiny
from transformers import (
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    T5ForSequenceClassification,
)

from har_prune.blocks.find import find_blocks
from har_prune.checkpoints.load import Checkpoint
from har_prune.data.load import load_data
from har_prune.errors import CheckpointError, UnknownFamilyError
from har_prune.recipe.load import load_recipe
from har_prune.recipe.original import load_original
from har_prune.recipe.prepare import prepare


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    return {name: make(folder / name) for name, make in tiny_checkpoints.MAKERS.items()}


def test_texts_for_an_image_model_are_refused_without_a_list_of_all_configs(made):
    with pytest.raises(
        CheckpointError, match=r"ViTConfig.*have no such head: give a checkpoint made for the"
    ) as error:
        load_original(Checkpoint(made["vit"][1]), load_data(str(made["bert"][0])))
    assert len(str(error.value)) < 600


def test_texts_without_labels_for_a_classifier_are_refused_in_few_words(made, tmp_path):
    model = DistilBertForSequenceClassification(DistilBertConfig(dim=32, n_layers=2, n_heads=4, hidden_dim=48))
    model.save_pretrained(tmp_path / "distilbert")
    data = load_data(str(made["llama"][0]))
    with pytest.raises(CheckpointError, match=r"DistilBertConfig.*have no such head") as error:
        load_original(Checkpoint(tmp_path / "distilbert"), data)
    assert len(str(error.value)) < 600
    bert = classifier(BertForSequenceClassification, num_hidden_layers=2, **WIDTHS, **TOKENS)
    bert.save_pretrained(tmp_path / "bert")
    with pytest.raises(CheckpointError, match="does not fit BertLMHeadModel: weights the model needs") as error:
        load_original(Checkpoint(tmp_path / "bert"), data)
    assert len(str(error.value)) < 900


def test_validation_rows_a_checkpoint_may_have_been_trained_on_are_said(made, root, recwarn):
    def prepared(name):
        data, checkpoint = made[name]
        places = [f"data.name_or_path={data}", f"model.name_or_path={checkpoint}", "data.subset=null"]
        more = ["data.validation_fraction=0.3", "prune.target={blocks: 2}", "prune.protected=[]", "output_dir=x"]
        return prepare(load_recipe(root / "recipes" / f"{name}.yaml", [*places, *more]))

    assert prepared("vit").splits.validation_from == "the data set's own split 'validation'"
    assert not [warning for warning in recwarn if "may have been trained on them" in str(warning.message)]
    with pytest.warns(
        UserWarning, match=r"31 % of the training examples, drawn at random\. .* may have been trained on"
    ):
        prepared("llama")


def test_an_encoder_decoder_model_is_refused_by_name():
    model = tiny(T5ForSequenceClassification, d_model=32, num_layers=4, num_heads=4, d_kv=8, d_ff=48, vocab_size=50)
    with pytest.raises(
        UnknownFamilyError, match=r"T5ForSequenceClassification \(model_type='t5'\) is an encoder-decod"
    ):
        find_blocks(model)
