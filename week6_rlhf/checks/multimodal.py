"""What right answers of lesson 07 show, and the known mistakes."""

import torch
from torch import nn

from shared.checking import observes, raised
from week1_decoder.checks.decoder import filled, shapes
from week6_rlhf.solutions.multimodal import IMAGE_ID


@observes(
    "patchify",
    difficulty=2,
    minutes=15,
    hints=(
        "Every axis of pixels is two axes in one: height is (which patch down, which row in it), width is (which patch "
        "across, which column in it). Split both, put the axes in the order that is wanted, and join them again.",
        'einops says it in one line: on the left "batch channel (down p) (across q)" with p=patch_size, q=patch_size. In '
        "plain torch: reshape to six axes, permute, reshape to three.",
        "On the right, (down across) counts the patches: the last letter of a bracket moves fastest, so it goes from left to "
        "right, then down. The numbers of one patch are (channel p q).",
    ),
    mistakes={
        "The patches go down first, then across: they were to be read like the words of a page, line by line.": (
            "(down across) (channel p q)",
            "(across down) (channel p q)",
        ),
        "The channels stand last in a patch, as in a picture file. Here all of channel 0 comes first, as in a Conv2d's weights.": (
            "(channel p q)",
            "(p q channel)",
        ),
        "A patch is read column by column: it is transposed.": ("(channel p q)", "(channel q p)"),
        'The pixels are only reshaped: a "patch" is then a strip of the picture\'s rows, no square.': (
            "return rearrange(pixels, cut, p=patch_size, q=patch_size)",
            "return pixels.reshape(len(pixels), -1, pixels.shape[1] * patch_size**2)",
        ),
        "A patch holds every n-th pixel of the whole picture: the axis is split into places within a patch first, and patches second.": (
            "(down p) (across q) ->",
            "(p down) (q across) ->",
        ),
        "Each channel gives patches of its own: one patch was to have the numbers of all channels.": (
            "(down across) (channel p q)",
            "(channel down across) (p q)",
        ),
        "The patches keep their own axes, as a grid: they must stand in one row, like tokens.": (
            "batch (down across) (channel",
            "batch down across (channel",
        ),
    },
)
def check_patchify(patchify, rng):
    yield "a picture of 4 x 4, patches of 2", patchify(torch.arange(16.0).reshape(1, 1, 4, 4), 2)
    yield "two channels", patchify(torch.arange(16.0).reshape(1, 2, 2, 4), 2)
    pixels = torch.randn(2, 3, 4, 6, generator=rng)
    yield "two pictures of 4 x 6 in three channels", patchify(pixels, 2)
    yield "patches of one pixel", patchify(pixels, 1)
    yield "patches of 3 in a picture of 6 x 9", patchify(torch.randn(1, 2, 6, 9, generator=rng), 3)
    yield "one patch: the whole picture", patchify(pixels[..., :4], 4)
    leaf, weights = pixels.clone().requires_grad_(), torch.randn(2, 6, 12, generator=rng)
    (patchify(leaf, 2) * weights).sum().backward()
    yield "the gradient for the pixels", leaf.grad
    yield "a picture that the patches do not fill is refused", raised(patchify, pixels, 4)


