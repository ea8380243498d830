"""Right answers to lesson 02 of week 4, written in other ways."""

import torch

from week4_finetuning.chat import encode_prompt


def accumulate_sft__weighted_means(model, micro_batches):
    def counted(batch):
        return batch["labels"][:, 1:].ne(-100)

    everything = sum(counted(batch).sum() for batch in micro_batches)
    if not micro_batches or everything == 0:
        raise ValueError("no label counts")
    result = 0.0
    for batch in micro_batches:
        own = counted(batch)
        if not own.any():
            model(batch["token_ids"])  # nothing to learn here
            continue
        log_probs = model(batch["token_ids"]).log_softmax(-1)[:, :-1][own]
        mean = -log_probs.gather(1, batch["labels"][:, 1:][own][:, None]).mean()
        weighted = mean * own.sum() / everything
        weighted.backward()
        result += float(weighted)
    return result


def accumulate_sft__row_by_row(model, micro_batches):
    n = sum(int((row[1:] >= 0).sum()) for batch in micro_batches for row in batch["labels"])
    if n == 0:
        raise ValueError("no label counts")
    losses = []
    for batch in micro_batches:
        logits = model(batch["token_ids"])
        total = logits.sum() * 0
        for row, labels in zip(logits, batch["labels"], strict=True):
            for t in range(len(labels) - 1):
                if labels[t + 1] != -100:
                    total = total + row[t].logsumexp(0) - row[t, labels[t + 1]]
        (total / n).backward()
        losses.append(total.item())
    return sum(losses) / n


def replies__one_at_a_time(model, tokenizer, conversations, max_new_tokens=64, batch_size=32):
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    told = []
    for messages in conversations:
        prompt = torch.tensor([encode_prompt(tokenizer, messages)])
        if prompt.shape[1] + max_new_tokens > model.config.max_position_embeddings:
            raise ValueError("too long")
        new = []
        with torch.no_grad():
            while len(new) < max_new_tokens:
                ids = torch.cat([prompt, torch.tensor([new], dtype=torch.long)], dim=1)
                token = model(ids).logits[0, -1].argmax().item()
                if token == stop:
                    break
                new.append(token)
        told.append(tokenizer.decode(new, skip_special_tokens=True))
    return told


def replies__the_tokenizers_padding(model, tokenizer, conversations, max_new_tokens=64, batch_size=32):
    prompts = [encode_prompt(tokenizer, messages) for messages in conversations]
    if any(len(prompt) > model.config.max_position_embeddings - max_new_tokens for prompt in prompts):
        raise ValueError("a prompt is too long")
    told = []
    for batch in (prompts[i : i + batch_size] for i in range(0, len(prompts), batch_size)):
        rows = tokenizer.pad({"input_ids": batch}, padding_side="left", return_tensors="pt")
        out = model.generate(**rows, max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=[2046])
        for row in out[:, rows["input_ids"].shape[1] :].tolist():
            told.append(tokenizer.decode(row[: row.index(2046)] if 2046 in row else row, skip_special_tokens=True))
    return told

