"""Other right answers to the exercises of week 6, lesson 05."""

import heapq
import itertools
import math
from collections import Counter

import numpy as np
import torch

from week6_rlhf.solutions.applications import NO_ANSWER, RULES, check_rankings, check_texts


def chunk_text__in_a_loop(text, size, overlap=0):
    if size < 1 or overlap < 0 or overlap >= size:
        raise ValueError("sizes")
    rest, chunks = text.split(), []
    while rest:
        chunks.append(" ".join(rest[:size]))
        if len(rest) <= size:
            break
        rest = rest[size - overlap :]
    return chunks


def chunk_text__by_counting_the_windows(text, size, overlap=0):
    if not 0 <= overlap < size:
        raise ValueError("sizes")
    words = text.split()
    if not words:
        return []
    n_more = max(0, math.ceil((len(words) - size) / (size - overlap)))
    return [
        " ".join(itertools.islice(words, i * (size - overlap), i * (size - overlap) + size)) for i in range(n_more + 1)
    ]


def embed__a_loop_over_the_rows_of_a_batch(texts, model, tokenizer, batch_size=64):
    check_texts(texts, batch_size)
    if not texts:
        return torch.zeros(0, model.config.hidden_size)
    found, was_training = {}, model.training
    model.eval()
    numbered = sorted(enumerate(texts), key=lambda pair: -len(pair[1].split()))
    with torch.inference_mode():
        while numbered:
            batch, numbered = numbered[:batch_size], numbered[batch_size:]
            inputs = tokenizer(
                [text for _, text in batch], padding="longest", truncation=True, max_length=16, return_tensors="pt"
            )
            states = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])[0]
            for (number, _), row, mask in zip(batch, states, inputs["attention_mask"], strict=True):
                mean = row[mask.bool()].mean(dim=0)
                found[number] = mean / mean.norm()
    model.train(was_training)
    return torch.stack([found[i] for i in range(len(texts))]).clone()


def embed__by_a_product_with_the_mask(texts, model, tokenizer, batch_size=64):
    check_texts(texts, batch_size)
    device, modes = next(model.parameters()).device, [module.training for module in model.modules()]
    lengths = torch.tensor([len(tokenizer(text)["input_ids"]) for text in texts])
    order = lengths.argsort()
    rows = []
    model.eval()
    for part in order.split(batch_size) if len(texts) else []:
        limit = {"truncation": True, "max_length": model.config.max_position_embeddings}
        inputs = tokenizer([texts[i] for i in part], padding=True, return_tensors="pt", **limit).to(device)
        with torch.no_grad():
            states = model(**inputs).last_hidden_state
        sums = torch.einsum("bs,bsd->bd", inputs["attention_mask"].to(states.dtype), states)
        rows.append(sums / sums.pow(2).sum(dim=1, keepdim=True).sqrt())
    for module, mode in zip(model.modules(), modes, strict=True):
        module.training = mode
    if not rows:
        return torch.empty(0, model.config.hidden_size)
    return torch.cat(rows)[order.argsort()].cpu()


def top_k_chunks__by_numpys_argsort(queries, chunks, k):
    if k < 1 or k > len(chunks):
        raise ValueError("k")
    lengths = chunks.norm(dim=1).clamp(min=1e-12) * queries.norm(dim=1, keepdim=True).clamp(min=1e-12)
    cosines = (queries @ chunks.T) / lengths
    order = torch.from_numpy(np.argsort(-cosines.numpy(), axis=1, kind="stable"))[:, :k]
    return cosines.gather(1, order), order


def top_k_chunks__one_query_at_a_time_with_a_heap(queries, chunks, k):
    if not 0 < k <= len(chunks):
        raise ValueError("k")
    cosines = torch.cosine_similarity(queries[:, None], chunks[None], dim=-1)
    best = [heapq.nsmallest(k, range(len(chunks)), key=lambda i, row=row: (-row[i], i)) for row in cosines.tolist()]
    numbers = torch.tensor(best)
    return cosines.gather(1, numbers), numbers


def bm25_scores__one_pair_at_a_time(queries, documents, k1=1.5, b=0.75):
    if len(documents) == 0 or k1 < 0 or b < 0 or b > 1:
        raise ValueError("parameters")
    n, mean = len(documents), sum(map(len, documents)) / len(documents)

    def gain(word, document):
        tf = document.count(word)
        if not tf:
            return 0.0
        df = sum(word in other for other in documents)
        idf = math.log1p((n - df + 0.5) / (df + 0.5))
        return idf * tf / (tf + k1 * (1 - b + b * len(document) / mean))

    return torch.tensor([[float(sum(gain(word, d) for word in query)) for d in documents] for query in queries])


