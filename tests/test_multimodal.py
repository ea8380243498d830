"""Lesson 07 of week 6: the real libraries, what must always hold, the pictures, and what the stored study shows."""

from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn
from transformers import LlavaConfig, LlavaForConditionalGeneration, SiglipVisionConfig, SiglipVisionModel
from transformers.models.clip.modeling_clip import image_text_contrastive_loss
from transformers.models.idefics3.modeling_idefics3 import Idefics3Connector
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from shared.models import course_folder
from week1_decoder.solutions.decoder import GPT
from week2_pretraining.solutions.pretraining import load_pretrained
from week6_rlhf import seeing, seeing_study
from week6_rlhf.pictures import (
    COLOURS,
    PAIRS,
    SEEN,
    SHAPES,
    SIZE,
    UNSEEN,
    Thing,
    covered,
    held_out,
    new_pictures,
    pictures,
    pixels_of,
    shuffled_pixels,
)
from week6_rlhf.solutions.multimodal import (
    IMAGE_ID,
    GatedCrossAttention,
    ImageProjector,
    VisionEncoder,
    contrastive_loss,
    patchify,
    splice_image_tokens,
)


@pytest.fixture(scope="module")
def course_model():
    model, tokenizer = load_pretrained(course_folder("instruct"), GPT)
    return model.requires_grad_(False), tokenizer


# --- pictures ---------------------------------------------------------------------------------------------------


def test_each_colour_and_shape_is_seen_and_each_colour_misses_one_shape():
    assert len(PAIRS) == 40 and len(SEEN) == 32 and len(UNSEEN) == 8
    assert sorted(colour for colour, _ in UNSEEN) == sorted(COLOURS)
    assert {shape for _, shape in UNSEEN} == set(SHAPES)
    assert {colour for colour, _ in SEEN} == set(COLOURS) and {shape for _, shape in SEEN} == set(SHAPES)


def test_training_pictures_never_show_a_held_out_pair_and_test_pictures_ask_about_one():
    for picture in pictures(300, seed=3):
        assert not any(held_out(thing.colour, thing.shape) for thing in picture.things)
    for picture in pictures(100, seed=3, target="unseen", n_things=2):
        first, second = picture.things
        assert held_out(first.colour, first.shape) and not held_out(second.colour, second.shape)
    shown = {(thing.colour, thing.shape) for picture in pictures(400, target="any") for thing in picture.things}
    assert shown == set(PAIRS)


def test_pictures_are_the_same_for_the_same_seed_and_the_questions_have_one_answer():
    first, again = pictures(20, seed=5), pictures(30, seed=5)
    assert torch.equal(pixels_of(first), pixels_of(again[:20]))
    assert not torch.equal(first[0].pixels, pictures(1, seed=6)[0].pixels)
    sizes = [len(picture.things) for picture in again]
    assert set(sizes) == {1, 2}
    for picture in again:
        assert picture.pixels.shape == (3, SIZE, SIZE) and picture.pixels.abs().max() <= 1
        assert (
            len({thing.colour for thing in picture.things})
            == len({t.shape for t in picture.things})
            == len(picture.things)
        )
        assert all(thing.name in picture.caption for thing in picture.things)
        assert picture.question("colour").gold == picture.things[0].colour
        assert picture.question("shape").reply == f"{picture.things[0].shape.title()}."


def test_shapes_lie_inside_the_picture_and_differ():
    masks = [covered(Thing("red", shape, 16, 16, 6)) for shape in SHAPES]
    for mask in masks:
        assert 20 < mask.sum() < 130 and mask[:8].sum() == mask[:, 24:].sum() == 0
    assert all(abs(a - b).sum() > 10 for a, b in product(masks, masks) if a is not b)
    with pytest.raises(ValueError, match="no shape 'star'"):
        covered(Thing("red", "star", 16, 16, 6))


@pytest.mark.parametrize("wrong", [{"target": "test"}, {"n_things": 3}])
def test_pictures_refuse_what_there_is_not(wrong):
    with pytest.raises(ValueError, match="it must be"):
        pictures(1, **wrong)


# --- patches and the encoder --------------------------------------------------------------------------------------