@observes(
    "contrastive_loss",
    difficulty=2,
    minutes=20,
    hints=(
        "Make a table with a row for each image and a column for each text, and in each cell how alike the two are. The right "
        "cell of each row is known. What loss do you use when one of n is right?",
        "`F.normalize` brings every embedding to length 1, so one matrix product is the table of cosines; the scale "
        "is the exponential of log_scale. The right column of row i is i: torch.arange(len(images)).",
        "A cross-entropy over the rows asks each image for its text. The table transposed, the same asks each text "
        "for its image. Return the mean of the two.",
    ),
    mistakes={
        "The embeddings are not brought to length 1: a long vector is then like everything.": (
            "    images, texts = F.normalize(images, dim=-1), F.normalize(texts, dim=-1)\n",
            "",
        ),
        "Only the images are asked for their text: that each text should find its image counts for nothing.": (
            "F.cross_entropy(logits.T, own)",
            "F.cross_entropy(logits, own)",
        ),
        "The two losses are added: their mean was asked for.": (
            "F.cross_entropy(logits.T, own)) / 2",
            "F.cross_entropy(logits.T, own))",
        ),
        "log_scale is used as the scale itself. It is its logarithm, so that whatever is learnt the scale stays positive.": (
            "log_scale.exp() * images",
            "log_scale * images",
        ),
        "The cosines are divided by the scale. It is one over the temperature: the larger it is, the sharper the softmax should be.": (
            "log_scale.exp() * images",
            "(-log_scale).exp() * images",
        ),
        "No gradient reaches log_scale, so the temperature is never learnt.": (
            "log_scale.exp() * images",
            "log_scale.detach().exp() * images",
        ),
        "The embeddings are normalised over the batch: it is each row that should have length 1.": (
            "F.normalize(images, dim=-1), F.normalize(texts, dim=-1)",
            "F.normalize(images, dim=0), F.normalize(texts, dim=0)",
        ),
        "A softmax is taken before cross_entropy, which takes one itself: the logits are squashed twice.": (
            "log_scale.exp() * images @ texts.T",
            "(log_scale.exp() * images @ texts.T).softmax(dim=-1)",
        ),
        "Each cell is judged alone, by a sigmoid: that is SigLIP's loss (2023). CLIP's is a softmax over the row and over the column.": (
            "return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2",
            "return F.binary_cross_entropy_with_logits(logits, torch.eye(len(own)), reduction='sum') / len(own)",
        ),
        "The losses of the batch are summed, not averaged, and so grow with the batch.": (
            "return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2",
            "return (F.cross_entropy(logits, own, reduction='sum') + F.cross_entropy(logits.T, own, reduction='sum')) / 2",
        ),
    },
)
def check_contrastive_loss(contrastive_loss, rng):
    scale = torch.tensor(1.2)
    worked = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    yield "two pairs, alike and at right angles to the others", contrastive_loss(worked, worked, torch.tensor(0.0))
    images, texts = torch.randn(5, 4, generator=rng), torch.randn(5, 4, generator=rng)
    yield "five pairs", contrastive_loss(images, texts, scale)
    yield "images and texts exchanged", contrastive_loss(texts, images, scale)
    yield "embeddings of other lengths", contrastive_loss(7.0 * images, 0.2 * texts, scale)
    crowd = torch.stack([texts[0]] * 3 + [texts[3], -texts[0]])
    yield "one text three times", contrastive_loss(images, crowd, scale)
    yield "a scale of 100", contrastive_loss(images, texts, torch.tensor(100.0).log())
    leaves = [tensor.clone().requires_grad_() for tensor in (images, texts, scale)]
    contrastive_loss(*leaves).backward()
    for name, leaf in zip(("the images", "the texts", "log_scale"), leaves, strict=True):
        yield f"the gradient for {name}", torch.zeros(1) if leaf.grad is None else leaf.grad
    yield "a single pair is refused", raised(contrastive_loss, images[:1], texts[:1], scale)
    yield "different numbers of images and texts are refused", raised(contrastive_loss, images, texts[:4], scale)


