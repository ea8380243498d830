# %% [markdown]
# # Seeing: a projector between two models
#
# *This lesson is optional. Nothing after it needs it.*
#
# Your language model has never seen anything. It knows *red* as a word that stands near other words. In this lesson you give it eyes: a second model
# turns a picture into vectors, and a small net in between turns those vectors into something that the language model reads as if they were words. Then you ask it
# *What colour is the circle?*
#
# All pictures are generated, so you know the truth about each. That lets you ask the question that matters with such models: does it *see* the red circle, or has it
# learnt which answers are usual? To tell, eight pairs of a colour and a shape are held out: training never shows them.
#
# You write five parts: patches, CLIP's loss, LLaVA's projector, the splice of picture and text, and Flamingo's gated cross-attention.
#
# Reading and writing: about 115 minutes. Papers: Radford et al. 2021, *CLIP* ([arXiv:2103.00020](https://arxiv.org/abs/2103.00020)); Li et al. 2022, *BLIP*
# ([arXiv:2201.12086](https://arxiv.org/abs/2201.12086)); Alayrac et al. 2022, *Flamingo* ([arXiv:2204.14198](https://arxiv.org/abs/2204.14198)); Liu et al.
# 2023, *Visual Instruction Tuning* (LLaVA, [arXiv:2304.08485](https://arxiv.org/abs/2304.08485)) and *Improved Baselines with Visual Instruction Tuning*
# (LLaVA-1.5, [arXiv:2310.03744](https://arxiv.org/abs/2310.03744)). Repositories: [LLaVA](https://github.com/haotian-liu/LLaVA),
# [BLIP](https://github.com/salesforce/BLIP), [open_flamingo](https://github.com/mlfoundations/open_flamingo).

# %%
from collections.abc import Callable, Sequence

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from einops import rearrange
from IPython.display import HTML
from jaxtyping import Bool, Float, Int
from scipy.stats import binomtest
from torch import Tensor, nn
from transformers import LlavaConfig, LlavaForConditionalGeneration
from transformers.models.clip.modeling_clip import image_text_contrastive_loss
from transformers.models.idefics3.modeling_idefics3 import Idefics3Connector
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from shared import borrow, check, hint, mine, progress
from shared.checking import run_check
from shared.models import course_folder
from shared.plotting import COLOURS as INKS, LINES, figure
from shared.runtime import seed_everything
from week2_pretraining.solutions.pretraining import load_pretrained
from week4_finetuning.chat import encode_prompt
from week6_rlhf.pictures import COLOURS, PALETTE, SHAPES, held_out, new_pictures, pictures, pixels_of
from week6_rlhf.solutions.multimodal import IMAGE_ID

seed_everything(0)
model, tokenizer = load_pretrained(course_folder("instruct"), mine("GPT"))
model.requires_grad_(False)
print("the language model is frozen:", sum(p.numel() for p in model.parameters()), "numbers, of which 0 are trained")

# %% [markdown]
# ## The pictures
#
# 32 × 32 pixels, one or two things, each in a quarter of its own. Shades vary, sizes vary, the background varies, and there is noise:


# %%
def show(ax, pixels: Tensor, title: str = "") -> None:
    ax.imshow((pixels.permute(1, 2, 0) + 1) / 2)
    ax.set_title(title, fontsize=8)
    ax.axis("off")


shown = pictures(3_000, seed=0)
fig, axes = plt.subplots(2, 6, figsize=(11, 4), layout="constrained")
for ax, picture in zip(axes.flat, shown, strict=False):
    show(ax, picture.pixels, picture.caption.replace(" and ", "\nand "))
plt.show()
picture = shown[0]
for kind in ("colour", "shape"):
    question = picture.question(kind)
    print(f"{question.text}  ->  {question.reply}")

# %% [markdown]
# The held-out pairs. Each colour is seen with four shapes, and each shape with six or seven colours; so every *word* and every *part* is known. Only their pair is new.


# %%
def cell(colour: str, shape: str) -> str:
    red, green, blue = (round(255 * value) for value in PALETTE[colour])
    style = f"background:rgb({red},{green},{blue});color:{'white' if sum(PALETTE[colour]) < 1.6 else 'black'};text-align:center"
    return f'<td style="{style}">{"held out" if held_out(colour, shape) else "seen"}</td>'


header = "<tr><th></th>" + "".join(f"<th>{shape}</th>" for shape in SHAPES) + "</tr>"
rows = "".join(f"<tr><th>{colour}</th>{''.join(cell(colour, shape) for shape in SHAPES)}</tr>" for colour in COLOURS)
HTML(f"<table>{header}{rows}</table>")