def test_patches_times_the_weights_of_a_convolution_are_the_convolution():
    conv = nn.Conv2d(3, 7, kernel_size=4, stride=4, bias=False)
    pixels = torch.randn(2, 3, 8, 12)
    ours = patchify(pixels, 4) @ conv.weight.flatten(1).T
    torch.testing.assert_close(ours, conv(pixels).flatten(2).transpose(1, 2), rtol=1e-5, atol=1e-5)
    assert torch.equal(patchify(pixels, 4), rearrange(pixels, "b c (h p) (w q) -> b (h w) (c p q)", p=4, q=4))
    assert torch.equal(F.fold(patchify(pixels, 4).transpose(1, 2), (8, 12), kernel_size=4, stride=4), pixels)


@pytest.mark.parametrize(("height", "width", "patch"), [(8, 9, 4), (9, 8, 4), (8, 8, 0), (4, 4, 8)])
def test_patches_that_do_not_fill_the_picture_are_refused(height, width, patch):
    with pytest.raises(ValueError, match=f"{patch} pixels do not fill a picture of {height} x {width}"):
        patchify(torch.zeros(1, 3, height, width), patch)


def as_siglip(encoder, image_size, n_heads):
    """transformers' SiglipVisionModel, without its pooling, with the weights of ours."""
    d, n_layers = encoder.position_embedding.shape[1], len(encoder.blocks)
    config = SiglipVisionConfig(
        hidden_size=d, intermediate_size=4 * d, num_hidden_layers=n_layers, num_attention_heads=n_heads,
        image_size=image_size, patch_size=encoder.patch_size, hidden_act="gelu", layer_norm_eps=1e-5,
        vision_use_head=False,
    )  # fmt: skip
    theirs = SiglipVisionModel(config).eval()
    renamed = {"norm_1": "layer_norm1", "norm_2": "layer_norm2", "w_o": "self_attn.out_proj"}
    renamed |= {"feed_forward.0": "mlp.fc1", "feed_forward.2": "mlp.fc2"}
    patch = encoder.patch_embedding
    weights = {
        "embeddings.position_embedding.weight": encoder.position_embedding,
        "embeddings.patch_embedding.weight": patch.weight.unflatten(1, (3, *[encoder.patch_size] * 2)),
        "embeddings.patch_embedding.bias": patch.bias,
        "post_layernorm.weight": encoder.final_norm.weight,
        "post_layernorm.bias": encoder.final_norm.bias,
    }
    for name, value in encoder.blocks.named_parameters():
        i, _, rest = name.partition(".")
        module, kind = rest.rsplit(".", 1)
        if module == "w_qkv":
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                weights[f"encoder.layers.{i}.self_attn.{letter}_proj.{kind}"] = part
        else:
            weights[f"encoder.layers.{i}.{renamed[module]}.{kind}"] = value
    inner = getattr(theirs, "vision_model", theirs)
    missing, unexpected = inner.load_state_dict({k: v.detach() for k, v in weights.items()}, strict=False)
    assert not unexpected and all("position_ids" in name for name in missing)
    return theirs


def test_the_encoder_equals_transformers_siglip_with_the_same_weights():
    torch.manual_seed(0)
    encoder = VisionEncoder(image_size=12, patch_size=4, d_model=16, n_heads=2, n_layers=3).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    pixels = torch.randn(2, 3, 12, 12)
    with torch.no_grad():
        theirs = as_siglip(encoder, 12, 2)(pixels).last_hidden_state
        torch.testing.assert_close(encoder(pixels), theirs, rtol=1e-5, atol=1e-5)


# --- the contrastive loss -------------------------------------------------------------------------------------------


def test_the_contrastive_loss_equals_transformers():
    images, texts, log_scale = torch.randn(6, 8), torch.randn(6, 8), torch.tensor(2.0)
    similarity = log_scale.exp() * F.normalize(texts, dim=-1) @ F.normalize(images, dim=-1).T
    ours = contrastive_loss(images, texts, log_scale)
    torch.testing.assert_close(ours, image_text_contrastive_loss(similarity), rtol=1e-6, atol=1e-6)


