"""What a right answer of lesson 01 shows, and the known mistakes."""

import math

import torch

from shared.checking import observes, raised
from week2_pretraining.solutions.data import HARMLESS, dirty_crawl, hash32

STORY = "Anna had a red kite. It flew over the hill.\nAnna laughed and ran after it!"


@observes(
    "c4_clean",
    difficulty=3,
    minutes=20,
    hints=(
        "Two kinds of rules: some throw the whole page away, some only a line. Do the page rules first, on the text as it came.",
        'Compare in lower case, but keep the line as it was written. For whole words, `re.findall(r"\\w+", ...)` gives '
        "the words of the page as a list.",
        "For each line: cut the markers out, strip, look at its end, count its words, look for the phrases. Join what is "
        "left, and count the sentences of that.",
    ),
    mistakes={
        "The sentences are counted before the lines are cleaned: a page passes with the full stops of its cookie notice.": (
            "count_sentences(cleaned) >= 3",
            "count_sentences(text) >= 3",
        ),
        "The numbers are those of an earlier version of the paper (3 words, 5 sentences): the released code and the "
        "current paper ask for 5 words a line and 3 sentences a page.": [
            ("len(line.split()) < 5", "len(line.split()) < 3"),
            ("count_sentences(cleaned) >= 3", "count_sentences(cleaned) >= 5"),
        ],
        "A line about JavaScript costs the whole page: nearly every page has one, and only the line is boilerplate.": (
            'if "javascript" in lower or',
            'if "javascript" in lower:\n            return None\n        if',
        ),
        'Capital letters hide the placeholder: "Lorem ipsum" begins with one on nearly every page that has it.': (
            '"lorem ipsum" in lowered',
            '"lorem ipsum" in text',
        ),
        'Only "javascript" in small letters is found, and everyone writes JavaScript.': (
            '"javascript" in lower',
            '"javascript" in line',
        ),
        "Capital letters hide a blocked word at the beginning of a sentence.": (
            r're.findall(r"\w+", lowered)',
            r're.findall(r"\w+", text)',
        ),
        "Blocked words are found inside longer words: a page is dropped for a word that it does not contain.": (
            "not words.isdisjoint(blocked)",
            "any(word in lowered for word in blocked)",
        ),
        "A blocked word costs only its line: a page with a word that must not be learned is kept for the rest of it.": [
            (" or not words.isdisjoint(blocked)", ""),
            (
                'if "javascript" in lower or',
                r'if set(re.findall(r"\w+", lower)) & set(blocked) or "javascript" in lower or',
            ),
        ],
        "The curly bracket is looked for only in lines that stay, but a line of code rarely ends in a full stop.": [
            ('"{" in text or ', ""),
            ("kept.append(line)", 'if "{" in line:\n            return None\n        kept.append(line)'),
        ],
        "Citation markers stay: a sentence that ends in one has no end mark, and the others teach the model to write [1].": (
            'CITATION.sub("", line).strip()',
            "line.strip()",
        ),
        "A blank stays where a marker stood at the end of a line: the line then ends in no end mark, and is lost.": (
            'CITATION.sub("", line).strip()',
            'CITATION.sub("", line)',
        ),
        "A line that ends in a quotation mark is thrown away: so is half of all dialogue.": (
            """'"', "”")""",
            ")",
        ),
        "Policy and cookie notices stay: they are whole sentences, and only their phrases give them away.": (
            " or any(phrase in lower for phrase in POLICY)",
            "",
        ),
        "A dropped page comes back as an empty string: it would be counted, and trained on, as a document.": [
            ("return None", 'return ""'),
            ("else None", 'else ""'),
        ],
        "The lines are joined by spaces: the paragraphs of the page are lost.": ('"\\n".join(kept)', '" ".join(kept)'),
        "The text comes back in lower case: that is for comparing, not for keeping.": (
            "kept.append(line)",
            "kept.append(lower)",
        ),
    },
)
def check_c4_clean(c4_clean, rng):
    yield (
        "a short page with a menu and a cookie notice",
        c4_clean("Home | About us\nThis site uses cookies to work well.\n" + STORY + "\nThe end"),
    )
    yield "two sentences in the lines that stay", c4_clean("Anna had a kite. It flew away.\nYes.\nNo!\nWhy?")
    yield (
        "four words a line",
        c4_clean("Anna had a kite.\nIt flew far away.\nShe ran after it.\nIt came down again.\n" * 2),
    )
    yield "a warning about JavaScript", c4_clean(STORY + "\nPlease switch on JavaScript to see the kite.")
    yield "Lorem ipsum", c4_clean("Lorem ipsum dolor sit amet.\n" + STORY)
    yield "a line of code", c4_clean(STORY + "\nif (kite) { fly(); }")
    yield "a blocked word", c4_clean(STORY + "\nFlurb! said the owl in the tree.", {"flurb", "grommish"})
    yield "a longer word with a blocked word in it", c4_clean(STORY + "\nThe unflurbed owl sat in the tree.", {"flurb"})
    yield (
        "markers of Wikipedia",
        c4_clean(
            "The kite[2] is an old toy.[1]\nIt was first flown in China.[citation needed]\nIt is loved by all.[edit]"
        ),
    )
    yield "a blank before the line and before a marker at its end", c4_clean(STORY + "\n The owl had seen it all. [1]")
    yield (
        "lines that end in a quotation mark",
        c4_clean(
            '"I have your kite," said the owl.\nAnna cried: "Give it back to me!"\nSo he did. “Thank you very much!”'
        ),
    )
    yield "no text", c4_clean("")
    seed = int(torch.randint(10_000, (1,), generator=rng))
    yield "thirty pages of the crawl", [c4_clean(page.text, {HARMLESS}) for page in dirty_crawl(30, seed)]