# %% [markdown]
# ## Three ways to join two models
#
# <table style="border-collapse:collapse">
# <tr><th></th><th>BLIP (2022)</th><th>Flamingo (2022)</th><th>LLaVA (2023)</th></tr>
# <tr><td></td>
# <td style="vertical-align:top;text-align:center">
# <div style="border:1px solid #888;padding:2px">answer</div>↑
# <div style="border:1px solid #0072B2;padding:6px">text model, with a<br><b>cross-attention in each block</b></div>
# ↑ words&emsp;↖ patches
# <div style="border:1px solid #0072B2;padding:2px;margin-left:40%">vision encoder</div></td>
# <td style="vertical-align:top;text-align:center">
# <div style="border:1px solid #888;padding:2px">answer</div>↑
# <div style="border:1px solid #888;padding:6px">language model, frozen<br><b style="color:#0072B2">+ tanh(gate) · cross-attention</b><br>between its blocks</div>
# ↑ words&emsp;↖ 64 vectors
# <div style="border:1px solid #0072B2;padding:2px;margin-left:40%">resampler</div>
# <div style="border:1px solid #888;padding:2px;margin-left:40%">vision encoder, frozen</div></td>
# <td style="vertical-align:top;text-align:center">
# <div style="border:1px solid #888;padding:2px">answer</div>↑
# <div style="border:1px solid #888;padding:6px">language model<br>(frozen, then tuned)</div>
# ↑ patches <b>as if they were words</b>, then words
# <div style="border:1px solid #0072B2;padding:2px;width:45%">projector</div>
# <div style="border:1px solid #888;padding:2px;width:45%">vision encoder, frozen</div></td></tr>
# <tr><td>where the picture enters</td><td>in every block</td><td>between the blocks</td><td>at the bottom, as tokens</td></tr>
# <tr><td>what is trained</td><td>all of it</td><td>resampler, cross-attention, gates</td><td>the projector; in a second stage the language model too</td></tr>
# <tr><td>length of the text</td><td>as before</td><td>as before</td><td>longer by 256 tokens a picture (576 in LLaVA-1.5)</td></tr>
# <tr><td>trained on</td><td>129 million pictures with captions; the captions filtered and rewritten by the model itself</td><td>web pages with pictures between the text, pictures and videos with captions</td><td>595,000 captions, then 158,000 conversations that a language model wrote about captions</td></tr>
# </table>
#
# (Blue is trained.) LLaVA is the simplest by far, and most open models of today are built like it. You build it first, and Flamingo's layer at the end.
#
# ## A picture as a row of vectors
#
# A transformer wants a row of vectors. The vision transformer (Dosovitskiy et al. 2021, [arXiv:2010.11929](https://arxiv.org/abs/2010.11929)) cuts the picture into
# squares, as a tokenizer cuts a text, and multiplies each by one matrix:
#
# $$x_i = E\,\mathrm{patch}_i, \qquad \mathrm{patch}_i \in \mathbb{R}^{\,\text{channels}\cdot p\cdot p}$$

# %% tags=["given"]
from week6_rlhf.solutions.multimodal import check_grid

# %% tags=["exercise"]
from week6_rlhf.solutions.multimodal import patchify

# %% [markdown]
# Libraries write the same thing as a convolution whose stride is its size. Equal, with the convolution's weights as $E$:

# %%
pixels = pixels_of(shown[:8])
conv = nn.Conv2d(3, 64, kernel_size=8, stride=8, bias=False)
ours = patchify(pixels, 8) @ conv.weight.flatten(1).T
theirs = conv(pixels).flatten(2).transpose(1, 2)
print(
    "patches:",
    tuple(patchify(pixels, 8).shape),
    "| largest difference to Conv2d:",
    f"{(ours - theirs).abs().max():.1e}",
)
assert torch.allclose(ours, theirs, atol=1e-5)
assert torch.equal(patchify(pixels, 8), rearrange(pixels, "b c (h p) (w q) -> b (h w) (c p q)", p=8, q=8))
fig, axes = plt.subplots(1, 17, figsize=(12, 1), width_ratios=[4, *[1] * 16])
show(axes[0], pixels[1], "a picture, and its 16 patches")
for ax, patch in zip(axes[1:], patchify(pixels[1:2], 8)[0], strict=True):
    show(ax, patch.unflatten(0, (3, 8, 8)))
plt.show()

