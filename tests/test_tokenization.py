"""The reference tokenizers against tiktoken, tokenizers, sentencepiece, transformers, and what must always hold."""

import inspect
import io
import json
import random
import textwrap
from itertools import pairwise, product

import pytest
import regex
import sentencepiece
import tiktoken._educational
import tokenizers
import torch

from shared.data import corpus
from week1_decoder.solutions import tokenization as t

END, PAD = "<|endoftext|>", "<|pad|>"
AWKWARD = [
    "",
    " ",
    "emoji 🙂🙃 👩‍👩‍👧‍👦 🇨🇭 e\u0301",
    "white   space \t\n\n   at  the end   ",
    "tabs\t\tand\r\n\r\nline ends\u00a0\u3000\u2028wide",
    "def f(x):\n        return x**2  # it's 1_000.0\r\n",
    "I'll we've 'S 's're DON'T don't '' '",
    "我有12个苹果，你有几个？①②½",
    "مرحبا नमस्ते สวัสดี",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "\x00\x01\x7f\ufffd\U0010ffff",
]


@pytest.fixture(scope="module")
def text() -> str:
    return corpus(150_000).replace("\n\n", END) + inspect.getsource(textwrap) + "".join(AWKWARD)


@pytest.fixture(scope="module")
def trained(text) -> tuple[dict[int, bytes], list[tuple[bytes, bytes]]]:
    return t.train_bpe(text, 900, [END, PAD])


def random_text(rng: random.Random, n: int = 200) -> str:
    ranges = [(32, 127), (32, 127), (160, 592), (0x4E00, 0x4F00), (0x1F600, 0x1F650), (9, 14), (0x300, 0x310)]
    return "".join(chr(rng.randrange(*rng.choice(ranges))) for _ in range(n))


# ----------------------------------------------------------------------------------------------- byte-level BPE


@pytest.mark.parametrize("sample", AWKWARD)
def test_tiktoken_and_tokenizers_give_the_same_ids(trained, sample):
    vocab, merges = trained
    ours = t.encode_bpe(sample, vocab, merges)
    assert ours == t.to_tiktoken(vocab, [END, PAD]).encode_ordinary(sample)
    assert ours == t.to_tokenizers(vocab, merges, [END, PAD]).encode(sample).ids
    assert t.decode_bpe(ours, vocab) == sample


def test_the_libraries_agree_on_a_long_text_with_special_tokens(trained, text):
    vocab, merges = trained
    ours = t.encode_bpe(text, vocab, merges, [END, PAD])
    assert ours == t.to_tiktoken(vocab, [END, PAD]).encode(text, allowed_special="all")
    assert ours == t.to_tokenizers(vocab, merges, [END, PAD]).encode(text).ids
    assert (
        t.decode_bpe(ours, vocab)
        == text
        == t.to_tokenizers(vocab, merges, [END, PAD]).decode(ours, skip_special_tokens=False)
    )


def test_the_libraries_agree_on_random_unicode(trained):
    vocab, merges = trained
    fast_tiktoken, fast_tokenizers = t.to_tiktoken(vocab, [END, PAD]), t.to_tokenizers(vocab, merges, [END, PAD])
    rng = random.Random(0)
    for _ in range(50):
        sample = random_text(rng)
        ours = t.encode_bpe(sample, vocab, merges)
        assert ours == fast_tiktoken.encode_ordinary(sample) == fast_tokenizers.encode(sample).ids
        assert t.decode_bpe(ours, vocab) == sample


def test_a_tokenizer_file_written_by_the_library_keeps_ids_and_special_tokens(trained, tmp_path):
    vocab, merges = trained
    t.to_tokenizers(vocab, merges, [END, PAD]).save(str(tmp_path / "tokenizer.json"))
    loaded = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    sample = f"Once there was{END}{PAD} a zebra 🙂"
    assert loaded.encode(sample).ids == t.encode_bpe(sample, vocab, merges, [END, PAD])
    assert loaded.token_to_id(END) == 898 and loaded.token_to_id(PAD) == 899