@observes(
    "ImageProjector",
    difficulty=3,
    minutes=20,
    hints=(
        "With merge 1 it is the feed-forward net of week 1 with another GELU. With merge 2, four neighbours of the *picture* "
        "become one token; in the row of 16 patches they are numbers 0, 1, 4 and 5.",
        "w_in reads d_image * merge**2 numbers. To bring neighbours together, split the patch axis into (down, r, across, c): "
        "which square down, which row in it, which square across, which column in it.",
        "Split on the left as (down r across c). On the right, down and across number the squares, and r, c and d "
        "are the numbers of one square, in this order. Then the two maps, with the exact GELU between them.",
    ),
    mistakes={
        "There is no GELU between the maps: two linear maps in a row are one.": (
            "F.gelu(self.w_in(merged))",
            "self.w_in(merged)",
        ),
        "There is a ReLU in the place of the GELU.": ("F.gelu(self.w_in(merged))", "F.relu(self.w_in(merged))"),
        "The GELU is the tanh form, which GPT-2 has: LLaVA's projector has the exact one.": (
            "F.gelu(self.w_in(merged))",
            "F.gelu(self.w_in(merged), approximate='tanh')",
        ),
        "Patches that follow each other in the row are merged: a strip, no square. Numbers 0, 1, 4, 5 of a 4 x 4 grid are neighbours.": (
            "merged = rearrange(features, squares, down=down, across=down, r=self.merge, c=self.merge)",
            "merged = features.reshape(len(features), down * down, -1)",
        ),
        "The patches of a square are joined column by column: row by row was asked for.": ("(r c d)", "(c r d)"),
        "The squares go down first, then across: the model would read a transposed picture.": (
            "batch (down across) (r c d)",
            "batch (across down) (r c d)",
        ),
        "The features of a square are interleaved: those of one patch should stand together.": (
            "(r c d)",
            "(d r c)",
        ),
        "There is a GELU after w_out too: an embedding of the language model has negative numbers of every size.": (
            "return self.w_out(F.gelu(self.w_in(merged)))",
            "return F.gelu(self.w_out(F.gelu(self.w_in(merged))))",
        ),
        "The patches of a square are averaged: w_in then cannot tell which was where.": [
            ("nn.Linear(d_image * merge**2, d_model)", "nn.Linear(d_image, d_model)"),
            (
                "merged = rearrange(features, squares, down=down, across=down, r=self.merge, c=self.merge)",
                "merged = rearrange(features, squares, down=down, across=down, r=self.merge, c=self.merge)\n"
                "        merged = merged.unflatten(-1, (self.merge**2, -1)).mean(dim=2)",
            ),
        ],
        "w_in has no bias.": (
            "nn.Linear(d_image * merge**2, d_model)",
            "nn.Linear(d_image * merge**2, d_model, bias=False)",
        ),
    },
)
def check_ImageProjector(ImageProjector, rng):
    d_image, d_model = 3, 5
    features = torch.randn(2, 16, d_image, generator=rng)
    for merge in (1, 2, 4):
        projector = ImageProjector(d_image, d_model, merge)
        told = {"d_image": d_image, "d_model": d_model, "merge": merge}
        yield f"merge {merge}: parameters", shapes(projector), told
        filled(projector, rng)
        before = features.clone()
        yield f"merge {merge}: two pictures of 16 patches", projector(features), told | {"features": before}
        yield f"merge {merge}: large features", projector(30 * features), told | {"features": 30 * before}
    yield "features left as they were", torch.equal(features, before)
    projector = filled(ImageProjector(d_image, d_model, 3), rng)
    six = torch.randn(1, 36, d_image, generator=rng).requires_grad_()
    out = projector(six)
    yield "merge 3: 36 patches", out, {"merge": 3, "features": six.detach()}
    (out * torch.randn(1, 4, d_model, generator=rng)).sum().backward()
    yield "the gradient for the features", six.grad, {"merge": 3, "features": six.detach()}
    yield "the gradient for w_in", projector.w_in.weight.grad, {"merge": 3, "features": six.detach()}
    yield "16 patches for merge 3 are refused", raised(projector, features), {"merge": 3, "features": features}
    yield "15 patches are refused", raised(ImageProjector(d_image, d_model), features[:, :15]), {"merge": 1}