# %% [markdown]
# What follows is given: `VisionEncoder`, a vision transformer in small. It is your decoder of week 1 without the causal mask: each patch sees every other. Three blocks, 64 wide. CLIP puts a
# *class token* in front, which sums up the picture; SigLIP (Zhai et al. 2023, [arXiv:2303.15343](https://arxiv.org/abs/2303.15343)) does without, and so does ours: the picture's vector is the mean of its
# patches. A test of the course puts the same weights into transformers' `SiglipVisionModel` and gets the same vectors, to 1e-5.
#
# ## CLIP: pictures and texts in one space
#
# What should the encoder learn? Labels are dear, captions are everywhere. CLIP takes a batch of pictures with their captions and asks: *which caption belongs to which
# picture?* With image embeddings $u_i$ and text embeddings $v_j$, all made one long,
#
# $$\ell_{ij} = e^{s}\, u_i \cdot v_j, \qquad
# \mathcal{L} = -\frac{1}{2n}\sum_i \left( \log \frac{e^{\ell_{ii}}}{\sum_j e^{\ell_{ij}}} + \log \frac{e^{\ell_{ii}}}{\sum_j e^{\ell_{ji}}} \right)$$
#
# The scale $e^s$, one over the temperature, is learnt too.

# %% tags=["given"]
from week6_rlhf.solutions.multimodal import check_pairs

# %% tags=["exercise"]
from week6_rlhf.solutions.multimodal import contrastive_loss

# %%
images, texts, log_scale = torch.randn(96, 64), torch.randn(96, 64), torch.tensor(1 / 0.07).log()
similarity = log_scale.exp() * F.normalize(texts, dim=-1) @ F.normalize(images, dim=-1).T
ours, theirs = contrastive_loss(images, texts, log_scale), image_text_contrastive_loss(similarity)
print(
    f"ours {ours:.6f}, transformers {theirs:.6f}; with embeddings that know nothing it would be ln 96 = {torch.tensor(96.0).log():.3f} or more"
)
assert torch.allclose(ours, theirs, rtol=1e-6)

# %% [markdown]
# Now train two encoders (`week6_rlhf/seeing.py`), each on 3,000 pictures with captions such as *a blue kite and a white moon*:
#
# - **narrow**: never shown a held-out pair;
# - **broad**: shown all 40 pairs. It stands for what is done in practice, where the encoder has seen 400 million pictures, and only your own data are narrow.
#
# The text side is as plain as can be, the mean of the tokens' embeddings. So *a red ring and a blue kite* and *a blue ring and a red kite* are the same to it. (CLIP's is a
# transformer and could tell them apart. Yuksekgonul et al. 2022, [arXiv:2210.01936](https://arxiv.org/abs/2210.01936), found that it hardly does.)
#
# **Predict.** Then each encoder sees new pictures of one thing, and picks the nearest of the 40 captions. How often will colour and shape be right for pairs that the
# narrow one has never seen: a circle that is red, when it has seen red things and circles?

# %%
from week6_rlhf.seeing import patch_features, train_clip, zero_shot

encoders, curves, clips = {}, {}, {}
for name, target in (("narrow", "seen"), ("broad", "any")):
    captioned = pictures(3_000, seed=0, target=target)
    clips[name], curves[name] = train_clip(tokenizer, captioned, loss=contrastive_loss, cut=patchify)
    encoders[name] = clips[name].encoder
fig, ax = figure("Both encoders learn which caption is whose", "step", "contrastive loss, nats")
for (name, losses), style in zip(curves.items(), LINES, strict=False):
    ax.plot(losses, linestyle=style, label=name)
ax.axhline(torch.tensor(96.0).log(), color="grey", linewidth=0.8, linestyle=":")
ax.legend(frameon=False)
plt.show()


# %%
def told(right: int, of: int) -> str:
    """A share with its 95 % Wilson interval."""
    low, high = binomtest(right, of).proportion_ci(method="wilson")
    return f"{right / of:4.0%} [{low:.0%}, {high:.0%}]"


tests = new_pictures(200, seed=0)
for name, clip in clips.items():
    for pairs in ("seen", "unseen"):
        found = zero_shot(clip, tests[f"{pairs}, 1"])
        print(
            f"{name:7} {pairs:7}",
            *(f"{kind} {told(sum(row[kind] for row in found), len(found))}" for kind in ("colour", "shape")),
            sep="   ",
        )

# %% [markdown]
# Both know every word, both have seen every colour and every shape. Yet the narrow one, shown a red circle, tends to name another shape: one of those that it has seen in red. It was never
# asked to see *red* and *circle* apart; to tell 32 pairs from one another was enough. And a pair that never comes is evidence against itself: *red, so no circle*.
#
# ## The projector
#
# From here on the encoder is frozen. As in LLaVA (§4.1), the language model gets not one vector for the picture but its *patches*, so that it can look at places. (LLaVA takes them from before the encoder's
# last block: in its CLIP the loss looks at the class token only, and the last block may do to the patches what it likes. Ours has no such token, so each patch counts, and the last block's are taken.) Then
#
# $$t = W_{out}\,\mathrm{GELU}(W_{in}\, f + b_{in}) + b_{out}$$
#
# makes an embedding of the language model from a patch's features. LLaVA had one matrix; LLaVA-1.5 has these two. Sixteen patches are sixteen tokens, and tokens
# cost time. So yours can merge squares of patches first, as Idefics3 and many since do:

# %% tags=["given"]
from week6_rlhf.solutions.multimodal import check_merge

# %% tags=["exercise"]
from week6_rlhf.solutions.multimodal import ImageProjector

# %%
llava = LlavaForConditionalGeneration(
    LlavaConfig(
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": 64,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
            "projection_dim": 16,
        },
        text_config={
            "model_type": "llama",
            "vocab_size": 100,
            "hidden_size": 48,
            "intermediate_size": 64,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
        },
        image_token_id=99,
    )
).eval()  # a LLaVA of random weights: no download
theirs = llava.model.multi_modal_projector
ours = ImageProjector(64, 48)
ours.w_in.load_state_dict(theirs.linear_1.state_dict())
ours.w_out.load_state_dict(theirs.linear_2.state_dict())
features = torch.randn(2, 16, 64)
print("LLaVA's projector, largest difference:", f"{(ours(features) - theirs(features)).abs().max():.1e}")
two = ImageProjector(64, 48, merge=2)
merged = Idefics3Connector.pixel_shuffle(None, features, 2)
difference = (two(features) - two.w_out(F.gelu(two.w_in(merged)))).abs().max()
print(
    "Idefics3's order of merged patches, largest difference:", f"{difference:.1e}", "| tokens:", two(features).shape[1]
)
assert torch.allclose(ours(features), theirs(features), atol=1e-6) and difference < 1e-6

# %% [markdown]
# ## The splice
#
# The language model reads embeddings; where they come from does not matter to it. In the token ids a placeholder, −200, stands for the picture. It is no token, and has no embedding.
# The splice puts the picture's tokens in its place:
#
# ```
# token ids      <|im_start|> user \n  -200                 What co l our ... assistant \n  R    ed   .   <|im_end|>
# embeddings     E[...]       E[..] .. t1  t2  t3  t4       E[..] ........................ E[R] E[ed] ..
# labels         -100         -100  .. -100 -100 -100 -100  -100 ......................... R    ed   .   <|im_end|>
# ```
#
# So rows get longer, and rows with other numbers of pictures get longer by other amounts. A row with a picture too many or too few must not pass: the pictures of all rows
# after it would answer the wrong questions.

# %% tags=["given"]
from week6_rlhf.solutions.multimodal import check_images_fit

# %% tags=["exercise"]
from week6_rlhf.solutions.multimodal import splice_image_tokens

# %% [markdown]
# transformers' LLaVA does it in two steps: its processor writes the placeholder once for each image token, and the model scatters the features into those places. What its language
# model is given is what yours makes:

# %%
caught: dict[str, Tensor] = {}
llava.model.language_model.register_forward_pre_hook(
    lambda module, args, kwargs: caught.update(kwargs), with_kwargs=True
)
rows = torch.tensor([[1, IMAGE_ID, 5, 6], [7, 8, IMAGE_ID, 9]])
expanded = torch.tensor([[1, *[99] * 16, 5, 6], [7, 8, *[99] * 16, 9]])
with torch.no_grad():
    llava(input_ids=expanded, pixel_values=pixels[:2], attention_mask=torch.ones_like(expanded))
    vision = llava.model.vision_tower(pixels[:2], output_hidden_states=True).hidden_states[-2][:, 1:]
    tokens = llava.model.multi_modal_projector(vision)
    spliced = splice_image_tokens(
        rows, rows, torch.ones_like(rows).bool(), list(tokens[:, None]), llava.get_input_embeddings()
    )
difference = (spliced["embeddings"] - caught["inputs_embeds"]).abs().max()
print("embeddings", tuple(spliced["embeddings"].shape), "largest difference to LLaVA's:", f"{difference:.1e}")
assert difference < 1e-5

# %% [markdown]
# Your GPT takes token ids, so its blocks need another way in. `forward_from_embeddings` does what `hidden_states` does after its look-up:
#
# ```python
# x = embeddings + model.position_embedding((attention_mask.cumsum(dim=1) - 1).clamp(min=0))
# for block in model.blocks:
#     x = block(x, attention_mask)
# return model.final_norm(x)
# ```
#
# ## A minute of training
#
# The encoder is frozen and the language model is frozen. Only the projector learns: 4 tokens a picture, questions about colour and about shape, and a loss on the reply's tokens. This
# is LLaVA's first stage. It uses the broad encoder; the questions and pictures are of seen pairs only.

# %%
from week6_rlhf.seeing import Seer, answer, right, train_seer