def test_the_contrastive_loss_is_ln_n_where_nothing_is_known_and_near_0_where_all_is():
    same = torch.ones(5, 3)
    torch.testing.assert_close(contrastive_loss(same, same, torch.tensor(3.0)), torch.tensor(5.0).log())
    assert contrastive_loss(torch.eye(5), torch.eye(5), torch.tensor(100.0).log()) < 1e-5
    order = torch.randperm(5)
    images, texts, scale = torch.randn(5, 3), torch.randn(5, 3), torch.tensor(1.0)
    torch.testing.assert_close(
        contrastive_loss(images[order], texts[order], scale), contrastive_loss(images, texts, scale)
    )


@pytest.mark.parametrize(("n", "m"), [(1, 1), (0, 0), (3, 4)])
def test_the_contrastive_loss_refuses_what_leaves_nothing_to_tell_apart(n, m):
    with pytest.raises(ValueError, match="2 or more"):
        contrastive_loss(torch.randn(n, 4), torch.randn(m, 4), torch.tensor(0.0))


# --- the projector and the splice -----------------------------------------------------------------------------------


def tiny_llava():
    config = LlavaConfig(
        vision_config={
            "model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 2, "image_size": 8, "patch_size": 4, "projection_dim": 16,
        },
        text_config={
            "model_type": "llama", "vocab_size": 40, "hidden_size": 12, "intermediate_size": 24, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 2,
        },
        image_token_id=39,
    )  # fmt: skip
    torch.manual_seed(0)
    return LlavaForConditionalGeneration(config).eval()


def test_the_projector_equals_llavas_with_the_same_weights():
    theirs = LlavaMultiModalProjector(tiny_llava().config)
    ours = ImageProjector(16, 12)
    ours.w_in.load_state_dict(theirs.linear_1.state_dict())
    ours.w_out.load_state_dict(theirs.linear_2.state_dict())
    features = 3 * torch.randn(2, 4, 16)
    torch.testing.assert_close(ours(features), theirs(features), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("merge", [1, 2, 4])
def test_merged_patches_stand_where_idefics3_puts_them(merge):
    features = torch.randn(2, 16, 3)
    projector = ImageProjector(3, 5, merge)
    theirs = Idefics3Connector.pixel_shuffle(None, features, merge)
    expected = projector.w_out(F.gelu(projector.w_in(theirs)))
    torch.testing.assert_close(projector(features), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("n_patches", "merge"), [(15, 1), (16, 3), (16, 8), (16, 0)])
def test_patches_that_form_no_squares_are_refused(n_patches, merge):
    projector = ImageProjector(3, 4)
    projector.merge = merge
    with pytest.raises(ValueError, match="are no square whose side"):
        projector(torch.zeros(1, n_patches, 3))


def test_the_splice_gives_the_embeddings_that_llava_gives():
    llava = tiny_llava()
    embed, image_id = llava.get_input_embeddings(), llava.config.image_token_id
    rows = torch.tensor([[1, IMAGE_ID, 5, 6], [7, 8, IMAGE_ID, 9]])
    expanded = torch.tensor([[1, *[image_id] * 4, 5, 6], [7, 8, *[image_id] * 4, 9]])
    pixels = torch.randn(2, 3, 8, 8)
    caught = {}
    llava.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: caught.update(kwargs), with_kwargs=True
    )
    with torch.no_grad():
        llava(input_ids=expanded, pixel_values=pixels, attention_mask=torch.ones_like(expanded))
        vision = llava.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        projected = llava.model.multi_modal_projector(vision)
        ours = splice_image_tokens(rows, rows, torch.ones_like(rows).bool(), list(projected[:, None]), embed)
    torch.testing.assert_close(ours["embeddings"], caught["inputs_embeds"], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="do not match"):
        llava(input_ids=expanded[:, :-3], pixel_values=pixels, attention_mask=torch.ones_like(expanded[:, :-3]))


def test_without_pictures_the_splice_and_the_blocks_are_the_model_itself(course_model):
    model, _ = course_model
    ids = torch.randint(0, 2_000, (2, 9))
    mask = torch.arange(9) < torch.tensor([[9], [6]])
    merged = splice_image_tokens(ids, ids, mask, [torch.zeros(0, 4, 128)] * 2, model.token_embedding)
    ours = seeing.forward_from_embeddings(model, merged["embeddings"], merged["attention_mask"])
    torch.testing.assert_close(ours[mask], model.hidden_states(ids, mask)[mask], rtol=1e-5, atol=1e-5)


