"""The reference of week 2's 01_data against datasketch, tokenizers, PyTorch and the papers' rules."""

import gzip
import json
import math

import datasketch
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch.utils.data import DataLoader
from transformers import GPT2Config, GPT2LMHeadModel

from shared.data import hub_texts
from week2_pretraining.solutions.data import (
    CITATION,
    FAULTS,
    HARMLESS,
    NOISE,
    WORTH_KEEPING,
    c4_clean,
    chunk_tokens,
    count_sentences,
    dirty_crawl,
    get_batch,
    gopher_quality,
    hash32,
    lsh_candidates,
    minhash_signature,
    pack_documents,
    random_permutations,
    shingles,
)

# Line fragments of which any mixture is a page: good lines, and one of each fault.
LINES = st.sampled_from(
    [
        "The owl sat in the tree. It was asleep!",
        '"Who is there?" asked the small fox.[1]',
        "Home | About us",
        "This site uses cookies.",
        "By reading on you accept our Privacy Policy and more.",
        "Please enable JavaScript to see this page.",
        "Four words are few.",
        "[edit]",
        "",
        "A line that ends [citation needed] without a mark",
        "It was late, and nobody came to the door any more…",
    ]
)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- the crawl ---------------------------------------------------------------------------------------------------


def test_the_crawl_is_the_same_for_the_same_seed_and_another_for_another():
    assert dirty_crawl(60, seed=3) == dirty_crawl(60, seed=3)
    assert dirty_crawl(60, seed=3) != dirty_crawl(60, seed=4)
    assert dirty_crawl(80, seed=3)[:30] != dirty_crawl(80, seed=4)[:30]


def test_the_crawl_tells_the_truth_about_its_pages():
    pages = dirty_crawl(600)
    assert {page.fault for page in pages} == set(FAULTS) and sum(FAULTS.values()) == 100
    for i, page in enumerate(pages):
        assert all(line in page.text.split("\n") and line in NOISE[kind] for kind, line in page.noise)
        assert bool(page.story) == (page.fault in WORTH_KEEPING)
        assert (page.copy_of is not None) == (page.fault == "near-duplicate")
        if page.copy_of is not None:
            assert page.copy_of < i and pages[page.copy_of].fault == "none"
        if page.fault == "none":
            assert page.story in page.text


# --- C4 ----------------------------------------------------------------------------------------------------------


@given(st.lists(LINES, max_size=12))
@settings(deadline=None, max_examples=100, derandomize=True)
def test_cleaning_twice_is_cleaning_once_and_invents_no_line(lines):
    cleaned = c4_clean("\n".join(lines))
    if cleaned is None:
        return
    assert c4_clean(cleaned) == cleaned
    assert set(cleaned.split("\n")) <= {CITATION.sub("", line).strip() for line in lines}
    assert count_sentences(cleaned) >= 3
    for line in cleaned.split("\n"):
        assert len(line.split()) >= 5 and line[-1] in '.!?"”' and "ookie" not in line and "JavaScript" not in line


@given(st.lists(LINES, max_size=12), st.sampled_from(["x { y }", "LOREM IPSUM dolor", "Flurb, said the owl."]))
@settings(deadline=None, max_examples=30, derandomize=True)
def test_one_bad_line_drops_any_page_wherever_it_stands(lines, bad):
    for place in (0, len(lines) // 2, len(lines)):
        assert c4_clean("\n".join([*lines[:place], bad, *lines[place:]]), {"flurb"}) is None


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("The owl sat in the tree. It was late. It slept.", True),
        ("The owl sat in the tree. It was late and it slept.", False),  # two sentences
        ("The owl sat. It was.\nIt slept all day long again.\nA fox came to the old tree.", True),
        ("The owl sat.\nIt was late.\nIt slept there.\nA fox came.", False),  # three words a line
    ],
)
def test_the_papers_limits_of_five_words_and_three_sentences(text, kept):
    assert (c4_clean(text) is not None) == kept


def test_the_rules_on_the_crawl_do_what_the_lesson_says():
    pages = dirty_crawl(600)
    after_c4 = {fault: [c4_clean(p.text, {HARMLESS}) for p in pages if p.fault == fault] for fault in FAULTS}
    for fault in ("placeholder", "code", "blocked word"):
        assert not any(after_c4[fault])
    for fault in ("none", "[1] markers", "near-duplicate", "foreign", "spam", "numbers"):
        assert all(after_c4[fault])
    for fault, rule in (("foreign", "stop words"), ("spam", "duplicate lines"), ("numbers", "alphabetic words")):
        assert all(rule in gopher_quality(text) for text in after_c4[fault])
    for fault in ("none", "[1] markers"):
        assert not any(gopher_quality(text) for text in after_c4[fault])


def test_rows_in_the_schema_of_c4_go_through_the_rules(tmp_path):
    page = dirty_crawl(1)[0]
    others = {"timestamp": "2019-04-25T12:57:54Z", "url": "https://a.example"}
    rows = [{"text": text, **others} for text in (page.text, "No.")]
    path = tmp_path / "c4-train.json.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    assert [c4_clean(text) is None for text in hub_texts("c4", data_files=str(path))] == [False, True]


