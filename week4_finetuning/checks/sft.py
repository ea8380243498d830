"""What right answers of lesson 02 show, and the known mistakes."""

import functools

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from shared.checking import observes, raised
from shared.models import course_folder


class Reader(nn.Module):
    """A small model that notes, at each call, whether a gradient is there already."""

    def __init__(self, rng):
        super().__init__()
        self.table = nn.Parameter(torch.randn(7, 5, generator=rng))
        self.head = nn.Parameter(torch.randn(5, 7, generator=rng))
        self.seen = []

    def forward(self, token_ids):
        self.seen.append(self.table.grad is not None)
        return self.table[token_ids].cumsum(dim=1).tanh() @ self.head


def micro_batches(rng, sizes, counted):
    """Micro-batches of these sizes; in each row the last `counted` labels count."""
    batches = []
    for (n_rows, n_tokens), n in zip(sizes, counted, strict=True):
        token_ids = torch.randint(7, (n_rows, n_tokens), generator=rng)
        labels = token_ids.clone()
        labels[:, : n_tokens - n] = -100
        batches.append({"token_ids": token_ids, "labels": labels})
    return batches


def summed_first(model, batches):
    """One backward pass at the end."""
    if not batches or not any((batch["labels"][:, 1:] != -100).any() for batch in batches):
        raise ValueError("nothing counts")
    n_counted = sum((batch["labels"][:, 1:] != -100).sum().item() for batch in batches)
    losses = [
        F.cross_entropy(model(b["token_ids"])[:, :-1].flatten(0, 1), b["labels"][:, 1:].flatten(), reduction="sum")
        for b in batches
    ]
    loss = sum(losses) / n_counted
    loss.backward()
    return loss.item()


@observes(
    "accumulate_sft",
    difficulty=3,
    minutes=20,
    hints=(
        "Written out, the mean over all counted labels is one sum divided by one number. Which of the two can be had before "
        "any micro-batch has run?",
        "Count the labels of all micro-batches first, after the shift: `batch['labels'][:, 1:] != -100`. Then each micro-batch "
        "adds its own sum of losses, divided by that one count.",
        "`F.cross_entropy` gives sums with reduction='sum'. Go backward for each micro-batch before the next one "
        "is read: gradients add up in `.grad` by themselves, and the graph is let go. For the total add numbers "
        "(`.item()`), not tensors.",
    ),
    mistakes={
        "Each micro-batch's mean is taken, and then the mean of those: a label among few counts for more. Several "
        "training libraries did so until October 2024.": (
            'reduction="sum") / n_counted',
            'reduction="mean") / len(micro_batches)',
        ),
        "The sum is not divided by the number of counted labels: the gradient grows with the batch.": (
            'reduction="sum") / n_counted',
            'reduction="sum")',
        ),
        "Labels are not shifted: the logits at t are compared with the label at t, which the model has just read.": [
            ('model(batch["token_ids"])[:, :-1]', 'model(batch["token_ids"])'),
            ('batch["labels"][:, 1:].flatten(), reduction', 'batch["labels"].flatten(), reduction'),
        ],
        "Masked labels are counted in the number that the sum is divided by: long prompts make the step small.": (
            '(batch["labels"][:, 1:] != -100).sum().item()',
            'batch["labels"][:, 1:].numel()',
        ),
        "The labels are counted before the shift: the first of a row, which nothing predicts, counts too.": (
            '(batch["labels"][:, 1:] != -100).sum().item()',
            '(batch["labels"] != -100).sum().item()',
        ),
        "Only the last micro-batch's loss is returned: the gradients are right, the number is that of a part.": (
            "total += loss.item()",
            "total = loss.item()",
        ),
        "backward() is never called: the loss is right, and nothing is learnt.": ("        loss.backward()\n", ""),
        "All graphs are held until one backward pass at the end: the memory is that of the whole batch, and saving it was the "
        "point.": summed_first,
    },
)
def check_accumulate_sft(accumulate_sft, rng):
    for label, sizes, counted in (
        ("one micro-batch", [(2, 4)], [2]),
        ("micro-batches that count unequally", [(2, 5), (3, 4), (1, 6)], [1, 3, 4]),
        ("labels on everything", [(2, 3), (1, 5)], [3, 5]),
        ("one that counts nothing", [(2, 4), (2, 3)], [0, 2]),
    ):
        model, batches = Reader(rng), micro_batches(rng, sizes, counted)
        loss = accumulate_sft(model, batches)
        grads = [torch.zeros(()) if p.grad is None else p.grad.clone() for p in (model.table, model.head)]
        yield f"{label}: the loss and the gradients", [float(loss), *grads]
        if label == "labels on everything":
            yield "whether a gradient was there already, at each micro-batch", model.seen
            again = accumulate_sft(model, batches)
            yield (
                "a second call adds to the gradients",
                [float(again), 0 if model.head.grad is None else model.head.grad],
            )
    empty = micro_batches(rng, [(2, 4), (1, 3)], [0, 0])
    yield (
        "labels that never count, and no micro-batch, are refused",
        [raised(accumulate_sft, Reader(rng), b) for b in (empty, [])],
    )