features = {name: patch_features(encoder, pixels_of(shown)) for name, encoder in encoders.items()}
torch.manual_seed(0)
seer = Seer(model, tokenizer, ImageProjector(64, model.config.d_model, merge=2), splice_image_tokens)
print(sum(p.numel() for p in seer.trained()), "numbers are trained")
losses = train_seer(seer, features["broad"], shown)
fig, ax = figure("The projector learns to speak to a frozen model", "step", "loss, nats a token of the reply")
ax.plot(losses)
plt.show()

# %%
sample = [
    (pairs, kind, picture)
    for pairs in ("seen", "unseen")
    for kind in ("colour", "shape")
    for picture in tests[f"{pairs}, 1"][:2] + tests[f"{pairs}, 2"][:2]
]
fig, axes = plt.subplots(4, 4, figsize=(11, 9), layout="constrained")
for ax, (pairs, kind, picture) in zip(axes.flat, sample, strict=True):
    question = picture.question(kind)
    said = answer(seer, patch_features(encoders["broad"], picture.pixels[None])[0], question.text)
    show(
        ax,
        picture.pixels,
        f"{question.text} ({pairs})\n{said} {'✓ right' if said == question.reply else f'✗ wrong, {question.gold}'}",
    )
plt.show()

# %% [markdown]
# Which replies go wrong? Count by shape. Beside it stands how likely the reply is to the frozen model when there is *no* picture, in nats, token by token:

# %%
for shape in SHAPES:
    of_shape = [picture for picture in tests["seen, 1"] if picture.things[0].shape == shape]
    asked = [picture.question("shape") for picture in of_shape]
    hits = right(seer, patch_features(encoders["broad"], pixels_of(of_shape)), asked)
    prompt = encode_prompt(tokenizer, [{"role": "user", "content": asked[0].text}])
    reply = tokenizer(asked[0].reply, add_special_tokens=False).input_ids
    with torch.no_grad():
        log_probs = model(torch.tensor([prompt + reply])).log_softmax(dim=-1)[0, len(prompt) - 1 : -1]
    nats = [round(log_probs[place, token].item(), 1) for place, token in enumerate(reply)]
    print(f"{shape:9} right {told(sum(hits), len(hits))}   ln p of {tokenizer.convert_ids_to_tokens(reply)}: {nats}")

# %% [markdown]
# A frozen model can only say what it can be talked into. None of these words is a reply in the first 20,000 examples that it was tuned on, yet four image tokens suffice to bring four of them about. *Kite* lies nearly thirty nats
# away, in two steps of more than thirteen each, and no picture gets it there: the projector moves what the model *reads*, not how it writes. A quarter of the pictures of one thing in the study show a kite, so three in
# four is the best that this stage can reach in questions about shape.
#
# ## Does it see?
#
# One run and 16 pictures prove nothing. `python -m week6_rlhf.seeing_study` did the same with three seeds (other pictures, other encoders, other projectors), each tested on 200 new pictures
# of each sort; `seeing_study.json` keeps the counts. Three rivals stand beside the projector:
#
# - **blind**: trained on the same questions, but every picture gives zeros. It shows what the *words* of the questions give away;
# - **linear probe**: no language model, a linear classifier on the mean of the patches' features. It shows what lies open in the encoder;
# - **narrow** against **broad** encoder.
#
# **Predict.** The blind model can only guess. With eight colours, how often will it be right about pairs that training showed, and about the held-out ones? Think before
# you say one in eight.

# %%
from week6_rlhf.seeing_study import load

study = load()
print(study["machine"])


def counts(encoder: str, setting: str, question: str) -> list[int]:
    """Right answers of each seed to a sort of question, such as "unseen, 2, colour"."""
    return [
        row["right"][question] for row in study["results"] if (row["encoder"], row["setting"]) == (encoder, setting)
    ]


N = study["results"][0]["of"]


def told_of(encoder: str, setting: str, question: str) -> str:
    found = counts(encoder, setting, question)
    return told(sum(found), N * len(found))


for question in ("seen, 1, colour", "unseen, 1, colour", "seen, 1, shape", "unseen, 1, shape"):
    print(
        f"blind, {question:18} {told_of('narrow', 'blind', question)}   by seed: {counts('narrow', 'blind', question)} of {N}"
    )

# %% [markdown]
# For held-out pairs it is worse than chance, and it has to be: *What colour is the circle?* was never answered *red* in training. What a model learns from the questions alone is what is
# usual, and the held-out pairs are what is never so. (Agrawal et al. 2018, [arXiv:1712.00377](https://arxiv.org/abs/1712.00377), made test sets of this kind because models
# did well on the usual ones without looking.)
#
# **Predict.** And those that see? What happens to their accuracy on unseen pairs, for colour, and for shape?