def test_tokens_spliced_as_a_picture_are_those_tokens(course_model):
    """A "picture" that is made of embeddings of words gives just what the words give: positions are right too."""
    model, _ = course_model
    ids, words = torch.tensor([[5, IMAGE_ID, 8, 9]]), torch.tensor([30, 31, 32])
    merged = splice_image_tokens(
        ids, ids, torch.ones(1, 4).bool(), [model.token_embedding(words)[None]], model.token_embedding
    )
    ours = seeing.forward_from_embeddings(model, merged["embeddings"], merged["attention_mask"])
    plain = torch.tensor([[5, *words.tolist(), 8, 9]])
    torch.testing.assert_close(ours, model.hidden_states(plain), rtol=1e-5, atol=1e-5)
    assert merged["labels"].tolist() == [[5, -100, -100, -100, 8, 9]]


@pytest.mark.parametrize(
    ("counts", "message"),
    [([1, 1], "row 1 has 2 places for pictures and 1 pictures"), ([2, 1], "row 0 has 1 places"), ([1], "got 1 for 2")],
)
def test_a_row_whose_pictures_do_not_fit_its_places_is_refused(counts, message):
    ids = torch.tensor([[1, IMAGE_ID, 2], [IMAGE_ID, 3, IMAGE_ID]])
    with pytest.raises(ValueError, match=message):
        splice_image_tokens(
            ids, ids, torch.ones(2, 3).bool(), [torch.zeros(n, 2, 4) for n in counts], nn.Embedding(9, 4)
        )


# --- gated cross-attention ----------------------------------------------------------------------------------------


def test_gated_cross_attention_equals_torchs_with_the_same_weights():
    layer = GatedCrossAttention(d_model=8, d_image=6, n_heads=2)
    theirs = nn.MultiheadAttention(8, 2, bias=False, kdim=6, vdim=6, batch_first=True)
    with torch.no_grad():
        for mine, other in (("w_q", "q_proj_weight"), ("w_k", "k_proj_weight"), ("w_v", "v_proj_weight")):
            getattr(theirs, other).copy_(getattr(layer, mine).weight)
        theirs.out_proj.weight.copy_(layer.w_o.weight)
        layer.gate.fill_(0.7)
    x, images = torch.randn(2, 5, 8), torch.randn(2, 3, 4, 6)
    index = torch.tensor([[0, 0, 1, 1, 2], [2, 1, 0, 0, 2]])
    hidden = index[..., None] != torch.arange(3).repeat_interleave(4)  # (batch, seq, image * patch)
    seen, _ = theirs(x, images.flatten(1, 2), images.flatten(1, 2), attn_mask=hidden.repeat_interleave(2, dim=0))
    torch.testing.assert_close(layer(x, images, index), x + torch.tensor(0.7).tanh() * seen, rtol=1e-5, atol=1e-6)


def test_a_new_layer_changes_nothing_but_its_gate_can_learn():
    layer = GatedCrossAttention(8, 6, 2)
    x, images, index = torch.randn(1, 3, 8), torch.randn(1, 1, 4, 6), torch.tensor([[-1, 0, 0]])
    out = layer(x, images, index)
    assert torch.equal(out, x)
    out.square().sum().backward()
    assert layer.gate.grad != 0 and not layer.w_v.weight.grad.any()


def test_tokens_without_a_picture_stay_and_other_pictures_do_not_matter():
    layer = GatedCrossAttention(8, 6, 2)
    nn.init.constant_(layer.gate, 1.0)
    x, images, index = torch.randn(1, 4, 8), torch.randn(1, 2, 3, 6), torch.tensor([[-1, 0, 0, 1]])
    changed = torch.cat([images[:, :1], torch.randn(1, 1, 3, 6)], dim=1)
    before, after = layer(x, images, index), layer(x, changed, index)
    assert torch.equal(before[:, 0], x[:, 0]) and torch.equal(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 3], after[:, 3])


# --- training and measuring -----------------------------------------------------------------------------------------