def test_the_bytes_of_gpt2_files_are_those_of_the_library():
    assert set(t.byte_characters()) == set(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    assert t.byte_characters()[ord(" ")] == "Ġ" and t.byte_characters()[ord("\n")] == "Ċ"


@pytest.mark.parametrize("sample", AWKWARD)
def test_the_pattern_cuts_like_the_byte_level_pre_tokenizer(sample):
    library = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(sample)
    assert regex.findall(t.GPT2_PATTERN, sample) == [sample[start:end] for _, (start, end) in library]


def recount_everything(text: str, n_merges: int) -> list[tuple[bytes, bytes]]:
    """Algorithm 1 of Sennrich et al. 2016 on bytes, straight from the definition."""
    words = [tuple(bytes([b]) for b in word.encode()) for word in regex.findall(t.GPT2_PATTERN, text)]
    merges = []
    while len(merges) < n_merges:
        counts: dict = {}
        for word in words:
            for pair in pairwise(word):
                counts[pair] = counts.get(pair, 0) + 1
        if not counts:
            break
        best = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(best)
        for i, word in enumerate(words):
            joined, j = [], 0
            while j < len(word):
                step = 2 if word[j : j + 2] == best else 1
                joined.append(b"".join(word[j : j + step]))
                j += step
            words[i] = tuple(joined)
    return merges


@pytest.mark.parametrize("seed", range(5))
def test_incremental_training_equals_recounting_everything(seed):
    rng = random.Random(seed)
    sample = "".join(rng.choice("aab  c\né") for _ in range(1500))
    assert t.train_bpe(sample, 100_000)[1] == recount_everything(sample, 100_000)


def test_training_on_stories_equals_recounting_everything():
    sample = corpus(8_000)
    assert t.train_bpe(sample, 256 + 150)[1] == recount_everything(sample, 150)


def test_tiktokens_own_trainer_learns_as_good_merges():
    """Its ties fall otherwise, so the merges differ; the compression hardly does."""
    sample = corpus(4_000)
    ranks = tiktoken._educational.bpe_train(sample, 300, t.GPT2_PATTERN, visualise=None)
    vocab, merges = t.train_bpe(sample, 300)
    theirs = tiktoken.Encoding("theirs", pat_str=t.GPT2_PATTERN, mergeable_ranks=ranks, special_tokens={})
    ours, other = len(t.encode_bpe(sample, vocab, merges)), len(theirs.encode_ordinary(sample))
    assert abs(ours - other) < 0.02 * other


def test_hugging_face_learns_the_same_number_of_merges_with_nearly_the_same_compression():
    sample = corpus(100_000)
    library = tokenizers.Tokenizer(tokenizers.models.BPE())
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    library.train_from_iterator(
        [sample], tokenizers.trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    )
    vocab, merges = t.train_bpe(sample, 600)
    assert len(json.loads(library.to_str())["model"]["merges"]) == len(merges) == 344
    ours, theirs = len(t.encode_bpe(sample, vocab, merges)), len(library.encode(sample).ids)
    assert abs(ours - theirs) < 0.01 * theirs


def test_the_example_of_sennrich_learns_the_common_stems():
    """Section 3.2 counts low 5, lower 2, newest 6, widest 3; with no end-of-word mark and our ties:"""
    sample = "\n".join(["low"] * 5 + ["lower"] * 2 + ["newest"] * 6 + ["widest"] * 3)
    merges = t.train_bpe(sample, 256 + 6)[1]
    assert merges == [
        (b"s", b"t"),
        (b"e", b"st"),
        (b"o", b"w"),
        (b"l", b"ow"),
        (b"w", b"est"),
        (b"n", b"e"),
    ]


def test_a_smaller_vocabulary_is_the_beginning_of_a_larger_one(text, trained):
    vocab, merges = t.train_bpe(text, 500, [END, PAD])
    assert merges == trained[1][: len(merges)]
    assert len(vocab) == 500 and len(merges) == 500 - 256 - 2


def test_ids_are_bytes_then_merges_then_special_tokens(trained):
    vocab, merges = trained
    assert list(vocab) == list(range(900))
    assert [vocab[i] for i in range(256)] == [bytes([i]) for i in range(256)]
    assert [vocab[256 + i] for i in range(len(merges))] == [left + right for left, right in merges]
    assert [vocab[898], vocab[899]] == [END.encode(), PAD.encode()]


def test_no_token_is_learnt_twice_and_none_crosses_a_pre_token(trained):
    vocab, merges = trained
    assert len(set(vocab.values())) == len(vocab)
    for left, right in merges:
        token = (left + right).decode("utf-8", errors="ignore")
        assert len(regex.findall(t.GPT2_PATTERN, token)) <= 1 and END not in token


def test_training_stops_when_no_pair_is_left():
    vocab, merges = t.train_bpe("ab ab", 400, [END])
    assert merges == [(b"a", b"b"), (b" ", b"ab")]
    assert len(vocab) == 259 and vocab[258] == END.encode()
    assert t.train_bpe("", 300)[1] == t.train_bpe(END, 300, [END])[1] == []


def test_special_tokens_in_the_text_teach_nothing():
    assert t.train_bpe(END * 50 + "ab", 300, [END])[1] == [(b"a", b"b")]


def test_a_vocabulary_with_no_room_is_refused():
    with pytest.raises(ValueError, match="at least 257"):
        t.train_bpe("ab", 256, [END])
    assert t.train_bpe("ab", 256)[1] == []


@pytest.mark.parametrize("wrong", [END, ["", END]])
def test_special_tokens_that_are_no_list_of_texts_are_refused(wrong):
    with pytest.raises(ValueError, match="non-empty"):
        t.split_special("a text", wrong)


def test_special_tokens_are_one_id_only_where_asked_for(trained):
    vocab, merges = trained
    sample = f"a{END}b{PAD}"
    assert {898, 899} <= set(t.encode_bpe(sample, vocab, merges, [END, PAD]))
    assert not {898, 899} & set(t.encode_bpe(sample, vocab, merges))
    assert t.encode_bpe(sample, vocab, merges) == t.to_tiktoken(vocab, [END, PAD]).encode_ordinary(sample)
    with pytest.raises(ValueError, match="cls"):
        t.encode_bpe(sample, vocab, merges, ["<|cls|>"])


def test_the_longest_special_token_wins_as_in_the_libraries():
    special = ["<|a|>", "<|a|><|b|>", "<|b|>"]
    vocab, merges = t.train_bpe("x", 300, special)
    sample = "x<|a|><|b|>x<|b|><|a|>"
    ours = t.encode_bpe(sample, vocab, merges, special)
    assert ours == [120, 257, 120, 258, 256]
    assert ours == t.to_tokenizers(vocab, merges, special).encode(sample).ids


def test_ids_come_from_the_vocabulary_whatever_its_numbers(trained):
    vocab, merges = trained
    turned = {1000 - i: token for i, token in vocab.items()}
    sample = corpus(2_000)
    assert t.encode_bpe(sample, turned, merges) == [1000 - i for i in t.encode_bpe(sample, vocab, merges)]


def test_any_ids_can_be_decoded(trained):
    vocab, _ = trained
    rng = random.Random(1)
    theirs = t.to_tiktoken(vocab, [END, PAD])
    for _ in range(200):
        ids = [rng.randrange(900) for _ in range(20)]
        assert t.decode_bpe(ids, vocab) == theirs.decode(ids, errors="replace")
    assert t.decode_bpe([0xF0, 0x9F, 0x99], vocab) == "\ufffd"
    assert t.decode_bpe(torch.tensor([104, 105]), vocab) == "hi"
    with pytest.raises(KeyError):
        t.decode_bpe([900], vocab)


# ----------------------------------------------------------------------------------------------- pairs


@pytest.mark.parametrize("seed", range(20))
def test_merging_equals_a_replacement_in_a_string(seed):
    rng = random.Random(seed)
    ids, pair = [rng.randrange(3) for _ in range(40)], (rng.randrange(3), rng.randrange(3))
    written = "".join(map(chr, ids)).replace(chr(pair[0]) + chr(pair[1]), chr(9))
    assert t.merge_pair(ids, pair, 9) == [ord(character) for character in written]


def test_counts_sum_to_the_number_of_neighbours():
    ids = list(corpus(3_000).encode())
    counts = t.count_pairs(ids)
    assert sum(counts.values()) == len(ids) - 1 and type(counts) is dict
    assert t.count_pairs([1, 1, 1, 1]) == {(1, 1): 3}


# ----------------------------------------------------------------------------------------------- WordPiece


def wordpiece_library(vocab: set[str]) -> tokenizers.models.WordPiece:
    numbered = {piece: i for i, piece in enumerate(sorted(vocab | {"[UNK]"}))}
    return tokenizers.models.WordPiece(numbered, unk_token="[UNK]", max_input_chars_per_word=1000)


def test_wordpiece_equals_the_library_on_every_word_of_two_letters():
    rng = random.Random(2)
    words = ["".join(word) for n in range(1, 7) for word in product("ab", repeat=n)]
    for _ in range(20):
        vocab = {("##" if rng.random() < 0.5 else "") + rng.choice(words[:30]) for _ in range(8)}
        model = wordpiece_library(vocab)
        for word in words:
            assert t.wordpiece_tokenize(word, vocab) == [token.value for token in model.tokenize(word)], (word, vocab)


def test_wordpiece_equals_a_trained_vocabulary_of_the_library():
    library = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    library.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    trainer = tokenizers.trainers.WordPieceTrainer(vocab_size=300, special_tokens=["[UNK]"], show_progress=False)
    library.train_from_iterator(corpus(60_000).split("\n\n"), trainer)
    vocab = set(library.get_vocab())
    for word in {*regex.findall(r"\w+", corpus(30_000, split="validation")), "naïve", "你好", "x1y2", "🙂"}:
        assert t.wordpiece_tokenize(word, vocab) == [token.value for token in library.model.tokenize(word)]


def test_the_word_of_berts_source():
    """tokenization.py of google-research/bert gives this one as its example."""
    assert t.wordpiece_tokenize("unaffable", {"un", "##aff", "##able", "##a"}) == ["un", "##aff", "##able"]


# ----------------------------------------------------------------------------------------------- unigram


def fused(pieces: list[str], log_probs: dict[str, float]) -> list[str]:
    """Unknown characters side by side as one piece, the way both libraries show them."""
    joined: list[str] = []
    was_unknown = False
    for piece in pieces:
        if was_unknown and piece not in log_probs:
            joined[-1] += piece
        else:
            joined.append(piece)
        was_unknown = piece not in log_probs
    return joined


@pytest.fixture(scope="module")
def processor() -> sentencepiece.SentencePieceProcessor:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus(150_000).split("\n\n")),
        model_writer=model,
        model_type="unigram",
        vocab_size=300,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def test_unigram_equals_sentencepiece_and_tokenizers(processor):
    numbers = range(processor.vocab_size())
    log_probs = {
        processor.id_to_piece(i): processor.get_score(i)
        for i in numbers
        if not processor.is_control(i) and not processor.is_unknown(i)
    }
    library = tokenizers.Tokenizer(tokenizers.models.Unigram([("<unk>", 0.0), *log_probs.items()], unk_id=0))
    for sample in [
        *corpus(30_000, split="validation").split("\n\n"),
        "Zoë’s 🙂🙃 zebra",
        "一 二三",
        "Rufus",
        "quizzical",
    ]:
        written = "▁" + sample.replace(" ", "▁")
        ours = fused(t.unigram_tokenize(written, log_probs), log_probs)
        assert ours == library.encode(written).tokens
        if sample.isascii():  # SentencePiece also normalizes
            assert ours == processor.encode(sample, out_type=str)