# %%
def points(ax, x: float, encoder: str, setting: str, question: str, ink: str, marker: str, label: str | None) -> None:
    """All seeds together with their interval, and each seed as a dot."""
    found = counts(encoder, setting, question)
    low, high = binomtest(sum(found), N * len(found)).proportion_ci(method="wilson")
    mean = sum(found) / N / len(found)
    ax.errorbar(x, mean, [[mean - low], [high - mean]], fmt=marker, color=ink, capsize=3, label=label)
    ax.plot([x + 0.06] * len(found), [right / N for right in found], ".", color=ink, alpha=0.4)


SORTS = [f"{pairs}, {n}" for n in (1, 2) for pairs in ("seen", "unseen")]
fig, axes = plt.subplots(1, 2, figsize=(11, 3.8), sharey=True, layout="constrained")
for ax, kind, chance in zip(axes, ("colour", "shape"), (1 / 8, 1 / 5), strict=True):
    for s, (encoder, setting) in enumerate((("broad", "projector"), ("narrow", "projector"), ("narrow", "blind"))):
        for i, sort in enumerate(SORTS):
            label = "blind" if setting == "blind" else f"{encoder} encoder"
            points(
                ax, i + 0.2 * (s - 1), encoder, setting, f"{sort}, {kind}", INKS[s], "osD"[s], label if i == 0 else None
            )
    ax.axhline(chance, color="grey", linewidth=0.8, linestyle=":")
    ax.set_xticks(
        range(len(SORTS)), [sort.replace(", 1", ",\none thing").replace(", 2", ",\ntwo things") for sort in SORTS]
    )
    ax.set_title(f"questions about {kind} (dotted: chance)", loc="left", fontsize=11)
    ax.set_ylim(-0.03, 1.03)
axes[0].set_ylabel("share right")
axes[0].legend(frameon=False)
plt.show()
for encoder in ("narrow", "broad"):
    for kind in ("colour", "shape"):
        for sort in SORTS:
            probe = (
                f"   linear probe {told_of(encoder, 'linear probe', f'{sort}, {kind}')}" if sort.endswith("1") else ""
            )
            print(f"{encoder:7} {kind:7} {sort:10} projector {told_of(encoder, 'projector', f'{sort}, {kind}')}{probe}")

# %% [markdown]
# Begin with the linear probe, for it says what lies open in the encoder. The broad encoder tells colour and shape apart, also in new pairs. The narrow one does for pairs that it knows, and calls a new pair by a shape that it
# has seen in that colour. What an encoder does not tell, no projector can make up for: behind it, shapes of unseen pairs are right less often than by guessing.
#
# Behind the broad encoder the shapes of new pairs hold. But their *colours* fall to about half, although the probe reads them nearly perfectly. There the fault is not in the eyes. Projector and language model, too, have
# learnt what goes with what.
#
# And with two things in the picture it is right less often than if it always named the colour, or the shape, of one of the two at random. To answer, the model would have to find the patch that has the *shape* of the question, and read the colour
# *there*. This is what attention is for, but the frozen model has never needed to.
#
# ## Shuffled
#
# A picture is more than its patches: it matters where they are. Does it matter to the model?
#
# **Predict.** Once the patches of the *picture* are shuffled before the encoder sees them; once the *features* are shuffled after the encoder. Which questions suffer, in which case?

# %%
from week6_rlhf.pictures import shuffled_pixels

fig, axes = plt.subplots(1, 6, figsize=(9, 1.8), layout="constrained")
for ax, picture, before in zip(
    axes, (picture for picture in tests["seen, 1"][:3] for _ in range(2)), (True, False) * 3, strict=True
):
    show(
        ax,
        picture.pixels if before else shuffled_pixels(picture.pixels[None])[0],
        picture.caption if before else "shuffled",
    )
plt.show()
for kind in ("colour", "shape"):
    for sort in ("seen, 1", "seen, 2"):
        found = [
            f"{name} {told_of('broad', setting, f'{sort}, {kind}')}"
            for name, setting in (
                ("as it is", "projector"),
                ("pixels", "pixels shuffled"),
                ("features", "features shuffled"),
            )
        ]
        print(f"{kind:7} {sort}:", "   ".join(found))

# %% [markdown]
# Hardly any. This encoder works as a bag of patches: a few pixels of an edge say *ring* or *moon* wherever they lie, and captions without places never asked for more. (The encoder has position embeddings. It has just not needed
# them.) Yuksekgonul et al. report the like of large models: captions are still found well when words or patches are shuffled.
#
# ## How many tokens for a picture?
#
# Attention over a longer text costs more, in every layer, for every picture. So the number of image tokens is the first thing that is saved on. The same training with squares of
# 4 × 4, 2 × 2 and 1 × 1 patches:

# %%
fig, axes = plt.subplots(1, 2, figsize=(11, 3.4), sharey=True, layout="constrained")
for ax, kind in zip(axes, ("colour", "shape"), strict=True):
    for s, sort in enumerate(SORTS):
        for i, setting in enumerate(("1 tokens", "projector", "16 tokens")):
            points(
                ax,
                i + 0.15 * (s - 1.5),
                "broad",
                setting,
                f"{sort}, {kind}",
                INKS[s],
                "osD^"[s],
                f"{sort} thing" if i == 0 else None,
            )
    ax.set_xticks(range(3), ["1", "4", "16"])
    ax.set(xlabel="tokens a picture", ylim=(-0.03, 1.03))
    ax.set_title(f"questions about {kind}", loc="left", fontsize=11)
axes[0].set_ylabel("share right")
axes[0].legend(frameon=False, fontsize=8)
plt.show()

# %% [markdown]
# One token is too few. Sixteen are worth their price mostly where there are two things to tell apart.
#
# ## LLaVA's second stage
#
# In its second stage LLaVA trains the language model too, with the projector going on. Yours gets LoRA of rank 8 in every linear layer (week 4) and 150 more steps; beside it, the
# projector alone gets 150 more steps too, so that the comparison is fair:

# %%
for kind in ("colour", "shape"):
    for sort in SORTS:
        found = [
            f"{name} {told_of('broad', setting, f'{sort}, {kind}')}"
            for name, setting in (
                ("stage 1", "projector"),
                ("projector alone, on", "then the projector alone"),
                ("with LoRA", "then LoRA"),
            )
        ]
        print(f"{kind:7} {sort:10}", "   ".join(found))

# %% [markdown]
# Compare the last two columns: the same number of steps, with the language model frozen and with it tuned a little. The colours of unseen pairs, half right before, are now nearly all right: what was entangled behind the encoder has come
# apart, on the same data. With two things it gets better too, to about the half that naming one of the two gives. Shapes of seen pairs stay at three in four, which is the share of pictures without a kite.
#
# ## Flamingo's way in
#
# Flamingo leaves the text as long as it is. Between the frozen blocks it puts layers in which the *text* asks and the *picture* answers:
#
# $$y = x + \tanh(\alpha)\;\mathrm{attention}(q = x W_q,\; k = z W_k,\; v = z W_v)\, W_o$$
#
# with the patches $z$, and $\alpha = 0$ at the start. So the new model begins as exactly the old one; the gate opens as far as it helps. (Flamingo follows it with a feed-forward net that has
# a gate too.) And a token sees only *one* picture, the last before it. So a conversation may have more pictures than any in training had.

# %% tags=["exercise"]
from week6_rlhf.solutions.multimodal import GatedCrossAttention

# %%
layer = GatedCrossAttention(d_model=128, d_image=64, n_heads=4)
theirs = nn.MultiheadAttention(128, 4, bias=False, kdim=64, vdim=64, batch_first=True)
with torch.no_grad():
    for name in "qkv":
        getattr(theirs, f"{name}_proj_weight").copy_(getattr(layer, f"w_{name}").weight)
    theirs.out_proj.weight.copy_(layer.w_o.weight)
    layer.gate.fill_(0.5)
x, patches = torch.randn(2, 6, 128), torch.randn(2, 3, 16, 64)
index = torch.tensor([[0, 0, 1, 1, 2, 2], [0, 0, 0, 0, 0, 1]])
hidden = index[..., None] != torch.arange(3).repeat_interleave(16)
seen, _ = theirs(x, patches.flatten(1, 2), patches.flatten(1, 2), attn_mask=hidden.repeat_interleave(4, dim=0))
difference = (layer(x, patches, index) - (x + torch.tensor(0.5).tanh() * seen)).abs().max()
print("largest difference to torch's MultiheadAttention with a mask:", f"{difference:.1e}")
assert difference < 1e-5

# %% [markdown]
# In front of each block of the course model, before anything is learnt:


# %%
class Flamingo(nn.Module):
    """The course model with a gated cross-attention in front of each block; the model's own numbers are frozen."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        width, n_heads = model.config.d_model, model.config.n_heads
        self.looks = nn.ModuleList(GatedCrossAttention(width, 64, n_heads) for _ in model.blocks)

    def forward(self, token_ids: Tensor, patches: Tensor, image_index: Tensor) -> Tensor:
        x = self.model.token_embedding(token_ids) + self.model.position_embedding.weight[: token_ids.shape[1]]
        for look, block in zip(self.looks, self.model.blocks, strict=True):
            x = block(look(x, patches, image_index))
        return F.linear(self.model.final_norm(x), self.model.token_embedding.weight)


flamingo = Flamingo(model)
ids = torch.tensor([tokenizer("What colour is the circle?", add_special_tokens=False).input_ids])
image = features["broad"][:1, None]  # one text, one picture
looking = torch.zeros_like(ids)
logits = flamingo(ids, image, looking)
logits.logsumexp(dim=-1).sum().backward()
print(
    "changed at the start:",
    (logits - model(ids)).abs().max().item(),
    "| gradients of the four gates:",
    [round(look.gate.grad.item(), 3) for look in flamingo.looks],
)
n_new = sum(p.numel() for p in flamingo.looks.parameters())
print(
    f"new numbers: Flamingo's layers {n_new:,}, the projector {sum(p.numel() for p in seer.projector.parameters()):,}"
)

# %% [markdown]
# Nothing changed, and each gate has a gradient. (While a gate is 0, the weights behind it have none: the gate must move first.) Text-only questions stay as they were for ever, for they look at no
# picture; a LLaVA whose language model was tuned has no such promise.
#
# ## Find the bug
#
# A colleague's splice works as long as the loss counts replies only. She wants to train on whole texts, so her labels are the token ids, and cross-entropy stops with *Target -200 is
# out of bounds*.


# %%
def colleagues_splice(token_ids, labels, attention_mask, images, embed):
    rows, goals = [], []
    for ids, goal, mask, own in zip(token_ids, labels, attention_mask, images, strict=True):
        ids, goal, pictures_left = ids[mask], goal[mask], list(own)
        if len(pictures_left) != int((ids == IMAGE_ID).sum()):
            raise ValueError("the pictures do not fit the places")
        pieces, wanted = [embed(ids[:0])], [goal[:0]]
        for token, label in zip(ids, goal, strict=True):
            image = pictures_left.pop(0) if token == IMAGE_ID else embed(token[None])
            pieces.append(image)
            wanted.append(label.repeat(len(image)))
        rows.append(torch.cat(pieces))
        goals.append(torch.cat(wanted))
    lengths = torch.tensor([len(row) for row in rows])
    return {
        "embeddings": nn.utils.rnn.pad_sequence(rows, batch_first=True),
        "labels": nn.utils.rnn.pad_sequence(goals, batch_first=True, padding_value=-100),
        "attention_mask": torch.arange(int(lengths.max())) < lengths[:, None],
    }


print(run_check("splice_image_tokens", colleagues_splice).card)

# %% [markdown]
# ## What to read
#
# - **Radford et al. 2021** (CLIP): figure 3 is your loss in ten lines. §3.1.4 on prompts: why does *a photo of a {label}* help? Figure 5: on which tasks does it do worst?
# - **Li et al. 2022** (BLIP): figure 2, one model that does three jobs, and figure 3, CapFilt: which of the two, new captions or the filter, helps more (table 1)?
# - **Alayrac et al. 2022** (Flamingo): figure 4 is your layer. In table 3, what happens without the tanh gate, and with cross-attention in every fourth block only?
# - **Liu et al. 2023** (LLaVA): table 1, how conversations were made out of captions and boxes by a model that saw no picture. The table of design choices: what is lost with the last layer's features?
# - **LLaVA-1.5**: table 2 adds one thing at a time. How much of the gain is the MLP, and how much the data?
# - **haotian-liu/LLaVA**: [`llava/model/llava_arch.py`](https://github.com/haotian-liu/LLaVA/blob/main/llava/model/llava_arch.py), `prepare_inputs_labels_for_multimodal` is your
#   splice: where are the labels of image tokens set, and what does it do with a row that has no picture? `llava/model/multimodal_projector/builder.py` is your projector.
# - **salesforce/BLIP**: [`models/med.py`](https://github.com/salesforce/BLIP/blob/main/models/med.py), how one set of blocks is an encoder without, and a decoder with, cross-attention (`mode`).
# - **open_flamingo**: [`open_flamingo/src/helpers.py`](https://github.com/mlfoundations/open_flamingo/blob/main/open_flamingo/src/helpers.py), `MaskedCrossAttention`: find `text_time`, the
#   count that is your `image_index`.
#
# ## Recap
#
# - A picture is cut into patches, each a vector; from there on it is a transformer's row.
# - CLIP's loss gives an encoder that knows words. What it never had to tell apart, it does not.
# - LLaVA: a projector makes tokens of patches, a splice puts them among the words. The labels of image tokens are -100, and rows must have the pictures that they name.
# - Flamingo: the picture enters between the blocks, through gates that start closed.
# - Test with pairs that training never shows, against a model that sees nothing. A blind model's score is not chance.

# %% [markdown]
# ## Quiz
#
# A few questions on what you have seen. Answer below, or by `answer(1, "b")` in a cell of your own; a wrong answer says what is wrong with it, and you may try again.

# %%
from shared import answer, quiz

quiz("multimodal")

# %%
progress("week6_rlhf")