@observes(
    "splice_image_tokens",
    difficulty=4,
    minutes=35,
    hints=(
        "Work on one row at a time. A row is text, picture, text, picture, …, text, where a text may be empty. Each piece gives "
        "some embeddings and as many labels. Join the pieces; pad the rows at the end.",
        "First take what the mask shows: ids[mask], labels[mask]. `(ids == IMAGE_ID).nonzero()` tells where to cut. A text's "
        "embeddings are embed(ids[start:place]); a picture's are images[i][n], and its labels are all -100.",
        "Lists of rows: `nn.utils.rnn.pad_sequence(rows, batch_first=True)` pads with zeros, `padding_value=-100` for labels. The "
        "mask comes from the new lengths: torch.arange(longest) < lengths[:, None].",
    ),
    mistakes={
        "An image token has the placeholder's label: nothing is to be predicted there, so its label is -100.": (
            "goal.new_full((len(image),), -100)",
            "goal[place].repeat(len(image))",
        ),
        "The token after each picture is lost: the next text begins right behind the placeholder.": (
            "start = place + 1",
            "start = place + 2",
        ),
        "The pictures of a row come in the reverse order.": (
            "nonzero().flatten().tolist(), own, strict=True",
            "nonzero().flatten().tolist(), own.flip(0), strict=True",
        ),
        "The mask is as long as before: it hides the end of each row with a picture.": (
            "lengths = torch.tensor([len(row) for row in rows], device=token_ids.device)",
            "lengths = attention_mask.sum(dim=1)",
        ),
        "Padding is kept as if it were text: what attention_mask hides was to be left out before the rows are padded anew.": (
            "        ids, goal = ids[mask], goal[mask]\n",
            "",
        ),
        "The labels are padded with 0, which is a token: the loss would count it.": (
            "padding_value=-100",
            "padding_value=0",
        ),
        "The rows are padded on the left here, so the first token no longer stands at place 0.": [
            (
                "nn.utils.rnn.pad_sequence(rows, batch_first=True)",
                "nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_side='left')",
            ),
            ("batch_first=True, padding_value=-100)", "batch_first=True, padding_value=-100, padding_side='left')"),
            (
                "torch.arange(int(lengths.max()), device=token_ids.device) < lengths[:, None]",
                "torch.arange(int(lengths.max())) >= lengths.max() - lengths[:, None]",
            ),
        ],
        "No gradient reaches the pictures, so the projector would learn nothing.": (
            "parts += [embed(ids[start:place]), image]",
            "parts += [embed(ids[start:place]), image.detach()]",
        ),
        "Only the first token of each picture is put in.": [
            ("parts += [embed(ids[start:place]), image]", "parts += [embed(ids[start:place]), image[:1]]"),
            ("goal.new_full((len(image),), -100)", "goal.new_full((1,), -100)"),
        ],
        "The text after the last picture is missing.": [
            ("torch.cat([*parts, embed(ids[start:])])", "torch.cat(parts or [embed(ids)])"),
            ("torch.cat([*wanted, goal[start:]])", "torch.cat(wanted or [goal])"),
        ],
        "The labels are shifted here. They stand at the places of their tokens; the loss shifts them.": (
            "goals.append(torch.cat([*wanted, goal[start:]]))",
            "goals.append(torch.cat([*wanted, goal[start:]])[1:])\n        goals[-1] = torch.cat([goals[-1], goal.new_tensor([-100])])",
        ),
    },
)
def check_splice_image_tokens(splice_image_tokens, rng):
    embed = nn.Embedding(9, 2)
    filled(embed, rng)

    def spliced(rows, pictures, lengths=None):
        ids = torch.tensor(rows)
        labels = ids.clone()
        labels[:, 0] = -100  # the prompt's first token; a placeholder keeps its own number as its label
        mask = torch.arange(ids.shape[1]) < torch.tensor(lengths or [ids.shape[1]] * len(ids))[:, None]
        return splice_image_tokens(ids, labels, mask, pictures, embed)

    def picture(count, tokens):
        return torch.randn(count, tokens, 2, generator=rng)

    none, x = picture(0, 3), IMAGE_ID
    yield "no picture", spliced([[1, 2, 3]], [none])
    yield "one picture of three tokens", spliced([[1, x, 2, 3]], [picture(1, 3)])
    yield "a picture at the beginning and one at the end", spliced([[x, 1, 2, x]], [picture(2, 2)])
    yield "two pictures side by side", spliced([[x, x, 1]], [picture(2, 2)])
    yield (
        "rows with none, one and two pictures",
        spliced(
            [[1, 2, 3, 4, 0, 0], [5, x, 6, 7, 8, 0], [2, x, 3, 4, x, 5]],
            [none, picture(1, 3), picture(2, 2)],
            lengths=[4, 5, 6],
        ),
    )
    yield "a row of padding only beside another", spliced([[0, 0, 0], [1, x, 2]], [none, picture(1, 2)], lengths=[0, 3])
    leaf, rows = picture(2, 2).requires_grad_(), torch.tensor([[1, x, 2, x, 2]])
    merged = splice_image_tokens(rows, rows.clone(), torch.ones_like(rows, dtype=torch.bool), [leaf], embed)
    weights = torch.randn(1, 7, 2, generator=rng)
    embed.weight.grad = None
    (merged["embeddings"] * weights).sum().backward()
    yield "the gradient for the pictures", torch.zeros(1) if leaf.grad is None else leaf.grad
    yield "the gradient for the embeddings of the text", embed.weight.grad
    yield "a picture too few is refused", raised(spliced, [[1, x, 2, x]], [picture(1, 2)])
    yield "a picture too many is refused", raised(spliced, [[1, x, 2, 3]], [picture(2, 2)])
    yield (
        "pictures that belong to another row are refused",
        raised(spliced, [[1, x, 2], [1, 3, 2]], [none, picture(1, 2)]),
    )


