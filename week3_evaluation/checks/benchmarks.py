"""What a right answer of lesson 05 shows, and the known mistakes."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import nn

from shared.checking import observes, raised

SHOTS = [("Question: What is 1 + 1?\nAnswer:", "2"), ("Question: What do cows eat?\nAnswer:", "Grass, mostly.")]


@observes(
    "few_shot_prompt",
    difficulty=2,
    minutes=8,
    hints=(
        "Write the example of the docstring on paper, with every space and line break made visible.",
        "Each shot is question, one space, answer, two line breaks. The open question has nothing after it.",
        "Join the shots without anything between them: each brings its own empty line, the last one too. "
        "Description in front, open question behind. What the docstring refuses is refused before all that.",
    ),
    mistakes={
        "A space stands after the last question: the choices bring their own, and the tokenizer would never have split the "
        "text there.": ("for shown, answer in shots) + question", 'for shown, answer in shots) + question + " "'),
        "One line break stands between two examples: an empty line tells the model where one ends.": (
            '{answer}\\n\\n"',
            '{answer}\\n"',
        ),
        "The examples' answers stick to their questions, without a space.": ("{shown} {answer}", "{shown}{answer}"),
        "The description stands before each example, not only at the top.": (
            'description + "".join(f"{shown}',
            'description + "".join(f"{description}{shown}',
        ),
        "The examples stand in reverse order: the model looks most at the last ones, so the scores change.": (
            "for shown, answer in shots) + question",
            "for shown, answer in reversed(shots)) + question",
        ),
        "The description is stripped: its line breaks are part of the format.": (
            'return description + "".join',
            'return description.strip() + "".join',
        ),
        "The examples have no answers: the model is shown questions that nobody answers.": (
            '{shown} {answer}\\n\\n"',
            '{shown}\\n\\n"',
        ),
        "The description is left out when there are no examples.": (
            "return description +",
            'return (description if shots else "") +',
        ),
        "The question may be among its own examples, and then its answer stands in the prompt.": (
            "if any(shown == question for shown, _ in shots):",
            "if False:",
        ),
        "A question that ends with a space is taken as it is: the answer's first token is then another one.": (
            "if question != question.rstrip():",
            "if False:",
        ),
    },
)
def check_few_shot_prompt(few_shot_prompt, rng):
    question = "Question: Who barks?\nAnswer:"
    yield "the example of the docstring", few_shot_prompt([("1+1=", "2")], "2+2=", "Sums.\n\n")
    yield "no examples", few_shot_prompt([], question)
    yield "no examples, a description", few_shot_prompt([], question, "Questions about animals.\n\n")
    yield "two examples", few_shot_prompt(SHOTS, question)
    yield "two examples, a description", few_shot_prompt(SHOTS, question, "Easy ones.\n\n")
    numbers = torch.randint(1, 90, (int(torch.randint(1, 5, (), generator=rng)), 2), generator=rng).tolist()
    sums = [(f"{a}+{b}=", str(a + b)) for a, b in numbers]
    yield "sums at random", few_shot_prompt(sums, "97+1=", f" {len(sums)} sums first:\n")
    leak = [SHOTS[0], (question, "A dog.")]
    yield "a question that is among its examples is refused", raised(few_shot_prompt, leak, question)
    yield "a question that ends with a space is refused", raised(few_shot_prompt, SHOTS, question + " ")


class _Tokenizer:
    """Greedy longest match over a few words and all single characters; a special token 1 comes first unless told not."""

    WORDS = ("Answer:", "Ans", " yes", " no", ": ", "er:", "Q:", "\n\n", "\nA:", " maybe", "may", " yes\n")
    eos_token_id = 2

    def __init__(self, bos_token_id=1):
        self.bos_token_id = bos_token_id

    def __call__(self, text, add_special_tokens=True):
        ids, at = [1] if add_special_tokens else [], 0
        while at < len(text):
            word = max((w for w in self.WORDS if text.startswith(w, at)), key=len, default=text[at])
            ids.append(3 + self.WORDS.index(word) if word in self.WORDS else 20 + ord(word))
            at += len(word)
        return SimpleNamespace(input_ids=ids, attention_mask=[1] * len(ids))


@observes(
    "encode_pair",
    difficulty=3,
    minutes=15,
    hints=(
        "A tokenizer cuts a text by what stands around: ` yes` is one token, `yes` another. So which text must be encoded, "
        "and where is it cut?",
        "Move the white space at the prompt's end to the choice first. Then encode prompt + choice as one text, and take what comes "
        "after as many ids as the prompt alone has.",
        "What may still go wrong: special tokens, which a tokenizer adds unless it is told not to; an empty "
        "prompt, which needs its one token before all that; and a choice that adds no token to the prompt.",
    ),
    mistakes={
        "The choice is encoded alone, not as it stands in the text: where a token reaches over the border, other "
        "tokens come out.": (
            "tokenizer(stem + choice, add_special_tokens=False).input_ids[len(prompt_ids) :]",
            "tokenizer(choice, add_special_tokens=False).input_ids",
        ),
        "The space at the prompt's end stays there: a lone space and then a word is not how the tokenizer writes it.": (
            "stem = prompt.rstrip()",
            "stem = prompt",
        ),
        "The space at the prompt's end is lost: the choice then sticks to the prompt.": (
            "choice = prompt[len(stem) :] + choice",
            "choice = choice + ''",
        ),
        "Only blanks move to the choice, not the line breaks at the prompt's end.": (
            "stem = prompt.rstrip()",
            'stem = prompt.rstrip(" ")',
        ),
        "The tokenizer adds its special tokens to both texts: the prompt begins with a token that nobody asked for.": [
            ("tokenizer(stem, add_special_tokens=False)", "tokenizer(stem)"),
            ("tokenizer(stem + choice, add_special_tokens=False)", "tokenizer(stem + choice)"),
        ],
        "Special tokens are added to the whole and not to the prompt: the cut is one token too early.": (
            "tokenizer(stem + choice, add_special_tokens=False)",
            "tokenizer(stem + choice)",
        ),
        "An empty prompt gives no token at all: then nothing predicts the choice's first token.": ("[start]", "[]"),
        "An empty prompt begins with the end-of-text token, though the tokenizer has one for the beginning.": (
            "tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id",
            "tokenizer.eos_token_id",
        ),
        "A choice of no tokens is let through: its log-likelihood would be 0, the best of all.": (
            "if not choice_ids:",
            "if False:",
        ),
    },
)
def check_encode_pair(encode_pair, rng):
    tokenizer = _Tokenizer()
    yield "a question and a choice with its space", encode_pair(tokenizer, "Q: Is it?\nA:", " yes")
    yield "a space at the prompt's end", encode_pair(tokenizer, "Q: Is it?\nA: ", "no")
    yield "a line break at the prompt's end", encode_pair(tokenizer, "Is it? yes\n", "no")
    yield "a token reaches over the border", encode_pair(tokenizer, "Ans", "wer: yes")
    yield (
        "a prompt longer in characters than both are in tokens",
        encode_pair(tokenizer, "Answer:Answer:", " yes no may"),
    )
    yield "an empty prompt", encode_pair(tokenizer, "", " maybe")
    yield "an empty prompt, and no token for the beginning", encode_pair(_Tokenizer(None), "", " maybe")
    for _ in range(3):
        parts = [tokenizer.WORDS[i] for i in torch.randint(len(tokenizer.WORDS), (6,), generator=rng).tolist()]
        yield "words at random", encode_pair(tokenizer, "Q:" + "".join(parts[:3]), "".join(parts[3:]) + " no")
    yield "an empty choice is refused", raised(encode_pair, tokenizer, "Q: Is it?\nA:", "")


class _Reader(nn.Module):
    """Logits that depend on the token, on all tokens before it and on the position; it counts what it reads."""

    def __init__(self, rng, context_length=10, vocab_size=11):
        super().__init__()
        self.config = SimpleNamespace(context_length=context_length)
        self.embed = nn.Parameter(torch.randn(vocab_size, 6, generator=rng))
        self.place = nn.Parameter(torch.randn(context_length, 6, generator=rng))
        self.head = nn.Parameter(2 * torch.randn(6, vocab_size, generator=rng))
        self.drop = nn.Dropout(0.5)
        self.rows, self.widest, self.gradients = 0, 0, False

    def forward(self, token_ids):
        batch, seq = token_ids.shape
        if seq > self.config.context_length:
            raise ValueError(f"{seq} tokens do not fit in a context of {self.config.context_length}")
        self.rows, self.widest = self.rows + batch, max(self.widest, batch)
        self.gradients = self.gradients or torch.is_grad_enabled()
        counts = torch.arange(1, seq + 1)[:, None]
        read = F.embedding(token_ids, self.embed)
        x = read + read.cumsum(dim=1) / counts + self.place[:seq]
        return torch.tanh(self.drop(x)) @ self.head


class _LikeTransformers(_Reader):
    def forward(self, token_ids):
        return SimpleNamespace(logits=super().forward(token_ids))


def _whole_text(model, pairs, batch_size=16):
    context = model.config.context_length
    _refuse_long(pairs, context)
    found = []
    model.eval()
    with torch.no_grad():
        for question in pairs:
            scores = []
            for prompt_ids, choice_ids in question:
                ids = torch.tensor((prompt_ids + choice_ids)[-context - 1 :])
                output = model(ids[None, :-1])
                log_probs = getattr(output, "logits", output)[0].log_softmax(dim=-1)
                scores.append(log_probs.gather(1, ids[1:, None]).sum())
            found.append(torch.stack(scores))
    return found


def _refuse_long(pairs, context):
    if any(len(choice_ids) > context for question in pairs for _, choice_ids in question):
        raise ValueError


@observes(
    "multiple_choice_loglikelihood",
    difficulty=5,
    minutes=45,
    rtol=1e-3,
    hints=(
        "Begin with one pair: the model reads (prompt + choice)[:-1]. The logits in its last len(choice) places predict the choice's "
        "tokens, one each. log_softmax, gather, sum.",
        "For a batch, pad the rows on the right: a causal model does not see what comes later, so the real places are as they "
        "were. Only, the choice no longer stands at the end of the padded row: remember each row's own length.",
        "Sort the different rows in descending order: a row that is another's beginning then comes after it, so "
        "each row need only be compared with the last one that was kept. Keep, for each row that is read, which "
        "(question, choice) wait for it.",
    ),
    mistakes={
        "The prompt is scored too: what a question's wording costs says nothing about the choice.": _whole_text,
        "Each token is scored by the logits in its own place, which predict the token after it.": (
            "[-context - 1 : -1]",
            "[-context:]",
        ),
        "The last places of the padded row are read: in a shorter row, that is padding.": (
            "logits[end - len(choice_ids) : end]",
            "logits[-len(choice_ids) :]",
        ),
        "The mean over the choice's tokens is taken: ln p of a text is the sum. Dividing by a length is a step of "
        "its own, later.": (
            "choice_ids[:, None]).sum()",
            "choice_ids[:, None]).mean()",
        ),
        "Raw logits are added up: without the softmax's normalizer they are no log-probabilities.": (
            ".float().log_softmax(dim=-1)",
            ".float()",
        ),
        "Probabilities are added up: those of a text multiply, so their logarithms add.": ("log_softmax(", "softmax("),
        "The softmax is taken over the places, not over the vocabulary.": ("log_softmax(dim=-1)", "log_softmax(dim=0)"),
        "A text that is too long is cut at its end: what goes is the choice that is to be scored.": (
            "(prompt_ids + choice_ids)[-context - 1 : -1]",
            "(prompt_ids + choice_ids)[:-1][:context]",
        ),
        "A text that is too long is given to the model as it is, and the model refuses it.": (
            "[-context - 1 : -1]",
            "[:-1]",
        ),
        "A text that is too long is cut by one token more than needed: the last token is not read, so one more fits.": (
            "[-context - 1 : -1]",
            "[-context:-1]",
        ),
        "A row that is another one's beginning is read by itself: the longer row has its logits already.": (
            "if not rows or rows[-1][: len(row)] != row:",
            "if True:",
        ),
        "The softmax is taken in the model's own half precision, which has two to three digits: too few for a sum of "
        "logarithms.": (".float().log_softmax", ".log_softmax"),
        "The rows are padded with -100, as labels are: a model reads the padding too, and no embedding has such a row.": (
            "*[0] * (longest",
            "*[-100] * (longest",
        ),
        "The batch size is not kept: all rows go to the model at once.": (
            "    device = next(",
            "    batch_size = 10**6\n    device = next(",
        ),
        "The model stays in training mode: dropout disturbs the scores.": (
            "with inference(model):",
            "with torch.no_grad():",
        ),
        "Gradients are kept for every row: that costs memory and is never used.": [
            ("with inference(model):", "model.eval()\n    if True:"),
            ("choice_ids[:, None]).sum()", "choice_ids[:, None]).sum().detach()"),
            ("    return found", "    model.train()\n    return found"),
        ],
        "The first token of a choice is not scored: the prompt's last token predicts it, and often it decides.": (
            "log_probs.gather(1, choice_ids[:, None]).sum()",
            "log_probs.gather(1, choice_ids[:, None])[1:].sum()",
        ),
        "A choice that is longer than the context is scored by what is left of it.": (
            "if longest > context:",
            "if False:",
        ),
    },
)
def check_multiple_choice_loglikelihood(multiple_choice_loglikelihood, rng):
    model = _Reader(rng)
    model.train()
    prompt = [3, 1, 4]
    yield (
        "one question, two choices of one token",
        multiple_choice_loglikelihood(model, [[(prompt, [5]), (prompt, [9])]]),
    )
    yield "two choices after one prompt: one row is read", [model.rows <= 1, model.rows >= 1]
    yield (
        "whether the model is in training mode afterwards, and whether gradients were recorded",
        [model.training, model.gradients],
    )
    ragged = [[(prompt, [5, 2]), (prompt, [9]), (prompt, [6, 6, 6, 1])], [([8], [2, 7, 1, 8]), ([8], [2, 8])]]
    yield "choices of one to four tokens", multiple_choice_loglikelihood(model, ragged)
    questions, n_rows = [], 0
    for _ in range(6):
        start = torch.randint(0, 11, (int(torch.randint(1, 6, (), generator=rng)),), generator=rng).tolist()
        many = [torch.randint(0, 11, (n,), generator=rng).tolist() for n in (1, 3, 4)]
        questions.append([(start, choice) for choice in many])
        n_rows += 3
    model = _Reader(rng)
    yield "six questions, two rows at a time", multiple_choice_loglikelihood(model, questions, batch_size=2)
    yield "at most two rows at a time, at most one for each choice", [model.widest <= 2, model.rows <= n_rows]
    beginnings = [[([1, 2], [3]), ([1, 2, 3], [4]), ([1, 2], [3, 4, 5, 6])], [([1, 2, 3, 4], [7])]]
    model = _Reader(rng)
    yield "rows that are beginnings of others", multiple_choice_loglikelihood(model, beginnings)
    yield "four choices, and one row that is read", model.rows <= 1
    long = torch.randint(0, 11, (14,), generator=rng).tolist()
    cut = [[(long, [4, 1]), (long[:9], [2, 3]), (long[:8], [2, 3, 5])]]
    yield "prompts that do not fit in a context of 10", multiple_choice_loglikelihood(_Reader(rng), cut)
    yield "a model whose output has .logits", multiple_choice_loglikelihood(_LikeTransformers(rng), ragged, 3)
    last = [[([8, 1], [9]), ([7, 7], [5])], [([7], [6])]]
    model = _Reader(rng)
    yield "a row that begins one which is not the first", multiple_choice_loglikelihood(model, last)
    yield "three choices, and two rows that are read", model.rows <= 2
    table = nn.Embedding.from_pretrained(torch.randint(-4, 5, (11, 11), generator=rng).bfloat16())
    table.config = SimpleNamespace(context_length=10)
    yield "a model that gives logits in bfloat16", multiple_choice_loglikelihood(table, ragged)
    too_long = [[(prompt, [1] * 11), (prompt, [2])]]
    yield "a choice of 11 tokens in a context of 10 is refused", raised(multiple_choice_loglikelihood, model, too_long)


@observes(
    "normalized_scores",
    difficulty=2,
    minutes=10,
    hints=(
        "Four lists of lengths, one for each key; the log-likelihoods are divided by each.",
        "`len` of a string counts characters. In UTF-8 an é is two bytes: encode the string, and count then.",
        "One division of tensors for each key: the list of lengths becomes a tensor like the log-likelihoods. For "
        "'acc' all lengths are 1.",
    ),
    mistakes={
        "Bytes are counted as characters: in UTF-8, é takes two bytes and 東 three.": (
            'len(choice.encode("utf-8"))',
            "len(choice)",
        ),
        "Words are counted where characters should be.": (
            "[len(choice) for choice in choices]",
            "[len(choice.split()) for choice in choices]",
        ),
        "The space before the choice is counted: the harness leaves it out, and short choices gain most by it.": (
            "[len(choice) for choice in choices]",
            "[len(choice) + 1 for choice in choices]",
        ),
        "'acc' is divided by the tokens too: it is the log-likelihood itself.": (
            "[1] * len(choices)",
            "list(n_tokens)",
        ),
        "The scores are multiplied by the length, which punishes long choices twice.": (
            "loglikelihoods / loglikelihoods.new_tensor(sizes)",
            "loglikelihoods * loglikelihoods.new_tensor(sizes)",
        ),
        "All choices are divided by the same length, the longest: that changes no ranking.": (
            "loglikelihoods.new_tensor(sizes) for",
            "max(sizes) for",
        ),
        "The tokens are counted without the first one.": ("list(n_tokens),\n", "[max(n - 1, 1) for n in n_tokens],\n"),
        "Empty choices are let through: they have no length to divide by.": (
            "if not all(choices) or not all(n > 0 for n in n_tokens):",
            "if False:",
        ),
        "Lists of different lengths are let through: a choice is then scored with another one's length, or not at "
        "all.": (
            "if not len(loglikelihoods) == len(choices) == len(n_tokens):",
            "if False:",
        ),
    },
)
def check_normalized_scores(normalized_scores, rng):
    yield "the example of the docstring", normalized_scores(torch.tensor([-6.0, -9.0]), ["no", "never"], [1, 2])
    choices = ["a café in 東京", "on the farm", "é"]
    scores = -20 * torch.rand(3, generator=rng) - 1
    yield "characters, bytes and tokens differ", normalized_scores(scores, choices, [7, 3, 2])
    yield "an empty choice is refused", raised(normalized_scores, torch.tensor([-1.0, -2.0]), ["a", ""], [1, 1])
    yield "a choice of no tokens is refused", raised(normalized_scores, torch.tensor([-1.0, -2.0]), ["a", "b"], [1, 0])
    yield (
        "three scores for two choices are refused",
        raised(normalized_scores, torch.tensor([-1.0, -2.0, -3.0]), ["a", "b"], [1, 1]),
    )


@observes(
    "truthfulqa_mc2",
    difficulty=2,
    minutes=10,
    hints=(
        "With p = (0.02, 0.01, 0.01) and the first true: which share of 0.04 is that?",
        "e^-2000 is 0 in floating point, but shares need only differences: subtract the largest log-likelihood first. Which "
        "function of torch does that?",
        "The softmax of the log-likelihoods gives just these shares, at any size. Add up those whose label is 1; "
        "refuse bad labels first.",
    ),
    mistakes={
        "The exponential is taken as it is: long answers have p = 0 in floating point, and 0 / 0 is no number.": (
            "loglikelihoods.double().softmax(dim=-1)",
            "loglikelihoods.double().exp() / loglikelihoods.double().exp().sum()",
        ),
        "The probabilities are not divided by their sum: this is the mass among all texts, not among the choices.": (
            "loglikelihoods.double().softmax(dim=-1)",
            "loglikelihoods.double().exp()",
        ),
        "The share of the false answers is returned.": ("== 1].sum()", "== 0].sum()"),
        "The mean over the true answers is returned: their shares add up.": ("== 1].sum()", "== 1].mean()"),
        "Only the best true answer counts: the other true ones hold probability too.": ("== 1].sum()", "== 1].max()"),
        "What comes out is MC1: 1 if the likeliest choice is true, else 0.": (
            "loglikelihoods.double().softmax(dim=-1)",
            "torch.nn.functional.one_hot(loglikelihoods.argmax(), len(labels)).double()",
        ),
        "Log-likelihoods are divided by their sum: shares are of probabilities.": (
            "loglikelihoods.double().softmax(dim=-1)",
            "loglikelihoods.double() / loglikelihoods.double().sum()",
        ),
        "The true answers are taken to be the first ones, whatever the labels say.": (
            "shares[torch.tensor(labels, device=shares.device) == 1].sum()",
            "shares[: sum(labels)].sum()",
        ),
        "Labels that are all true are let through: then every model gets 1.": (
            "set(labels) != {0, 1}",
            "not set(labels) <= {0, 1}",
        ),
    },
)
def check_truthfulqa_mc2(truthfulqa_mc2, rng):
    yield "the example of the docstring", truthfulqa_mc2(torch.tensor([0.02, 0.01, 0.01]).log(), [1, 0, 0])
    yield (
        "true answers in the second and fourth place",
        truthfulqa_mc2(torch.tensor([-3.0, -2.0, -4.0, -2.5]), [0, 1, 0, 1]),
    )
    yield "the likeliest is false", truthfulqa_mc2(torch.tensor([-3.0, -1.0, -3.5]), [1, 0, 1])
    yield "answers of probability e^-800", truthfulqa_mc2(torch.tensor([-800.0, -801.0, -799.0]), [1, 1, 0])
    scores = -8 * torch.rand(7, generator=rng)
    yield "seven answers", truthfulqa_mc2(scores, [1, 0, 0, 1, 1, 0, 0])
    two = torch.tensor([-1.0, -2.0])
    yield (
        "labels that are all true, or all false, are refused",
        [raised(truthfulqa_mc2, two, labels) for labels in ([1, 1], [0, 0])],
    )
    yield (
        "a label of 2, and a label too many, are refused",
        [raised(truthfulqa_mc2, two, labels) for labels in ([1, 2], [1, 0, 0])],
    )


@observes(
    "extract_number",
    difficulty=3,
    minutes=20,
    hints=(
        "First look for '####' with a number right after it. Only if there is none, and strict is off, take the last number of the text.",
        "A number: perhaps a minus, perhaps a $, then digits in groups of three with commas or digits alone, then perhaps a point "
        "and digits. `re.search` finds the first, `re.findall` all.",
        "`(?:,\\d{3})+` stands for groups of a comma and three digits; let it be tried before digits alone. A "
        "minus with a digit before it subtracts: `(?<!\\d)` looks back. Take out $ and commas before `float`.",
    ),
    mistakes={
        "The last '####' is taken: a model that goes on with a question of its own then answers that one.": (
            'marked = re.search(rf"####[\\s$]*({number})", text)',
            'marked = ([None, *re.finditer(rf"####[\\s$]*({number})", text)])[-1]',
        ),
        "'####' is not looked for: the last number of the text may stand in what the model wrote after its answer.": (
            "found = [marked[1]] if marked else ",
            "found = ",
        ),
        "The first number of the text is taken where '####' is missing: that is a number of the problem.": (
            "found[-1]",
            "found[0]",
        ),
        "A comma ends the number: 1,234 is read as 1 or 234.": (r"\d{1,3}(?:,\d{3})+(?!\d)|\d+)", r"\d+)"),
        "Commas between two numbers are taken for grouping: '3,4' is read as 34.": (
            r"\d{1,3}(?:,\d{3})+(?!\d)|\d+)",
            r"\d+(?:,\d+)*)",
        ),
        "The minus is not read: -7 comes out as 7.": (r'r"(?<!\d)[-−]?\$?(?:\d', r'r"(?<!\d)\$?(?:\d'),
        "Every minus is taken for a sign: '9-4' ends with 4, not with -4.": (
            r'r"(?<!\d)[-−]?\$?(?:\d',
            r'r"[-−]?\$?(?:\d',
        ),
        "A decimal point ends the number: 0.25 is read as 0 or as 25.": (r"\d+)(?:\.\d+)?|", r"\d+)|"),
        "A $ between '####' and the number is not skipped.": [
            ('rf"####[\\s$]*({number})"', 'rf"####\\s*({number})"'),
            (r'r"(?<!\d)[-−]?\$?(?:\d', r'r"(?<!\d)[-−]?(?:\d'),
        ],
        "`strict` is not used: any number of the text counts as an answer.": (
            "[] if strict else re.findall",
            "re.findall",
        ),
        "A text without a number gives 0: that may even be right, and hides how many could not be read.": (
            "return None",
            "return 0.0",
        ),
    },
)
def check_extract_number(extract_number, rng):
    yield "a worked answer", extract_number("Pip had 8 - 3 = <<8-3=5>>5 nuts.\n#### 5")
    yield (
        "the examples of the docstring",
        [
            extract_number("#### 1,234"),
            extract_number("so 5 nuts cost $2.50."),
            extract_number("#### many, 3 or 4"),
            extract_number("#### many, 3 or 4", strict=True),
        ],
    )
    yield (
        "a unit, a full stop, no space",
        [extract_number(t) for t in ("#### 42 apples", "#### 42.", "####42", "It is 42%.")],
    )
    yield "$ and commas", [extract_number(t) for t in ("#### $18", "#### $1,250,000.75", "That is $3,000 in all.")]
    yield "two numbers with a comma", [extract_number(t) for t in ("Either 3,4", "Either 3, 4", "12,34")]
    yield "signs", [extract_number(t) for t in ("#### -7", "9-4", "-$5.50", "It fell to −3 degrees.")]
    yield "decimals", [extract_number(t) for t in ("#### 0.25", "a share of .5", "2.0 or 3.5")]
    onwards = "3 + 4 = 7\n#### 7\n\nQuestion: And 2 + 2?\nAnswer: 2 + 2 = 4\n#### 4"
    yield (
        "the model goes on with a question of its own",
        [extract_number(onwards), extract_number(onwards, strict=True)],
    )
    yield "numbers after the answer", extract_number("#### 12\nI am 100 percent sure")
    yield "no number", [extract_number(text) for text in ("", "no idea", "####", "#### $")]
    yield "strict", [extract_number(text, True) for text in ("so 5 nuts", "#### 6 nuts", "### 6", "#### so 6")]
    for _ in range(3):
        n = int(torch.randint(1_000, 9_999_999, (), generator=rng))
        yield "a large number", extract_number(f"First 17, then {n:,} of them.")