def bm25_scores__as_a_matrix_product(queries, documents, k1=1.5, b=0.75):
    if not documents or k1 < 0 or not 0 <= b <= 1:
        raise ValueError("parameters")
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(w for d in documents for w in d))}
    counts = torch.zeros(len(documents), len(vocabulary))
    for row, document in zip(counts, documents, strict=True):
        for word, count in Counter(document).items():
            row[vocabulary[word]] = count
    df = (counts > 0).sum(dim=0)
    idf = ((len(documents) + 1) / (df + 0.5)).log()  # 1 + (N - df + 1/2) / (df + 1/2), added up
    length = counts.sum(dim=1, keepdim=True)
    weights = torch.where(counts > 0, idf * counts / (counts + k1 * (1 - b + b * length / length.mean())), 0.0)
    asked = torch.zeros(len(queries), len(vocabulary))
    for row, query in zip(asked, queries, strict=True):
        for word in query:
            if word in vocabulary:
                row[vocabulary[word]] += 1
    return asked @ weights.T


def reciprocal_rank_fusion__item_by_item(rankings, k=60):
    check_rankings(rankings, k)
    items = sorted({item for ranking in rankings for item in ranking})
    places = [{item: place for place, item in enumerate(ranking)} for ranking in rankings]
    fused = [(item, sum(1.0 / (k + 1 + where[item]) for where in places if item in where)) for item in items]
    fused.sort(key=lambda pair: pair[1], reverse=True)  # stable, also in reverse
    return fused


def reciprocal_rank_fusion__with_a_counter(rankings, k=60):
    check_rankings(rankings, k)
    sums = Counter()
    for ranking in rankings:
        sums.update({item: 1 / (k + i + 1) for i, item in enumerate(ranking)})
    return Counter({item: sums[item] for item in sorted(sums)}).most_common()


def retrieval_metrics__by_comparing_tensors(ranked, relevant, k):
    if k < 1 or k > ranked.shape[1] or len(relevant) != len(ranked) or any(len(items) == 0 for items in relevant):
        raise ValueError("bad input")
    recall, reciprocal = torch.zeros(len(ranked)), torch.zeros(len(ranked))
    for i, items in enumerate(relevant):
        hits = torch.isin(ranked[i, :k], torch.tensor(sorted(items)))
        recall[i] = len(ranked[i, :k][hits].unique()) / len(set(items))
        if hits.any():
            reciprocal[i] = 1 / (hits.float().argmax() + 1)
    return recall, reciprocal


def retrieval_metrics__in_a_plain_loop(ranked, relevant, k):
    if not 0 < k <= ranked.size(1) or len(relevant) != ranked.size(0) or min(map(len, relevant), default=1) < 1:
        raise ValueError("bad input")
    pairs = []
    for row, items in zip(ranked, relevant, strict=True):
        seen, first = set(), 0.0
        for place in range(k):
            item = int(row[place])
            if item in items:
                seen.add(item)
                first = first or 1 / (place + 1)
        pairs.append((len(seen) / len(set(items)), first))
    recalls, firsts = zip(*pairs, strict=True)
    return torch.tensor(recalls), torch.tensor(firsts)


def answer_with_context__with_tags_taken_out(question, found, generate, min_score=-math.inf):
    if question.split() == []:
        raise ValueError("no question")
    parts = []
    for text, score in found:
        if score < min_score:
            continue
        parts.append("<passage>\n" + text.replace("<", "(").replace(">", ")") + "\n</passage>\n")
    if parts == []:
        return NO_ANSWER
    reply = generate([{"role": "user", "content": RULES + "\n\n" + "".join(parts) + "\n" + question}])
    return reply.strip() if reply.strip() else NO_ANSWER


def answer_with_context__with_one_way_out(question, found, generate, min_score=-math.inf):
    if not question.strip():
        raise ValueError("no question")
    texts = [html_safe(text) for text, score in found if not score < min_score]
    if texts:
        lines = [f"<passage>{text}</passage>" for text in texts]
        content = "\n".join(lines) + f"\n{RULES}\n{question}"
        said = generate([{"role": "user", "content": content}]).strip()
        if said:
            return said
    return NO_ANSWER


def html_safe(text):
    return "&lt;".join(text.split("<"))