@observes(
    "GatedCrossAttention",
    difficulty=3,
    minutes=25,
    hints=(
        "It is attention of week 1 with two changes: queries come from the text, keys and values from the pictures' patches; and the "
        "mask asks *whose* patch it is instead of *when*.",
        "Lay the patches of all pictures of a row side by side: (batch, image * patch, d_image). Patch number j belongs to picture "
        "j // n_patches; a token sees it where that equals its image_index.",
        "A token with -1 sees no key: fill with the lowest finite number, not -inf, so that the softmax stays "
        "finite, and let nothing of what comes out reach such a token. What is left goes through w_o, is scaled by "
        "tanh(gate), and is added to x.",
    ),
    mistakes={
        "The gate goes in without tanh: tanh keeps it between -1 and 1.": (
            "self.gate.tanh() * seen",
            "self.gate * seen",
        ),
        "The gate is a sigmoid: at 0 it is half open, so the language model is changed before anything is learnt.": (
            "self.gate.tanh() * seen",
            "self.gate.sigmoid() * seen",
        ),
        "The gate closes the residual path too: at the start nothing would come through.": (
            "return x + self.gate.tanh() * seen * (image_index >= 0)[..., None]",
            "return self.gate.tanh() * (x + seen * (image_index >= 0)[..., None])",
        ),
        "The picture replaces x; it should be added to it.": ("return x + self.gate.tanh()", "return self.gate.tanh()"),
        "Every token looks at all pictures: it should look at its own only.": (
            "visible = image_index[:, None, :, None] == owner",
            "visible = (image_index[:, None, :, None] == owner) | True",
        ),
        "A token looks at its own picture and at all before it: Flamingo lets it see one.": (
            "visible = image_index[:, None, :, None] == owner",
            "visible = image_index[:, None, :, None] >= owner",
        ),
        "A token before any picture gets the mean of all patches: the softmax of a row in which all is hidden is uniform.": (
            "self.gate.tanh() * seen * (image_index >= 0)[..., None]",
            "self.gate.tanh() * seen",
        ),
        "The scores are not divided by √d_head, so the softmax saturates as heads get wider.": (
            " * q.shape[-1] ** -0.5)",
            ")",
        ),
        "The scores are divided by √d_model: each head is d_head wide.": ("q.shape[-1] ** -0.5", "x.shape[-1] ** -0.5"),
        "One head does it all: each of n_heads should look at the picture in its own way.": (
            "rearrange(part, split, head=self.n_heads)",
            "rearrange(part, split, head=1)",
        ),
        "The softmax goes over the tokens, not over the patches.": ("scores.softmax(dim=-1)", "scores.softmax(dim=-2)"),
    },
)
def check_GatedCrossAttention(GatedCrossAttention, rng):
    d_model, d_image = 6, 4
    layer = GatedCrossAttention(d_model, d_image, 2)
    x, images = torch.randn(2, 7, d_model, generator=rng), torch.randn(2, 3, 5, d_image, generator=rng)
    index = torch.tensor([[-1, -1, 0, 0, 1, 1, 2], [0, 1, 1, 1, 1, 2, 2]])
    told = {"x": x.clone(), "images": images.clone(), "image_index": index.clone(), "n_heads": 2}
    yield "parameters", shapes(layer), {"d_model": d_model, "d_image": d_image, "n_heads": 2}
    yield "a new layer changes nothing", (layer(x, images, index) - x).abs().max(), told
    filled(layer, rng)
    with torch.no_grad():
        layer.gate.fill_(0.9)
    short = x[:1, :2], images[:1, :1], torch.tensor([[0, 0]])
    yield "two tokens on one picture", layer(*short), dict(zip(("x", "images", "image_index"), short, strict=True))
    yield "seven tokens on three pictures", layer(x, images, index), told
    yield "scores far apart", layer(40 * x, images, index), told
    yield "a row without any picture", layer(x, images, torch.full_like(index, -1)), told
    yield "inputs left as they were", [torch.equal(x, told["x"]), torch.equal(images, told["images"])]
    with torch.no_grad():
        layer.gate.fill_(0.0)
    leaf = images.clone().requires_grad_()
    (layer(x, leaf, index) * torch.randn(x.shape, generator=rng)).sum().backward()
    yield "gate 0: the gradient for the gate", layer.gate.grad, told
    with torch.no_grad():
        layer.gate.fill_(-1.5)
    leaf.grad = None
    (layer(x, leaf, index) * torch.randn(x.shape, generator=rng)).sum().backward()
    yield "gate -1.5: the gradient for the pictures", leaf.grad, told