def _first_broken_rule(text):
    from week2_pretraining.solutions.data import gopher_quality

    return gopher_quality(text)[:1]


WORDS = ["The", "owl", "went", "to", "the", "wood", "with", "a", "small", "lamp."]


def _words(n):
    return [WORDS[i % 10] for i in range(n)]


@observes(
    "gopher_quality",
    difficulty=2,
    minutes=20,
    hints=(
        "Make the two lists first: the words, and the lines that are not blank. All eight rules are counts over one of them.",
        "A dictionary {name: is it broken?} keeps the order, and the answer is the names whose value is True. "
        "`line.startswith(BULLETS)` takes a tuple.",
        "For the stop words, make the set of words without punctuation and in lower case, and count how many of STOP_WORDS "
        "are in it. Repeated lines: all lines less the different ones.",
    ),
    mistakes={
        "A page of exactly 50 words is dropped: the rule keeps 50 to 100,000.": ("50 <= n", "50 < n"),
        "Only the first broken rule is told: whoever tunes a filter needs to see them all.": _first_broken_rule,
        "Hash signs and ellipses are added up: the limit holds for each of them.": (
            'text.count("#") / n > 0.1 or n_ellipses / n > 0.1',
            '(text.count("#") + n_ellipses) / n > 0.1',
        ),
        "Symbols are counted per character of the page, not per word: then hardly any page has too many.": (
            'text.count("#") / n > 0.1 or n_ellipses / n > 0.1',
            'text.count("#") / len(text) > 0.1 or n_ellipses / len(text) > 0.1',
        ),
        'The single character "…" is not counted as an ellipsis.': ("for mark in ELLIPSES", 'for mark in ("...",)'),
        "The same stop word twice counts as two: a page of nothing but 'the the the' passes for English.": (
            "len(STOP_WORDS & bare) < 2",
            r'sum(re.sub(r"^\W+|\W+$", "", word).lower() in STOP_WORDS for word in words) < 2',
        ),
        "Stop words with a capital letter are not found.": (
            r're.sub(r"^\W+|\W+$", "", word).lower()',
            r're.sub(r"^\W+|\W+$", "", word)',
        ),
        "Stop words with a comma or a full stop after them are not found.": (
            r're.sub(r"^\W+|\W+$", "", word).lower()',
            "word.lower()",
        ),
        "A word counts as alphabetic only if all of it is letters: every word before a comma is lost.": (
            "any(character.isalpha() for character in word)",
            "all(character.isalpha() for character in word)",
        ),
        "The first of several equal lines counts as a repetition too: it is the one to keep.": (
            "(len(lines) - len(set(lines))) / len(lines)",
            "sum(lines.count(line) > 1 for line in lines) / len(lines)",
        ),
        "Blank lines count as lines, and repeat each other: a page with paragraphs looks like spam.": (
            "for line in text.splitlines() if line.strip()",
            "for line in text.splitlines()",
        ),
        "Pages with exactly 90 % bullets or 30 % ellipses are dropped: the limit itself is still allowed.": [
            ("/ len(lines) > 0.9", "/ len(lines) >= 0.9"),
            (
                "line.endswith(ELLIPSES) for line in lines) / len(lines) > 0.3",
                "line.endswith(ELLIPSES) for line in lines) / len(lines) >= 0.3",
            ),
        ],
    },
)
def check_gopher_quality(gopher_quality, rng):
    yield "three words", gopher_quality("A red kite.")
    yield "no words", gopher_quality(" \n")
    yield "50 good words", gopher_quality(" ".join(_words(50)))
    yield "49 good words", gopher_quality(" ".join(_words(49)))
    yield "words of 10 characters", gopher_quality("strawberry " * 60)
    yield "words of nearly 11 characters", gopher_quality("The and " + "raspberries " * 60)
    yield "words of 2.2 characters", gopher_quality("of to a the and " * 12)
    yield (
        "5 ellipses and 5 hash signs in 50 words",
        gopher_quality(" ".join([*["well..."] * 5, *_words(40), *["#kite"] * 5])),
    )
    yield "6 hash signs in 50 words", gopher_quality(" ".join([*_words(44), *["#kite"] * 6]))
    yield "4 hash signs and 4 ellipses in 50 words", gopher_quality(" ".join([*_words(42), *["#kite", "well..."] * 4]))
    yield "3 ellipses of each kind in 50 words", gopher_quality(" ".join([*_words(44), *["well...", "oh…"] * 3]))
    lines = [
        f"{word} {' '.join(WORDS)}" for word in ("one", "two", "red", "big", "old", "my", "our", "his", "her", "any")
    ]
    yield "9 of 10 lines are bullets", gopher_quality("\n".join([*(f"- {line}" for line in lines[1:]), lines[0]]))
    yield "10 of 10 lines are bullets", gopher_quality("\n".join(f"  • {line}" for line in lines))
    yield "3 of 10 lines end in ...", gopher_quality("\n".join([*(line + ".." for line in lines[:3]), *lines[3:]]))
    yield "4 of 10 lines end in …", gopher_quality("\n".join([*(line + "…" for line in lines[:4]), *lines[4:]]))
    yield "a fifth of the words are numbers", gopher_quality(" ".join([*_words(48), *["4.50"] * 12]))
    yield "a little more than a fifth", gopher_quality(" ".join([*_words(47), *["4.50"] * 12]))
    others = ["owls", "sing", "songs", "under", "large", "silver", "moons", "every", "single", "night"]
    yield "one stop word, ten times", gopher_quality(" ".join([*others, "the"] * 10))
    yield "stop words before commas", gopher_quality(" ".join([*others, "to,", "of:"] * 10))
    yield "stop words with capital letters", gopher_quality(" ".join([*others, "And", "With"] * 10))
    yield "3 of 10 lines come again", gopher_quality("\n".join([*lines[:7], lines[0], lines[0], lines[0]]))
    yield "4 of 10 lines come again", gopher_quality("\n".join([*lines[:6], lines[0], lines[1], lines[1], lines[0]]))
    yield "a blank line after each line", gopher_quality("\n \n\n".join(lines))
    seed = int(torch.randint(10_000, (1,), generator=rng))
    yield "thirty pages of the crawl", [gopher_quality(page.text) for page in dirty_crawl(30, seed)]
    for n in (100_000, 100_001):
        yield f"{n:,} words", gopher_quality("and the kite " * (n // 3) + "and " * (n % 3))


@observes(
    "minhash_signature",
    difficulty=3,
    minutes=15,
    hints=(
        "One permutation first: hash each item, multiply, add, take the remainder, keep the smallest. Then all at once.",
        "A column of hashes times a row of `a` gives a table with a line for each item and a column for each permutation.",
        "`unsqueeze(1)` makes the column of hashes. b, a row too, is added to the table; then comes the remainder, "
        "then the smallest number of each column. int64 overflows on the way, and that does no harm to the "
        "remainder.",
    ),
    mistakes={
        "The largest value is kept, not the smallest: it would compare as well, but not with signatures of others.": (
            "values.min(dim=0)",
            "values.max(dim=0)",
        ),
        "There is no remainder modulo 2³²: products overflow, and what is smallest is an accident of the sign.": (
            "(a * h + b) % 2**32",
            "a * h + b",
        ),
        "The remainder is taken before b is added: values leave the range, and b no longer has a say in which item "
        "is the smallest.": (
            "(a * h + b) % 2**32",
            "a * h % 2**32 + b",
        ),
        "b is left out: an item whose hash is 0 stays at 0 under every permutation, and is the smallest in all of "
        "them.": (
            "a * h + b",
            "a * h",
        ),
        "One a serves for all: adding b only turns the circle, so the values of a signature are not independent.": (
            "(a * h + b)",
            "(a[:1] * h + b)",
        ),
        "The minimum is taken over the permutations: one number for each item, not one for each permutation.": (
            "values.min(dim=0)",
            "values.min(dim=1)",
        ),
        "Python's `hash` is used: it is salted, so the same page gets another signature in the next process.": (
            "hash32(item) for item",
            "hash(item) % 2**32 for item",
        ),
        "The items are not permuted separately: their hashes are added up first, so one changed shingle changes "
        "everything.": (
            "[hash32(item) for item in items]",
            "[sum(hash32(item) for item in items)]",
        ),
    },
)
def check_minhash_signature(minhash_signature, rng):
    def draw(n):
        return 2 * torch.randint(2**31, (n,), generator=rng) + 1, torch.randint(2**32, (n,), generator=rng)

    yield "one item, with a = 1 and b = 0", minhash_signature(["red kite"], torch.tensor([1]), torch.tensor([0]))
    yield (
        "two items under three small permutations",
        minhash_signature(["red kite", "kite flew"], torch.tensor([1, 3, 5]), torch.tensor([7, 0, 2])),
    )
    a, b = draw(6)
    yield (
        "three items under six permutations",
        minhash_signature({"a red kite", "red kite flew", "kite flew off"}, a, b),
    )
    a, b = draw(64)
    names = [f"item {int(n)}" for n in torch.randint(10**9, (60,), generator=rng)]
    yield "forty items under 64 permutations", minhash_signature(names[:40], a, b)
    yield "the same items, some of them twice", minhash_signature(names[:40] + names[10:20], a, b)
    one, other = minhash_signature(names[:40], a, b), minhash_signature(names[20:], a, b)
    yield "agreement of two sets that share 20 of 60 items", (one == other).float().mean()
    small = [name for name in names if hash32(name) < 2**31]
    yield "items with small hashes", minhash_signature(small, a, b)
    yield "no items are refused", raised(minhash_signature, set(), a, b)


def _all_bands_must_agree(signatures, bands):
    n, n_perm = signatures.shape
    if bands < 1 or n_perm % bands:
        raise ValueError
    return [(i, j) for i in range(n) for j in range(i + 1, n) if torch.equal(signatures[i], signatures[j])]


def _one_table_for_all_bands(signatures, bands):
    n, n_perm = signatures.shape
    if bands < 1 or n_perm % bands:
        raise ValueError
    buckets, pairs = {}, set()
    for page, cut in enumerate(signatures.reshape(n, bands, -1).tolist()):
        for values in cut:
            for other in buckets.setdefault(tuple(values), []):
                if other != page:
                    pairs.add((other, page))
            buckets[tuple(values)].append(page)
    return sorted(pairs)


@observes(
    "lsh_candidates",
    difficulty=2,
    minutes=15,
    hints=(
        "For each band a dictionary of its own: the band's values as a tuple -> the pages that have them.",
        "signatures.reshape(n_pages, bands, -1) cuts all signatures at once; `itertools.combinations(pages, 2)` gives the "
        "pairs of a bucket, the smaller number first.",
        "Collect the pairs of all buckets of all bands in a set, for two pages may meet more than once; return it sorted.",
    ),
    mistakes={
        "All bands have to agree: only exact copies are found.": _all_bands_must_agree,
        "The number of bands is taken for the number of values in a band: pages meet at another similarity than was "
        "asked for.": (
            "(len(signatures), bands, -1)",
            "(len(signatures), -1, bands)",
        ),
        "One table serves all bands: the first values of one page meet the last values of another.": _one_table_for_all_bands,
        "Each page is paired only with the next in its bucket: the first and the third of three copies never meet.": (
            "combinations(pages, 2)",
            "zip(pages, pages[1:])",
        ),
        "A page is paired with itself: it would be dropped as its own duplicate.": (
            "pairs.update(combinations(pages, 2))",
            "pairs.update((i, j) for i in pages for j in pages if i <= j)",
        ),
        "Every pair comes twice, in both orders: it is the same pair.": (
            "pairs.update(combinations(pages, 2))",
            "pairs.update((i, j) for i in pages for j in pages if i != j)",
        ),
        "Pages that meet in two bands are listed twice.": [
            ("pairs = set()", "pairs = []"),
            ("pairs.update", "pairs.extend"),
        ],
        "The values of a band are sorted before they are compared: the same numbers under other permutations are no match.": (
            "buckets[tuple(values)]",
            "buckets[tuple(sorted(values))]",
        ),
        "Bands are compared by their sum: different values meet in one bucket.": (
            "buckets[tuple(values)]",
            "buckets[sum(values)]",
        ),
    },
)
def check_lsh_candidates(lsh_candidates, rng):
    yield "three signatures in two bands", lsh_candidates(torch.tensor([[1, 2, 3, 4], [1, 2, 0, 0], [0, 0, 1, 2]]), 2)
    yield "three copies", lsh_candidates(torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8], [1, 2, 3, 4], [1, 2, 3, 4]]), 2)
    yield (
        "the same values in another order",
        lsh_candidates(torch.tensor([[1, 2, 3, 4], [2, 1, 4, 3], [1, 4, 2, 3]]), 2),
    )
    yield "one band", lsh_candidates(torch.tensor([[1, 2], [1, 3], [1, 2], [3, 0]]), 1)
    yield "bands of one value", lsh_candidates(torch.tensor([[1, 2, 3], [4, 2, 5], [2, 4, 4], [9, 9, 9]]), 3)
    signatures = torch.randint(3, (14, 12), generator=rng)
    for bands in (2, 4, 6):
        yield f"fourteen random signatures in {bands} bands", lsh_candidates(signatures, bands)
    yield "five bands of twelve values are refused", raised(lsh_candidates, signatures, 5)
    yield "no bands are refused", raised(lsh_candidates, signatures, 0)


