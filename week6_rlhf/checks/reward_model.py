"""What right answers of lesson 01 show, and the known mistakes. Labels are judged by their distribution."""

import torch

from shared.checking import observes, raised
from week1_decoder.solutions.decoder import GPT, GPTConfig


def nearest(value: float, places: tuple[float, ...]) -> str:
    """In words, so that another order of draws looks the same."""
    return f"about {min(places, key=lambda place: abs(place - value))}"


def _sorted(pairs):
    return sorted([int(pair[0]), int(pair[1]), int(pair[2])] for pair in pairs)


def _many(rng, n_prompts=250):
    """Replies and scores at random, four a prompt, all different."""
    scores = torch.rand(n_prompts, 4, generator=rng, dtype=torch.float64).tolist()
    return [[f"story {i} of prompt {p}" for i in range(4)] for p in range(n_prompts)], scores


def _wrong(pairs, scores):
    """(prompt, is the label wrong, distance of the scores) of each pair."""
    found = []
    for prompt, chosen, rejected in pairs:
        distance = scores[prompt][chosen] - scores[prompt][rejected]
        found.append((prompt, distance < 0, abs(distance)))
    return found


@observes(
    "make_preference_pairs",
    difficulty=2,
    minutes=15,
    hints=(
        "Go through the prompts, and for each through all pairs of its replies. Most pairs give a label, some give none.",
        "`itertools.combinations(range(n), 2)` gives each pair once. Pass over a pair if a text is empty after `.strip()`, if "
        "the texts are equal, or the scores are.",
        "Order the pair by score; then draw one number from 0 to 1, `torch.rand((), generator=generator)`, for this pair "
        "alone, and swap chosen and rejected if it is below `noise`. Append Pair(prompt, chosen, rejected).",
    ),
    mistakes={
        "No label is ever wrong: `noise` is not used.": (
            "if torch.rand((), generator=generator).item() < noise:",
            "if False:",
        ),
        "The reply with the lower score is chosen.": ("values[i] > values[j]", "values[i] < values[j]"),
        "The draw is made once for a prompt, so all its labels are wrong together: each label needs a draw of its own.": [
            (
                "        texts = [text.strip() for text in texts]\n",
                "        texts = [text.strip() for text in texts]\n"
                "        drawn = torch.rand((), generator=generator).item()\n",
            ),
            ("torch.rand((), generator=generator).item() < noise", "drawn < noise"),
        ],
        "A label becomes a coin's with probability `noise`, and half of those are right by luck: it should be wrong with "
        "that probability.": (".item() < noise", ".item() < noise / 2"),
        "Labels are wrong more often where the scores are near. People are like that (Bradley-Terry); asked for was the "
        "same noise for all.": (
            ".item() < noise",
            ".item() < min(1.0, 2 * noise * (1 - abs(values[i] - values[j])) ** 2)",
        ),
        "Equal scores give a label, by the order of the replies: such a pair has no preferred one.": (
            " or values[i] == values[j]",
            "",
        ),
        "Two replies with the same text give a pair: the model could learn only the noise from it.": (
            " or texts[i] == texts[j]",
            "",
        ),
        "An empty reply is compared with the others: there is nothing in it to prefer or to reject.": (
            "not texts[i] or not texts[j] or ",
            "",
        ),
        "White space counts as text, so a reply of blanks is compared, or one that differs from another by a blank.": (
            "text.strip() for text in texts",
            "text for text in texts",
        ),
        "Only neighbours are compared: K replies give K(K - 1)/2 pairs, not K - 1.": (
            "itertools.combinations(range(len(texts)), 2)",
            "itertools.pairwise(range(len(texts)))",
        ),
        "Each pair comes twice, as (i, j) and as (j, i).": ("itertools.combinations", "itertools.permutations"),
        "Only the best and the worst reply are compared.": (
            "itertools.combinations(range(len(texts)), 2)",
            "[(values.index(max(values)), values.index(min(values)))] * bool(values)",
        ),
        "The draws do not come from `generator`: the same seed gives other labels.": (
            "torch.rand((), generator=generator)",
            "torch.rand(())",
        ),
    },
)
def check_make_preference_pairs(make_preference_pairs, rng):
    worked = [["a", "b", ""], ["x", "y", "z"]], [[0.5, 2.0, 1.0], [3.0, 1.0, 2.0]]
    yield "two prompts: the pairs, sorted", _sorted(make_preference_pairs(*worked))
    ties = [["a", "b", "c", "d"]], [[1.0, 2.0, 1.0, -1.0]]
    yield "two equal scores", _sorted(make_preference_pairs(*ties))
    same = [["a", "b", "a"], ["b", "b"]], [[1.0, 2.0, 3.0], [0.0, 1.0]]
    yield "two equal texts", _sorted(make_preference_pairs(*same))
    blank = [["a", " \n", "a ", "b"], []], [[1.0, 2.0, 3.0, 0.5], []]
    yield "white space", _sorted(make_preference_pairs(*blank))
    replies, scores = _many(rng)
    yield "four replies a prompt: pairs without noise", _sorted(make_preference_pairs(replies[:3], scores[:3]))
    for noise in (0.3, 0.5):
        drawn = make_preference_pairs(replies, scores, noise, torch.Generator().manual_seed(5))
        labels = _wrong(drawn, scores)
        yield f"250 prompts, noise {noise}: number of pairs", len(labels)
        wrong = sum(label for _, label, _ in labels) / len(labels)
        yield f"250 prompts, noise {noise}: share of wrong labels", nearest(wrong, (0, 0.15, 0.3, 0.5, 0.7, 1))
        one_sort = 250 - len({p for p, label, _ in labels if label} & {p for p, label, _ in labels if not label})
        yield f"250 prompts, noise {noise}: whether many have only wrong or only right labels", one_sort > 90
        far = [label for _, label, distance in labels if distance > 0.5]
        yield (
            f"250 prompts, noise {noise}: share of wrong labels where scores are far apart",
            nearest(sum(far) / len(far), (0.08, 0.3, 0.5, 0.7, 1)),
        )
    twice = [
        _sorted(make_preference_pairs(replies[:40], scores[:40], 0.3, torch.Generator().manual_seed(s)))
        for s in (1, 1, 2)
    ]
    yield "the same seed twice: whether the pairs are the same", twice[0] == twice[1]
    yield "another seed: whether the pairs are the same", twice[0] == twice[2]
    yield "noise 0.6 is refused", raised(make_preference_pairs, *worked, 0.6)
    yield "a score that is nan is refused", raised(make_preference_pairs, [["a", "b"]], [[1.0, float("nan")]])
    yield "a missing score is refused", raised(make_preference_pairs, [["a", "b"]], [[1.0]])