def test_a_question_has_one_place_for_the_picture_at_the_head_of_the_users_message(course_model):
    _, tokenizer = course_model
    question = pictures(1, seed=0)[0].question("colour")
    prompt, reply = seeing.encode_question(tokenizer, question)
    place = prompt.index(IMAGE_ID)
    assert prompt.count(IMAGE_ID) == 1
    assert tokenizer.decode(prompt[:place]) == "<|endoftext|><|im_start|>user\n"
    assert tokenizer.decode(prompt[place + 1 :]) == f"{question.text}<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(reply) == f"{question.reply}<|im_end|>"


def test_right_tells_just_what_greedy_decoding_writes(course_model):
    model, tokenizer = course_model
    shown = pictures(12, seed=0, n_things=1)
    torch.manual_seed(0)
    clip, _ = seeing.train_clip(tokenizer, shown, steps=2, batch_size=8)
    features = seeing.patch_features(clip.encoder, pixels_of(shown))
    seer = seeing.Seer(model, tokenizer, ImageProjector(seeing.D_IMAGE, 128, 2))
    losses = seeing.train_seer(seer, features, shown, steps=40, batch_size=12)
    assert losses[-1] < 0.6 * losses[0]
    questions = [picture.question("colour") for picture in shown]
    said = [seeing.answer(seer, row, question.text) for row, question in zip(features, questions, strict=True)]
    expected = [text == question.reply for text, question in zip(said, questions, strict=True)]
    assert seeing.right(seer, features, questions) == expected and any(expected)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_shuffled_patches_are_the_same_patches():
    pixels = pixels_of(pictures(3, seed=0))
    moved = shuffled_pixels(pixels)
    assert not torch.equal(moved, pixels)
    for before, after in zip(patchify(pixels, 8), patchify(moved, 8), strict=True):
        assert sorted(before.sum(dim=1).tolist()) == sorted(after.sum(dim=1).tolist())


def test_a_few_steps_of_clip_lower_its_loss(course_model):
    _, tokenizer = course_model
    clip, losses = seeing.train_clip(tokenizer, pictures(64, seed=0), steps=25, batch_size=32)
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert not any(parameter.requires_grad for parameter in clip.parameters())
    assert len(seeing.zero_shot(clip, pictures(5, seed=1, n_things=1))) == 5


# --- the stored study -------------------------------------------------------------------------------------------


def shares(study, encoder, setting, question):
    """Right answers over all seeds, as a share."""
    rows = [row for row in study["results"] if (row["encoder"], row["setting"]) == (encoder, setting)]
    return sum(row["right"][question] for row in rows) / sum(row["of"] for row in rows)


def test_the_stored_study_has_every_setting_of_three_seeds():
    results = seeing_study.load()["results"]
    settings = {(row["encoder"], row["setting"]) for row in results}
    assert sorted({row["seed"] for row in results}) == [0, 1, 2]
    assert len(results) == 3 * len(settings) and settings >= {("narrow", "blind"), ("broad", "then LoRA")}
    assert all(row["of"] == seeing_study.N_TEST for row in results)


def test_the_stored_study_shows_what_the_lesson_says_of_it():
    study = seeing_study.load()
    unseen = {name: shares(study, name, "projector", "unseen, 1, shape") for name in ("narrow", "broad")}
    assert unseen["narrow"] < 1 / 5 < 0.6 < unseen["broad"]
    assert shares(study, "narrow", "linear probe", "unseen, 1, shape") < 0.5
    assert shares(study, "broad", "linear probe", "unseen, 1, colour") > 0.95
    assert shares(study, "broad", "projector", "unseen, 1, colour") < 0.6
    assert shares(study, "broad", "then LoRA", "unseen, 1, colour") > 0.9
    assert shares(study, "narrow", "blind", "unseen, 1, colour") < 1 / 8
    seen = [shares(study, "broad", how, "seen, 1, shape") for how in ("projector", "pixels shuffled")]
    assert abs(seen[0] - seen[1]) < 0.05
    tests = [new_pictures(seeing_study.N_TEST, seed)["seen, 1"] for seed in range(3)]
    without_kites = np.mean([picture.things[0].shape != "kite" for shown in tests for picture in shown])
    assert abs(seen[0] - without_kites) < 0.04