def _last_chunk_pushed_back(token_ids, context_length, overlap=0):
    if context_length < 1 or not 0 <= overlap < context_length:
        raise ValueError
    chunks, start = [], 0
    while start < len(token_ids):
        if start + context_length >= len(token_ids):
            chunks.append(token_ids[max(0, len(token_ids) - context_length) :])
            break
        chunks.append(token_ids[start : start + context_length])
        start += context_length - overlap
    return chunks


@observes(
    "chunk_tokens",
    difficulty=2,
    minutes=10,
    hints=(
        "How far apart do two pieces begin, if the second repeats `overlap` tokens of the first?",
        "A loop over the beginnings: 0, then context_length - overlap further each time. When is a piece the last one?",
        "Take the slice of context_length tokens from each beginning. Stop after the first piece that reaches the "
        "end of the tokens.",
    ),
    mistakes={
        "All that comes after the first piece is lost: that is truncation.": (
            "start += context_length - overlap",
            "break",
        ),
        "The last, shorter piece is dropped: the end of every document is never learned.": (
            "chunks.append(token_ids[start : start + context_length])",
            "chunks.extend([token_ids[start : start + context_length]] if start + context_length <= len(token_ids) else [])",
        ),
        "The overlap is not used: the pieces lie side by side.": (
            "start += context_length - overlap",
            "start += context_length",
        ),
        "The overlap is taken for the step: with a small overlap each token comes many times.": (
            "start += context_length - overlap",
            "start += overlap or context_length",
        ),
        "One more piece comes after the end is reached: all of it was in the piece before.": ("break", "pass"),
        "The pieces are longer than the context, by the overlap.": (
            "token_ids[start : start + context_length]",
            "token_ids[start : start + context_length + overlap]",
        ),
        "The last piece is pushed back to be full: its first tokens come twice, and weigh twice in the loss.": (
            _last_chunk_pushed_back
        ),
    },
)
def check_chunk_tokens(chunk_tokens, rng):
    yield "five tokens in pieces of three", chunk_tokens([1, 2, 3, 4, 5], 3)
    yield "the same with an overlap of one", chunk_tokens([1, 2, 3, 4, 5], 3, 1)
    yield "six tokens in pieces of three", chunk_tokens([1, 2, 3, 4, 5, 6], 3)
    yield "six tokens in pieces of four, overlap two", chunk_tokens([1, 2, 3, 4, 5, 6], 4, overlap=2)
    yield "seven tokens in pieces of four, overlap three", chunk_tokens([1, 2, 3, 4, 5, 6, 7], 4, 3)
    yield "fewer tokens than a piece", chunk_tokens([1, 2], 5, 2)
    yield "no tokens", chunk_tokens([], 4)
    token_ids = torch.randint(100, (50,), generator=rng).tolist()
    yield "fifty tokens in pieces of eight, overlap three", chunk_tokens(token_ids, 8, 3)
    yield "fifty tokens in pieces of one", chunk_tokens(token_ids, 1)
    for context_length, overlap in ((4, 4), (4, -1), (0, 0)):
        yield (
            f"overlap {overlap} of {context_length} is refused",
            raised(chunk_tokens, token_ids, context_length, overlap),
        )