@observes(
    "bradley_terry_loss",
    difficulty=1,
    minutes=10,
    hints=(
        "The probability that the chosen one is preferred is σ of a difference. The loss is its negative logarithm.",
        "σ(-10000) is 0 in any float, and its logarithm is -inf. PyTorch has the logarithm of σ as one function.",
        "`F.logsigmoid` of the difference; then one mean, and a minus sign. A margin is taken off the difference "
        "before σ sees it.",
    ),
    mistakes={
        "The logarithm is taken of a σ that is rounded to 0: a pair that is far wrong makes the loss infinite.": (
            "-F.logsigmoid(difference)",
            "-difference.sigmoid().log()",
        ),
        "An epsilon inside the logarithm hides the infinity, and cuts off the gradient of the pairs that are most wrong.": (
            "-F.logsigmoid(difference)",
            "-(difference.sigmoid() + 1e-8).log()",
        ),
        "The sign of the difference is wrong: the model learns to prefer what was rejected.": (
            "chosen - rejected",
            "rejected - chosen",
        ),
        "The loss is the log-probability itself, not its negative: training makes it smaller, and the chosen replies less likely.": (
            "-F.logsigmoid",
            "F.logsigmoid",
        ),
        "The pairs are added up, not averaged: a step then grows with the size of the batch.": (
            ".mean()",
            ".sum()",
        ),
        "The margin is added, not subtracted: a pair that should differ more is asked to differ less.": (
            "difference - margin",
            "difference + margin",
        ),
        "The margin is not used: a pair that people found far apart counts like any other.": (
            "difference = difference - margin",
            "pass",
        ),
        "The margin is subtracted from the loss, where it changes no gradient: it belongs inside σ.": [
            (
                "        difference = difference - margin\n",
                "        return (-F.logsigmoid(difference) - margin).mean()\n",
            ),
        ],
        "The loss is 1 - σ, the probability of being wrong, without a logarithm: it is flat where the model is most wrong.": (
            "-F.logsigmoid(difference)",
            "(1 - difference.sigmoid())",
        ),
        "The loss is a hinge: beyond a difference of 1 nothing is learnt, and no probability stands behind it.": (
            "-F.logsigmoid(difference)",
            "F.relu(1 - difference)",
        ),
        "No gradient flows to the rejected one: half of what a pair teaches is lost.": (
            "chosen - rejected",
            "chosen - rejected.detach()",
        ),
        "The difference is clamped: where the model is most wrong it gets no gradient.": (
            "difference = chosen - rejected",
            "difference = (chosen - rejected).clamp(-20, 20)",
        ),
    },
)
def check_bradley_terry_loss(bradley_terry_loss, rng):
    yield "one pair, 2 against 1", bradley_terry_loss(torch.tensor([2.0]), torch.tensor([1.0]))
    yield "equal rewards: ln 2", bradley_terry_loss(torch.zeros(3), torch.zeros(3))
    chosen, rejected = 2 * torch.randn(2, 5, generator=rng)
    margin = torch.rand(5, generator=rng) + 0.5
    yield "five pairs", bradley_terry_loss(chosen, rejected)
    yield "five pairs, each with a margin", bradley_terry_loss(chosen, rejected, margin)
    yield "a constant added to all rewards", bradley_terry_loss(chosen + 3, rejected + 3)
    yield "rewards of ±10⁴", bradley_terry_loss(torch.tensor([1e4, -1e4]), torch.tensor([-1e4, 1e4]))
    for label, values in (
        ("five pairs", (chosen, rejected, None)),
        ("five pairs with margins", (chosen, rejected, margin)),
        ("a pair that is far wrong", (torch.tensor([-60.0]), torch.tensor([60.0]), None)),
    ):
        rewards = [value.clone().requires_grad_() for value in values[:2]]
        loss = bradley_terry_loss(*rewards, values[2])
        gradients = torch.autograd.grad(loss, rewards, allow_unused=True)
        yield f"{label}: gradient", [torch.zeros(1) if g is None else g for g in gradients]
    yield "a batch without pairs is refused", raised(bradley_terry_loss, chosen[:0], rejected[:0])
    yield "a column where a row is due is refused", raised(bradley_terry_loss, chosen, rejected[:, None])
    yield "rewards that are nan are refused", raised(bradley_terry_loss, chosen, rejected * torch.nan)