@functools.cache
def instruct_model():
    """The course's instruct model, as transformers reads it, and its tokenizer."""
    folder = course_folder("instruct")
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    model.generation_config.do_sample = True  # as the settings that come with many models say
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    tokenizer.name_or_path = "the course's tokenizer"  # what a card shows of it
    return model, tokenizer


QUESTIONS = (
    "One sunny morning, Pip the mole went to the lake with his green kite. Where did he go?",
    "Who is Nell?",
    "Tell me about Rosa and her basket.",
    "Once there was a boy named Leo. He was very sad, because his drum was gone. Go on with the story, please.",
    "Write a story about Gus the goat and Olga the owl, who quarrel about a swing in the park.",
    "Bruno had five apples and found two more. How many?",
)


def chats(*contents):
    return [[{"role": "user", "content": content}] for content in contents]


@observes(
    "replies",
    difficulty=3,
    minutes=25,
    seconds=30,  # a model writes in it: on a busy machine that takes a while
    hints=(
        "Four things go wrong when many prompts are answered at once: the side of the padding, what attends to it, where the reply "
        "begins in the row, and where it ends.",
        "Left-padded, all prompts of a batch end in the same column, so the reply is `written[:, width:]` for every row. The attention "
        "mask is 0 on the padding.",
        "Beside ids and mask `model.generate` must be told how many new tokens, that it is not to sample, and the "
        "id of <|im_end|>, as the end and as padding. Decode without special tokens. If you sort by length to pad "
        "less, put the replies back in order.",
    ),
    mistakes={
        "Prompts are padded on the right: the model goes on after padding, not after the prompt.": [
            ("[stop] * (width - len(prompts[i])) + prompts[i]", "prompts[i] + [stop] * (width - len(prompts[i]))"),
            (
                "[0] * (width - len(prompts[i])) + [1] * len(prompts[i])",
                "[1] * len(prompts[i]) + [0] * (width - len(prompts[i]))",
            ),
        ],
        "The padding is attended to: a reply depends on how long the other prompts of its batch are.": (
            "[0] * (width - len(prompts[i])) + [1] * len(prompts[i])",
            "[1] * width",
        ),
        "The reply holds the prompt: generate gives back what it was given, and then the new tokens.": (
            "written[:, width:]",
            "written",
        ),
        "Replies come in the order of the prompts' lengths, not in that of the conversations.": (
            "[found[i] for i in range(len(prompts))]",
            "list(found.values())",
        ),
        "The model is not told to stop at <|im_end|>: it goes on after its reply, up to max_new_tokens.": (
            "eos_token_id=stop",
            "eos_token_id=tokenizer.eos_token_id",
        ),
        "Nothing is said of sampling, and many models' own settings ask for it: the same question gets another reply "
        "each time.": ("                do_sample=False,\n", ""),
        "`batch_size` has no effect: all conversations are given to the model at once, whatever fits into memory.": (
            "stop, found = tokenizer.convert_tokens_to_ids(STOP), {}",
            "stop, found, batch_size = tokenizer.convert_tokens_to_ids(STOP), {}, max(len(prompts), 1)",
        ),
        "Markers such as <|im_end|> stay in the text: they are for the model, not for who reads the reply.": (
            "skip_special_tokens=True",
            "skip_special_tokens=False",
        ),
    },
)
def check_replies(replies, rng):
    model, tokenizer = instruct_model()
    torch.manual_seed(int(torch.randint(2**31, (), generator=rng)))
    some = [QUESTIONS[i] for i in torch.randperm(len(QUESTIONS), generator=rng)[:4].tolist()]

    def told(*contents, **options):
        found = replies(model, tokenizer, chats(*contents), **options)
        return [text.strip() for text in found]

    yield "one question", told("Who?", max_new_tokens=12)
    yield "four of different lengths, in their order", told(*some, max_new_tokens=16)
    rows = []
    with model.get_input_embeddings().register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0]))):
        yield "in batches of two", told(*some[::-1], max_new_tokens=8, batch_size=2)
    yield "the model was given two conversations at a time", max(rows, default=0) <= 2
    system = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Who?"}]
    longer = [*chats("Who?")[0], {"role": "assistant", "content": "Nell."}, {"role": "user", "content": "Where?"}]
    found = replies(model, tokenizer, [system, longer], max_new_tokens=8)
    yield "with a system message, and a second turn", [text.strip() for text in found]
    yield "no conversation", replies(model, tokenizer, [])
    yield "a prompt that does not fit is refused", raised(replies, model, tokenizer, chats("very long " * 150))