# --- Gopher ------------------------------------------------------------------------------------------------------

TEN_WORDS = "The owl went to the wood with a small lamp."


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        (" ".join([TEN_WORDS] * 5), []),
        (" ".join([TEN_WORDS] * 10_000), []),
        (" ".join([TEN_WORDS] * 10_000) + " more", ["word count"]),
        (" ".join([TEN_WORDS] * 5 + ["#"] * 6), ["symbols"]),
        ("\n".join(f"* {i}{i} {TEN_WORDS}" for i in range(10)), ["bullet lines"]),
        ("\n".join(f"x{i} {TEN_WORDS}.." for i in range(10)), ["ellipsis lines"]),
        ("\n".join([TEN_WORDS] * 10), ["duplicate lines"]),
        ("", ["word count"]),
    ],
)
def test_the_limits_of_the_gopher_paper(text, broken):
    assert gopher_quality(text) == broken


# --- near-duplicates ---------------------------------------------------------------------------------------------


@given(st.sets(st.text(max_size=12), min_size=1, max_size=40), st.integers(0, 2**20))
@settings(deadline=None, max_examples=40, derandomize=True)
def test_signatures_equal_those_of_datasketch_number_for_number(items, seed):
    a, b = random_permutations(48, seeded(seed))
    theirs = datasketch.MinHash(num_perm=48, permutations=(a.tolist(), b.tolist()), scheme="affine32")
    theirs.update_batch([item.encode() for item in items])
    assert minhash_signature(items, a, b).tolist() == theirs.hashvalues.tolist()


def test_signatures_equal_those_of_datasketch_with_its_own_permutations():
    theirs = datasketch.MinHash(num_perm=128, seed=7)
    a, b = (torch.from_numpy(row.astype("int64")) for row in theirs.permutations)
    items = shingles(dirty_crawl(1)[0].text)
    theirs.update_batch([item.encode() for item in items])
    assert minhash_signature(items, a, b).tolist() == theirs.hashvalues.tolist()


def test_a_permutation_gives_no_two_hashes_the_same_value():
    a, b = random_permutations(3, seeded(0))
    h = torch.tensor(sorted({hash32(str(i)) for i in range(2000)}))
    for k in range(3):
        assert len(((a[k] * h + b[k]) % 2**32).unique()) == len(h)


def test_the_share_of_agreements_estimates_jaccard_within_four_standard_errors():
    items = [f"item {i}" for i in range(300)]
    a, b = random_permutations(4096, seeded(1))
    agree = minhash_signature(items[:200], a, b) == minhash_signature(items[100:], a, b)
    assert abs(agree.float().mean().item() - 1 / 3) < 4 * math.sqrt(1 / 3 * 2 / 3 / 4096)


def test_the_signature_of_a_union_is_the_minimum_of_the_signatures():
    a, b = random_permutations(64, seeded(2))
    one, other = {"a", "b", "c"}, {"c", "d"}
    together = torch.minimum(minhash_signature(one, a, b), minhash_signature(other, a, b))
    assert torch.equal(minhash_signature(one | other, a, b), together)


@pytest.mark.parametrize(("bands", "rows"), [(14, 8), (28, 4), (56, 2)])
def test_candidates_equal_those_of_datasketch(bands, rows):
    a, b = random_permutations(112, seeded(3))
    texts = [page.text for page in dirty_crawl(150)]
    lsh = datasketch.MinHashLSH(num_perm=112, params=(bands, rows))
    minhashes = []
    for i, text in enumerate(texts):
        minhash = datasketch.MinHash(num_perm=112, permutations=(a.tolist(), b.tolist()), scheme="affine32")
        minhash.update_batch([item.encode() for item in shingles(text)])
        lsh.insert(i, minhash)
        minhashes.append(minhash)
    theirs = sorted((j, i) for i, minhash in enumerate(minhashes) for j in lsh.query(minhash) if j < i)
    signatures = torch.stack([minhash_signature(shingles(text), a, b) for text in texts])
    assert lsh_candidates(signatures, bands) == theirs
    assert theirs  # there is something to find


def test_shingles_of_short_texts():
    assert shingles("A b c", 2) == {"a b", "b c"}
    assert shingles("one two", 5) == {"one two"}
    assert shingles("  ") == set()