def _one_row_for_each_document(documents, context_length, eos_id):
    if context_length < 1 or sum(len(d) + 1 for d in documents) < context_length:
        raise ValueError
    rows = [[*d, eos_id][:context_length] for d in documents]
    real = torch.tensor([len(row) for row in rows])[:, None]
    columns = torch.arange(context_length)
    mask = (columns[:, None] >= columns) & (columns < real)[:, None, None, :]
    return {
        "token_ids": torch.tensor([row + [eos_id] * (context_length - len(row)) for row in rows]),
        "document_ids": torch.arange(len(documents))[:, None].expand(-1, context_length),
        "positions": columns.expand(len(documents), -1),
        "mask": mask,
    }


@observes(
    "pack_documents",
    difficulty=3,
    minutes=25,
    hints=(
        "Two lists of the same length first: all tokens with an eos after each document, and for each token the number of "
        "its document. Cut both into rows.",
        "Two positions are in the same document where their document_ids are equal. Give the ids one axis more for "
        "the keys, and once more for the queries, and compare: broadcasting makes the square. Causal is a "
        "comparison of columns.",
        "A position is the column less the column where its document begins in this row: put a document's first column where "
        "its number changes, 0 elsewhere, and take `cummax` along the row.",
    ),
    mistakes={
        "The mask is only causal: every document reads the ones before it in its row.": ("mask = same &", "mask = "),
        "The mask separates documents, but is not causal: a token sees its own answer.": (
            " & (columns[:, None] >= columns)",
            "",
        ),
        "The mask is upside down: its True says what is hidden, and scaled_dot_product_attention takes True for "
        "what may be seen.": (
            "mask = same & (columns[:, None] >= columns)",
            "mask = ~(same & (columns[:, None] >= columns))",
        ),
        "Queries and keys are exchanged: each token sees only itself and what comes after it.": (
            "columns[:, None] >= columns",
            "columns[:, None] <= columns",
        ),
        "The mask has no axis for the heads: with as many rows as heads it is applied to the wrong ones.": [
            (
                "document_ids[:, None, :, None] == document_ids[:, None, None, :]",
                "document_ids[:, :, None] == document_ids[:, None, :]",
            ),
        ],
        "Positions run on through the row: a document in the middle begins at a position that it would not have alone.": (
            "columns - (begins * columns).cummax(dim=1).values",
            "columns.expand(shape)",
        ),
        "Positions count on in the next row: a long document reaches positions that the model does not have.": (
            "columns - (begins * columns).cummax(dim=1).values",
            "torch.tensor([p for d in documents for p in range(len(d) + 1)][:used]).view(shape)",
        ),
        "There is no eos between documents: the model never learns where a text ends.": [
            ("[*document, eos_id]]", "document]"),
            ("for _ in range(len(document) + 1)", "for _ in document"),
            ("n_tokens // context_length,", "(n_tokens - len(documents)) // context_length,"),
        ],
        "The eos stands before its document and not after it: nothing teaches the model to end a text.": (
            "[*document, eos_id]",
            "[eos_id, *document]",
        ),
        "The eos belongs to the next document: no position of a text is asked to predict its end.": (
            "owners = [i for i, document in enumerate(documents) for _ in range(len(document) + 1)]",
            "owners = [i for i, document in enumerate(documents) for _ in range(len(document) + (i > 0))] + [len(documents)]",
        ),
        "The rest is filled up with eos to one more row: padding that counts as text.": [
            ("(n_tokens // context_length, context_length)", "(-(-n_tokens // context_length), context_length)"),
            ("[*document, eos_id]]", "[*document, eos_id]] + [eos_id] * context_length"),
            (
                "for _ in range(len(document) + 1)]",
                "for _ in range(len(document) + 1)] + [len(documents) - 1] * context_length",
            ),
        ],
        "Every document has a row of its own, cut or padded: nothing is packed.": _one_row_for_each_document,
    },
)
def check_pack_documents(pack_documents, rng):
    yield "two documents, one row", pack_documents([[5, 6], [7, 8, 9]], 5, 0)
    yield "a document over three rows", pack_documents([[1, 2, 3, 4, 5, 6, 7]], 3, 9)
    yield "two rows, an empty document in the first", pack_documents([[5], [], [6, 7, 8]], 3, 0)
    lengths = torch.randint(1, 12, (15,), generator=rng).tolist()
    documents = [torch.randint(1, 50, (length,), generator=rng).tolist() for length in lengths]
    yield "fifteen documents in rows of eight", pack_documents(documents, 8, 0)
    yield "the same in rows of sixteen, eos 50", pack_documents(documents, 16, 50)
    yield "rows of one token", pack_documents([[5, 6], [7]], 1, 0)
    yield "too few tokens for a row are refused", raised(pack_documents, [[5, 6], [7]], 6, 0)
    yield "rows of no tokens are refused", raised(pack_documents, [[5, 6], [7]], 0, 0)