def _trunk(rng, **changes):
    sizes = dict(vocab_size=11, context_length=9, d_model=8, n_heads=2, n_layers=2, d_ff=12)
    trunk = GPT(GPTConfig(**{**sizes, **changes}))
    with torch.no_grad():
        for _, parameter in sorted(trunk.named_parameters()):
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=rng))
    return trunk


def _model(RewardModel, rng):
    """On a trunk at random, with a head at random: the same numbers for any answer."""
    model = RewardModel(_trunk(rng)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("trunk."):
                parameter.copy_(torch.randn(parameter.shape, generator=rng))
    return model


def _size_at_start(RewardModel, rng):
    """How large the rewards of new models are, in words: the mean square over eight of them."""
    trunk = GPT(GPTConfig(vocab_size=11, context_length=9, d_model=64, n_heads=2, n_layers=1), generator=rng)
    token_ids = torch.randint(0, 11, (4, 5), generator=rng)
    with torch.no_grad():
        found = [RewardModel(trunk)(token_ids, torch.ones(4, 5, dtype=torch.bool)) for _ in range(8)]
    return "small" if torch.stack(found).square().mean().sqrt() < 2.5 else "large"


@observes(
    "RewardModel",
    difficulty=2,
    minutes=20,
    hints=(
        "Three steps: hidden states of all tokens, the row's last real position, one product. The trunk has a method that "
        "gives hidden states after the final norm.",
        "`self.trunk.hidden_states(token_ids, attention_mask)`. The last real position is the largest position whose mask is "
        "True; counting the real tokens finds it only where padding stands on the right.",
        "Number the places 0, 1, 2, … and set those that the mask hides to 0: the largest that is left is the last "
        "real one. Two index tensors, one of rows and one of places, pick one hidden state a row. The head is an "
        "nn.Linear without bias, its weight drawn from N(0, 0.02²).",
    ),
    mistakes={
        "The last position is read, padding or not: a row's reward then depends on what it was batched with.": (
            "hidden[rows, last]",
            "hidden[:, -1]",
        ),
        "The first token is read. It has seen nothing of the text: attention looks back only.": (
            "hidden[rows, last]",
            "hidden[rows, attention_mask.int().argmax(dim=1)]",
        ),
        "The hidden states of all real tokens are averaged; asked for was that of the last one.": (
            "hidden[rows, last]",
            "((hidden * attention_mask[..., None]).sum(dim=1) / attention_mask.sum(dim=1, keepdim=True))",
        ),
        "The token before the last real one is read.": ("hidden[rows, last]", "hidden[rows, (last - 1).clamp(min=0)]"),
        "The last real token is found by counting real tokens: that is right only where padding stands on the right.": (
            "(places * attention_mask).argmax(dim=1)",
            "attention_mask.sum(dim=1) - 1",
        ),
        "Padding is told by its token, not by the mask: a text that ends in that token (EOS, often) loses its end.": (
            "(places * attention_mask).argmax(dim=1)",
            "(places * (token_ids != 0)).argmax(dim=1)",
        ),
        "The mask is not given to the trunk: with padding on the left, the real tokens look at it and have other positions.": (
            "self.trunk.hidden_states(token_ids, attention_mask)",
            "self.trunk.hidden_states(token_ids)",
        ),
        "The final norm is left out: the head reads the residual stream, whose size grows with depth.": (
            "        hidden = self.trunk.hidden_states(token_ids, attention_mask)  # (batch, seq, d_model)\n",
            "        norm, self.trunk.final_norm = self.trunk.final_norm, nn.Identity()\n"
            "        hidden = self.trunk.hidden_states(token_ids, attention_mask)\n"
            "        self.trunk.final_norm = norm\n",
        ),
        "The head starts at weights of N(0, 1): rewards of about √d_model, so the first pairs are judged with great certainty.": (
            "std=0.02",
            "std=1.0",
        ),
        "The head has a bias. It adds the same to both sides of a pair, so no pair can teach it.": (
            "bias=False",
            "bias=True",
        ),
        "The result has shape (batch, 1). Two such columns pass any loss, but with a row they broadcast to a matrix.": (
            "self.head(hidden[rows, last])[:, 0]",
            "self.head(hidden[rows, last])",
        ),
        "The trunk gets no gradient: only the head learns.": ("hidden[rows, last]", "hidden[rows, last].detach()"),
        "The reward is squeezed to 0 to 1: σ belongs to the loss, and on the difference of two rewards.": (
            "self.head(hidden[rows, last])[:, 0]",
            "self.head(hidden[rows, last])[:, 0].sigmoid()",
        ),
    },
)
def check_RewardModel(RewardModel, rng):
    model = _model(RewardModel, rng)
    own = {name: list(p.shape) for name, p in model.named_parameters() if not name.startswith("trunk.")}
    yield "parameters beside the trunk's", own
    of_trunk = {name for name, _ in model.named_parameters() if name.startswith("trunk.")}
    yield "the trunk's parameters are all there", len(of_trunk) == len(list(_trunk(rng).parameters()))
    row = torch.tensor([[4, 7, 0]])
    yield "one row", model(row, torch.ones(1, 3, dtype=torch.bool)), {"token_ids": row}
    lengths = torch.tensor([5, 2, 1, 4])
    real = torch.arange(6) < lengths[:, None]
    texts = torch.randint(1, 11, (4, 6), generator=rng)
    texts[0, 4] = texts[3, 3] = 0  # texts that end in the token that pads
    shown = {"token_ids": texts.masked_fill(~real, 0), "attention_mask": real}
    yield "rows of 5, 2, 1 and 4 tokens, padding on the right", model(*shown.values()), shown
    other = torch.randint(1, 11, (4, 6), generator=rng)
    yield "the same rows, other tokens as padding", model(torch.where(real, texts, other), real)
    alone = [model(texts[i : i + 1, :n], torch.ones(1, n, dtype=torch.bool)) for i, n in enumerate(lengths.tolist())]
    yield "the same rows, one at a time", torch.cat([one.reshape(-1) for one in alone])
    moved = torch.stack([one.roll(6 - n) for one, n in zip(texts, lengths.tolist(), strict=True)])
    yield "padding on the left", model(moved, real.flip(1))
    rewards = model(texts, real)
    inner = model.trunk.blocks[0].feed_forward.w_in.weight
    gradient = torch.autograd.grad(rewards.square().sum(), inner, allow_unused=True)[0]
    yield "the gradient of the trunk's first block", torch.zeros_like(inner) if gradient is None else gradient
    yield "rewards of a new model", _size_at_start(RewardModel, rng)
    yield "a row without a real token is refused", raised(model, texts, real & (lengths[:, None] > 1))
    yield "a mask of another shape is refused", raised(model, texts, real[:, :5])
    yield "a mask of numbers is refused", raised(model, texts, real.long())


def _probabilities(rng, n=400):
    """Not near an edge of ten or five bins, where rounding decides."""
    p = torch.rand(n, generator=rng)
    p = (p * 10).floor() / 10 + 0.005 + 0.09 * (p * 10 % 1)
    return p, torch.rand(n, generator=rng) < 0.5 + 0.4 * torch.cos(9 * p)


@observes(
    "expected_calibration_error",
    difficulty=2,
    minutes=15,
    hints=(
        "Sort the pairs into bins by their probability. In each, compare two means: of the outcomes and of the probabilities.",
        "The bin of p is floor(p · n_bins); p = 1 would get a bin of its own, so limit it to the last one. A bin without pairs "
        "adds nothing: skip it.",
        "Over the bins, add (number in the bin / number of pairs) · |mean outcome - mean probability|. Shorter: the number "
        "cancels, so |Σ (outcome - p) in the bin| / number of pairs.",
    ),
    mistakes={
        "All bins weigh the same, so that a handful of pairs in one counts as much as hundreds in another.": (
            "return sums.abs().sum().item() / len(gaps)",
            "n = torch.bincount(bins, minlength=n_bins)\n    return (sums.abs() / n)[n > 0].mean().item()",
        ),
        "The largest gap of a bin is returned (MCE), not their average.": (
            "return sums.abs().sum().item() / len(gaps)",
            "n = torch.bincount(bins, minlength=n_bins)\n    return (sums.abs() / n)[n > 0].max().item()",
        ),
        "The gaps of the bins are added with their signs: one bin that is too sure and one that is not sure enough cancel.": (
            "sums.abs().sum()",
            "sums.sum().abs()",
        ),
        "The gap of each pair is made positive before the mean: even a perfect forecast of 0.7 then errs by 0.42.": (
            "index_add(0, bins, gaps)",
            "index_add(0, bins, gaps.abs())",
        ),
        "Outcomes are compared with the middle of the bin, not with the mean probability of the pairs in it.": (
            "outcomes.double() - probabilities.double()",
            "outcomes.double() - (bins + 0.5) / n_bins",
        ),
        "The gaps are squared, and a root taken: asked for was the mean of their sizes.": (
            "return sums.abs().sum().item() / len(gaps)",
            "n = torch.bincount(bins, minlength=n_bins).clamp(min=1)\n"
            "    return (sums.square() / n).sum().div(len(gaps)).sqrt().item()",
        ),
        "p = 1 falls into the first bin.": (".clamp(max=n_bins - 1)", " % n_bins"),
        "p = 1 gets a bin of its own: the last bin holds it too.": [
            (".clamp(max=n_bins - 1)", ""),
            ("torch.zeros(n_bins, dtype", "torch.zeros(n_bins + 1, dtype"),
        ],
        "There are always ten bins, whatever n_bins says.": (
            "bins = (probabilities * n_bins).long().clamp(max=n_bins - 1)",
            "n_bins = 10\n    bins = (probabilities * n_bins).long().clamp(max=n_bins - 1)",
        ),
        "The confidence in the likelier outcome is binned, as for classifiers with several classes: asked for was the "
        "probability of one outcome.": (
            "    bins = ",
            "    outcomes = torch.where(probabilities < 0.5, ~outcomes, outcomes)\n"
            "    probabilities = torch.maximum(probabilities, 1 - probabilities)\n    bins = ",
        ),
    },
)
def check_expected_calibration_error(expected_calibration_error, rng):
    yes, no = torch.tensor([True]), torch.tensor([False])
    yield "one pair, probability 0.7, preferred", expected_calibration_error(torch.tensor([0.7]), yes)
    three_of_four = torch.tensor([True, True, False, True])
    yield "0.75 four times, three preferred", expected_calibration_error(torch.full((4,), 0.75), three_of_four)
    two = torch.tensor([0.23, 0.28, 0.71]), torch.tensor([False, True, True])
    yield "two bins of 2 pairs and 1 pair", expected_calibration_error(*two)
    opposite = torch.tensor([0.25, 0.75]), torch.tensor([True, False])
    yield "gaps of both signs", expected_calibration_error(*opposite)
    yield "p = 1, not preferred", expected_calibration_error(torch.tensor([1.0, 0.95]), torch.tensor([False, True]))
    yield "p = 1 and p = 0, both wrong", expected_calibration_error(torch.tensor([1.0, 0.0]), torch.cat([no, yes]))
    p, outcomes = _probabilities(rng)
    yield "400 pairs", expected_calibration_error(p, outcomes)
    yield "400 pairs, 5 bins", expected_calibration_error(p, outcomes, n_bins=5)
    yield "400 pairs, 1 bin", expected_calibration_error(p, outcomes, n_bins=1)
    yield "the other of the two asked for", expected_calibration_error(1 - p, ~outcomes)
    yield "a batch without pairs is refused", raised(expected_calibration_error, p[:0], outcomes[:0])
    yield "a probability above 1 is refused", raised(expected_calibration_error, p + 1, outcomes)
    yield "n_bins=0 is refused", raised(expected_calibration_error, p, outcomes, 0)


@observes(
    "length_controlled_reward",
    difficulty=2,
    minutes=15,
    hints=(
        "A straight line through (length, reward) has a slope. What lies on the line is what length explains; take it off.",
        "Prompts differ in both: subtract each prompt's mean (dim=1, keepdim=True) from rewards and from lengths first. The "
        "slope of all replies together is then Σ l·r / Σ l².",
        "Return rewards - slope * (lengths - their prompt's mean). If Σ l² is 0 there is no slope: return the rewards.",
    ),
    mistakes={
        "The means are those of all replies, not each prompt's own: prompts that ask for long stories and earn much then make a slope.": [
            ("rewards.mean(dim=1, keepdim=True)", "rewards.mean()"),
            ("lengths.mean(dim=1, keepdim=True)", "lengths.mean()"),
        ],
        "Each prompt gets a slope of its own: with few replies, that takes most of the reward out by chance.": [
            ("longer.square().sum()", "longer.square().sum(dim=1, keepdim=True)"),
            ("if spread == 0:", "if (spread == 0).all():"),
            ("(longer * r).sum() / spread * longer", "(longer * r).sum(dim=1, keepdim=True) / spread * longer"),
        ],
        "The slope is that of length on reward: words for each point of reward, not reward for each word.": (
            "(longer * r).sum() / spread",
            "(longer * r).sum() / r.square().sum()",
        ),
        "The correlation is taken for the slope: it has no unit, the slope is reward per word.": (
            "(longer * r).sum() / spread",
            "(longer * r).sum() / (spread * r.square().sum()).sqrt()",
        ),
        "What length explains is added once more.": ("return rewards - (longer", "return rewards + (longer"),
        "The line is subtracted from length 0 on, not from the prompt's mean length, so the prompt's mean reward moves.": (
            "/ spread * longer",
            "/ spread * lengths",
        ),
        "The prompt's mean reward is lost: only the residuals come back.": (
            "return rewards - (longer",
            "return r - (longer",
        ),
        "The reward is divided by the length: that assumes a reward in proportion to length, and favours long replies where it is negative.": (
            "return rewards - (longer * r).sum() / spread * longer",
            "return rewards / lengths",
        ),
        "Where no prompt has replies of two lengths it divides 0 by 0, and every reward is nan.": (
            "    if spread == 0:\n        return rewards.clone()\n",
            "",
        ),
    },
)
def check_length_controlled_reward(length_controlled_reward, rng):
    worked = torch.tensor([[1.0, 3.0]]), torch.tensor([[10.0, 20.0]])
    yield "two replies, the longer earns 2 more", length_controlled_reward(*worked)
    two = torch.tensor([[0.0, 1.0], [5.0, 7.0]]), torch.tensor([[1.0, 2.0], [10.0, 11.0]])
    yield "two prompts", length_controlled_reward(*two)
    lengths = (80 + 20 * torch.randn(6, 4, generator=rng)).round()
    noise = torch.randn(6, 4, generator=rng)
    of_prompt = torch.arange(6.0)[:, None]
    yield "six prompts, 0.05 a word", length_controlled_reward(0.05 * lengths + noise, lengths)
    yield "six prompts, shorter is better", length_controlled_reward(noise - 0.05 * lengths, lengths)
    yield (
        "prompts that ask for more and earn more",
        length_controlled_reward(noise + 3 * of_prompt, lengths + 40 * of_prompt),
    )
    equal = torch.full((2, 3), 7.0)
    yield "all lengths equal", length_controlled_reward(noise[:2, :3], equal)
    yield "rewards and lengths of different shapes are refused", raised(length_controlled_reward, noise, lengths[:5])
    yield "rewards that are nan are refused", raised(length_controlled_reward, noise * torch.nan, lengths)