# --- chunks, rows, batches ---------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 99), max_size=60), st.integers(1, 12), st.data())
@settings(deadline=None, max_examples=80, derandomize=True)
def test_chunks_equal_the_overflowing_tokens_of_tokenizers(token_ids, context_length, data):
    overlap = data.draw(st.integers(0, context_length - 1))
    tokenizer = Tokenizer(WordLevel({str(i): i for i in range(100)}, unk_token="0"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.enable_truncation(context_length, stride=overlap)
    encoding = tokenizer.encode(" ".join(map(str, token_ids)))
    theirs = [encoding.ids, *(part.ids for part in encoding.overflowing)]
    assert chunk_tokens(token_ids, context_length, overlap) == [part for part in theirs if part]


@given(st.lists(st.integers(0, 99), max_size=60), st.integers(1, 12), st.data())
@settings(deadline=None, max_examples=80, derandomize=True)
def test_chunks_without_their_overlap_are_the_document(token_ids, context_length, data):
    overlap = data.draw(st.integers(0, context_length - 1))
    chunks = chunk_tokens(token_ids, context_length, overlap)
    assert [t for i, chunk in enumerate(chunks) for t in chunk[overlap if i else 0 :]] == token_ids
    assert all(len(chunk) <= context_length for chunk in chunks)


@pytest.mark.parametrize(("context_length", "overlap"), [(4, 4), (4, -1), (0, 0)])
def test_an_overlap_that_never_ends_is_refused(context_length, overlap):
    with pytest.raises(ValueError, match="overlap"):
        chunk_tokens([1, 2, 3], context_length, overlap)


DOCUMENTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 10, 11], [], [12, 13]]


def test_packed_rows_hold_the_stream_of_documents_and_ends():
    stream = [t for document in DOCUMENTS for t in [*document, 0]]
    for context_length in range(1, len(stream) + 1):
        packed = pack_documents(DOCUMENTS, context_length, 0)["token_ids"]
        assert packed.flatten().tolist() == stream[: packed.numel()]
        assert len(stream) - packed.numel() < context_length


def test_the_mask_of_one_document_is_the_causal_mask():
    mask = pack_documents([[1, 2, 3, 4]], 5, 0)["mask"]
    assert torch.equal(mask, torch.ones(5, 5, dtype=torch.bool).tril()[None, None])


def test_packed_attention_equals_attention_of_each_document_alone():
    packed = pack_documents(DOCUMENTS, 9, 0)
    q, k, v = torch.randn(3, len(packed["token_ids"]), 2, 9, 8, generator=seeded(4))
    together = F.scaled_dot_product_attention(q, k, v, attn_mask=packed["mask"])
    for row, document_ids in enumerate(packed["document_ids"]):
        for i in document_ids.unique():
            own = (document_ids == i).nonzero().flatten()
            alone = F.scaled_dot_product_attention(*(x[row, :, own] for x in (q, k, v)), is_causal=True)
            torch.testing.assert_close(together[row][:, own], alone, rtol=1e-5, atol=1e-6)


def test_a_packed_gpt2_equals_each_document_alone_and_leaks_without_the_mask():
    torch.manual_seed(0)
    small = {"vocab_size": 50, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.2}
    model = GPT2LMHeadModel(GPT2Config(**small, bos_token_id=0, eos_token_id=0)).eval()
    first, other_first = (torch.randint(1, 50, (9,), generator=seeded(s)).tolist() for s in (5, 6))
    second = torch.randint(1, 50, (12,), generator=seeded(7)).tolist()
    with torch.no_grad():
        alone = model(torch.tensor([[*second, 0]])).logits[0]
        for separate in (True, False):
            rows = [pack_documents([document, second], 23, 0) for document in (first, other_first)]
            extra = [{"attention_mask": r["mask"], "position_ids": r["positions"]} if separate else {} for r in rows]
            one, other = (model(r["token_ids"], **e).logits[0, 10:] for r, e in zip(rows, extra, strict=True))
            if separate:
                torch.testing.assert_close(one, alone, rtol=1e-4, atol=1e-5)
                torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
            else:
                assert (one - other).abs().amax(dim=1).min() > 1e-3  # every position has moved


@pytest.mark.parametrize("context_length", [0, 99])
def test_rows_that_cannot_be_filled_are_refused(context_length):
    with pytest.raises(ValueError, match="do not fill one row"):
        pack_documents(DOCUMENTS, context_length, 0)


def test_batches_are_rows_of_a_dataloader_over_all_windows_each_as_often():
    token_ids = torch.randperm(300, generator=seeded(8))[:40]
    windows = torch.cat(list(DataLoader(token_ids.unfold(0, 7, 1), batch_size=10)))
    inputs, targets = get_batch(token_ids, 34_000, 6, seeded(9))
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    rows = torch.cat([inputs, targets[:, -1:]], dim=1)
    place = (rows[:, None, 0] == windows[None, :, 0]).long().argmax(dim=1)
    assert torch.equal(rows, windows[place])
    counts = torch.bincount(place, minlength=len(windows)).float()
    assert len(windows) == 34 and (counts - 1000).abs().max() < 6 * math.sqrt(1000)


@pytest.mark.parametrize(("n_tokens", "batch_size", "context_length"), [(4, 1, 4), (9, 0, 4), (9, 2, 0), (0, 1, 1)])
def test_a_batch_that_does_not_fit_is_refused(n_tokens, batch_size, context_length):
    with pytest.raises(ValueError, match="no batch of"):
        get_batch(torch.arange(n_tokens), batch_size, context_length)