@pytest.mark.parametrize("seed", range(10))
def test_viterbi_finds_the_best_of_all_cuts(seed):
    rng = random.Random(seed)
    pieces = {"".join(rng.choice("abc") for _ in range(rng.randrange(1, 4))) for _ in range(8)}
    log_probs = {piece: -10 * rng.random() for piece in pieces}
    unknown = min(log_probs.values()) - 10
    text = "".join(rng.choice("abc") for _ in range(9))

    def score(cut: list[str]) -> float:
        return sum(log_probs.get(piece, unknown if len(piece) == 1 else float("-inf")) for piece in cut)

    cuts = []
    for places in product([False, True], repeat=len(text) - 1):
        ends = [i + 1 for i, here in enumerate(places) if here] + [len(text)]
        cuts.append([text[a:b] for a, b in zip([0, *ends], ends, strict=False)])
    found = t.unigram_tokenize(text, log_probs)
    assert "".join(found) == text
    assert score(found) == pytest.approx(max(map(score, cuts)), abs=1e-9)


def test_ties_go_to_the_longer_last_piece_as_in_tokenizers():
    log_probs = {"a": -1.0, "b": -1.0, "c": -1.0, "ab": -2.0, "bc": -2.0, "abc": -3.0, "ca": -2.0}
    library = tokenizers.models.Unigram([("<unk>", 0.0), *log_probs.items()], unk_id=0)
    for word in product("abc", repeat=6):
        text = "".join(word)
        assert t.unigram_tokenize(text, log_probs) == [token.value for token in library.tokenize(text)]