@observes(
    "get_batch",
    difficulty=1,
    minutes=8,
    hints=(
        "With 7 tokens and windows of 3, at which places can a window begin so that its last target still exists?",
        "Draw a column of beginnings with torch.randint and add a row 0, 1, 2 ...: a table of places.",
        "torch.randint(high, ...) never gives `high` itself: high = n_tokens - context_length. Index with the places, and with "
        "the places + 1.",
    ),
    mistakes={
        "The targets are the inputs themselves: the model is paid for copying.": (
            "token_ids[places + 1]",
            "token_ids[places]",
        ),
        "The last window is never drawn: the upper end of randint is left out already.": (
            "torch.randint(n_tokens - context_length,",
            "torch.randint(max(1, n_tokens - context_length - 1),",
        ),
        "Windows begin only at multiples of context_length: the model sees the same cuts in every epoch.": (
            "torch.randint(n_tokens - context_length, (batch_size, 1), generator=generator)",
            "context_length * torch.randint(-(-(n_tokens - context_length) // context_length), (batch_size, 1), "
            "generator=generator)",
        ),
        "All rows of a batch begin at the same place: the batch is one window, many times.": (
            "(batch_size, 1)",
            "(1, 1)",
        ),
        "The generator is not used: the run cannot be repeated.": (", generator=generator)", ")"),
        "Windows are drawn without putting them back: a batch cannot be larger than the number of windows.": (
            "torch.randint(n_tokens - context_length, (batch_size, 1), generator=generator)",
            "torch.randperm(n_tokens - context_length, generator=generator)[:batch_size, None]",
        ),
    },
)
def check_get_batch(get_batch, rng):
    def seeded():
        return torch.Generator().manual_seed(seed)

    # All inputs first: an answer may draw as much from the generator as it likes.
    seed = int(torch.randint(10_000, (1,), generator=rng))
    token_ids = torch.randperm(90, generator=rng)[:9] + 10
    yield "twenty equal tokens", get_batch(torch.full((20,), 7), 3, 5, rng)
    yield "just one window fits", get_batch(torch.tensor([5, 6, 7, 8, 9]), 2, 4, rng)
    inputs, targets = get_batch(token_ids, 4000, 3, rng)
    given = {"token_ids": token_ids, "batch_size": 4000, "context_length": 3}
    yield "shapes of 4,000 windows of 3 tokens", (list(inputs.shape), list(targets.shape)), given
    places = [token_ids.tolist().index(first) for first in inputs[:, 0].tolist()]
    yield "the places where windows begin, in 9 tokens", sorted(set(places)), given
    both = torch.cat([inputs, targets], dim=1)
    yield "the windows and their targets", sorted(set(map(tuple, both.tolist()))), given
    expected = 4000 / 6
    even = all(abs(places.count(place) - expected) < 7 * math.sqrt(expected) for place in range(6))
    yield "each place about equally often", even, given
    token_ids = torch.arange(10_000)
    one, same = (get_batch(token_ids, 8, 4, seeded())[0] for _ in range(2))
    yield "the same seed gives the same windows", torch.equal(one, same)
    one = get_batch(token_ids, 8, 4, rng)[0]
    other = get_batch(token_ids, 8, 4, rng)[0]
    yield "the next batch is another one", not torch.equal(one, other)
    yield "without a generator", list(get_batch(token_ids, 2, 3)[1].shape)
    yield "int32 tokens", get_batch(torch.full((9,), 4, dtype=torch.int32), 1, 2, rng)
    yield "four tokens for windows of four are refused", raised(get_batch, torch.arange(4), 2, 4)
    yield "an empty batch is refused", raised(get_batch, torch.arange(9), 0, 4)