def test_unigram_needs_pieces():
    with pytest.raises(ValueError, match="empty"):
        t.unigram_tokenize("a", {})


# ----------------------------------------------------------------------------------------------- batches


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_batch_equals_that_of_hugging_face(trained, side):
    from transformers import PreTrainedTokenizerFast

    vocab, merges = trained
    fast = t.to_tokenizers(vocab, merges, [END, PAD])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=fast, pad_token=PAD, padding_side=side)
    texts = [text for text in AWKWARD if text and END not in text]
    theirs = wrapped(texts, padding=True, return_tensors="pt")
    token_ids, attention_mask = t.pad_batch([t.encode_bpe(text, vocab, merges) for text in texts], 899, side)
    assert torch.equal(token_ids, theirs["input_ids"]) and token_ids.dtype == theirs["input_ids"].dtype
    assert torch.equal(attention_mask, theirs["attention_mask"]) and attention_mask.dtype == torch.long


def test_the_mask_counts_the_tokens_even_when_they_are_the_padding():
    for side in ("left", "right"):
        token_ids, attention_mask = t.pad_batch([[7, 7], [], [7, 1, 7]], 7, side)
        assert attention_mask.sum(1).tolist() == [2, 0, 3]
        assert token_ids[attention_mask.bool()].tolist() == [7, 7, 7, 1, 7]


def test_bad_batches_are_refused():
    with pytest.raises(ValueError, match="no sequences"):
        t.pad_batch([], 0)
    with pytest.raises(ValueError, match="side"):
        t.pad_batch([[1]], 0, "top")
