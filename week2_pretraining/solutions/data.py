"""Pretraining data: a dirty crawl, C4's and Gopher's rules, near-duplicates, chunks, packed rows, batches."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from itertools import combinations

import torch
from jaxtyping import Int
from torch import Tensor

from shared.data import stories
from shared.stories import Dice

# --- a small web crawl whose faults are known ------------------------------------------------------------------

# Lines that stand around the text of a page. The last kind looks like a sentence, and no rule of C4 knows it.
NOISE = {
    "menu": ("Home | Stories | About us | Contact", "Next story >> Previous story <<", "Log in / Sign up / Help"),
    "cookie notice": (
        "This website uses cookies to give you the best reading experience.",
        "By reading on you accept our privacy policy and our cookie policy.",
    ),
    "javascript": ("Please enable JavaScript to see all pictures on this page.",),
    "teaser": ("Read more about kites, boats and balloons", "You may also like these five stories"),
    "newsletter": ("Sign up for our newsletter and never miss a story again!",),
}
FOREIGN = (  # sentences cut at "|"
    "Am Morgen ging der kleine Bär an den Fluss.|Dort suchte er lange nach seinem roten Ball.|"
    "Eine Ente sah ihn im Gras.|Sie half ihm gern bei der Suche.|Da lachten sie beide sehr laut.",
    "La niña caminaba despacio por el parque verde.|Su cometa azul estaba en un árbol alto.|"
    "Un perro grande la vio llorar.|Entre los dos bajaron la cometa.|Fue un día muy feliz para ella.",
    "Утром мышка пошла на рынок за сыром.|Там она потеряла свой маленький кошелёк.|"
    "Добрая сова помогла ей его найти.|Они вместе пили чай у окна.|Ей снилась большая жёлтая луна.",
)
HARMLESS = "flurb"  # an invented word that happens to be on our block list

# What a page can suffer from, and how often (per cent). Only the first four kinds are worth keeping.
FAULTS = {
    "none": 44,
    "broken lines": 7,
    "blocked word": 7,
    "[1] markers": 4,
    "near-duplicate": 12,
    "placeholder": 5,
    "code": 5,
    "foreign": 6,
    "too short": 4,
    "spam": 3,
    "numbers": 3,
}
WORTH_KEEPING = ("none", "broken lines", "blocked word", "[1] markers")


@dataclass(frozen=True)
class Page:
    """A page as a crawler finds it, and the truth about it."""

    text: str
    story: str  # the text that a model should learn from, in lines; "" where there is none
    fault: str  # a key of FAULTS
    noise: tuple[tuple[str, str], ...]  # (kind, line) of each line that was put around the text
    copy_of: int | None = None  # the page that a near-duplicate repeats


def dirty_crawl(n_pages: int, seed: int = 0) -> list[Page]:
    """`n_pages` pages made of the course's stories, with known faults; the same seed gives the same pages."""
    dice, pages = Dice(seed), []
    kinds = [kind for kind, per_cent in FAULTS.items() for _ in range(per_cent)]
    for told in stories(n_pages, seed=1000 + seed):
        parts = list(told.parts.values())
        third = -(-len(parts) // 3)
        lines = [" ".join(parts[i : i + third]) for i in range(0, len(parts), third)]
        originals = [i for i, page in enumerate(pages) if page.fault == "none"]
        fault, copy_of = dice.pick(kinds), None
        if fault == "near-duplicate" and not originals:
            fault = "none"
        if fault == "near-duplicate":
            copy_of = dice.pick(originals)
            lines = pages[copy_of].story.split("\n")
            for _ in range(dice.between(0, 5)):  # every lost word breaks up to five shingles
                words = dice.pick(lines).split()
                at = lines.index(" ".join(words))
                words.pop(dice.between(1, len(words) - 2))
                lines[at] = " ".join(words)
        elif fault == "broken lines":
            words = " ".join(lines).split()
            lines = [" ".join(words[i : i + 9]) for i in range(0, len(words), 9)]
        elif fault == "blocked word":
            lines.append(f'"{HARMLESS.title()}!" said {told.facts.friend}, and waved from far away.')
        elif fault == "[1] markers":
            lines = [f"{line}[{i}]" for i, line in enumerate(lines, 1)]
        elif fault == "placeholder":
            lines = ["Lorem ipsum dolor sit amet, consectetur adipiscing elit.", *lines]
        elif fault == "code":
            lines = [*lines, "function show(id) { document.getElementById(id).hidden = false; }"]
        elif fault == "foreign":
            sentences = dice.pick(FOREIGN).split("|")
            lines = [dice.pick(sentences) + " " + dice.pick(sentences) for _ in range(7)]
        elif fault == "too short":
            lines = [parts[0] if parts[0].count(".") == 1 else f"The {told.facts.thing} was at home."]
        elif fault == "spam":
            lines = [f"Buy the best {told.facts.thing} of the year with us today!"] * 9
        elif fault == "numbers":
            lines = [
                f"{dice.between(10, 99)} - {told.facts.thing} - 4.50 x {i} = {4.5 * i:.2f} ." for i in range(1, 10)
            ]
        noise = tuple((kind, dice.pick(NOISE[kind])) for kind in NOISE if dice.happens(0.4))
        above = [line for kind, line in noise if kind in ("menu", "cookie notice")]
        below = [line for kind, line in noise if kind not in ("menu", "cookie notice")]
        story = "\n".join(re.sub(r"\[\d\]", "", line) for line in lines) if fault in WORTH_KEEPING else ""
        text = "\n".join([f"The {told.facts.thing} of {told.facts.hero}", *above, *lines, *below])
        pages.append(Page(text, story, fault, noise, copy_of))
    return pages


# --- C4's rules ------------------------------------------------------------------------------------------------

END_MARKS = (".", "!", "?", '"', "”")
CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")


def count_sentences(text: str) -> int:
    """Places where a sentence ends: full stops, question or exclamation marks before white space or the end.

    Example: 'Stop! "Who is it?" he said.' -> 3, for it does not know that the second is inside a sentence.
    """
    return len(re.findall(r"[.!?]+[\"”')]*(?=\s|$)", text))


def c4_clean(text: str, blocked: Collection[str] = ()) -> str | None:
    """The lines of a page that C4 would keep, joined by line breaks; None where C4 drops the page.

    Raffel et al. 2020, section 2.2. A page is dropped for a "{", "lorem ipsum" or a whole word that is in `blocked`.
    From each line what matches CITATION is cut out, then blanks at both ends; it stays if it ends in one of END_MARKS,
    has at least 5 words, and neither "javascript" nor a phrase of POLICY in it. A page with fewer than 3 sentences in
    the lines that stay is dropped. `blocked`, POLICY and the other words are lower case; the page may be in any.
    """
    # BEGIN SOLUTION
    lowered = text.lower()
    words = set(re.findall(r"\w+", lowered))
    if "{" in text or "lorem ipsum" in lowered or not words.isdisjoint(blocked):
        return None
    kept = []
    for line in text.splitlines():
        line = CITATION.sub("", line).strip()
        lower = line.lower()
        if not line.endswith(END_MARKS) or len(line.split()) < 5:
            continue
        if "javascript" in lower or any(phrase in lower for phrase in POLICY):
            continue
        kept.append(line)
    cleaned = "\n".join(kept)
    return cleaned if count_sentences(cleaned) >= 3 else None
    # END SOLUTION


# --- Gopher's rules --------------------------------------------------------------------------------------------

STOP_WORDS = {"the", "be", "to", "of", "and", "that", "have", "with"}
BULLETS = ("•", "-", "*")
ELLIPSES = ("...", "…")


def gopher_quality(text: str) -> list[str]:
    """The names of the rules that a page breaks, in this order; [] for a good page.

    Rae et al. 2021, appendix A.1.1. Words: text.split(). Lines: the stripped ones that are not blank.
    "word count": not 50 to 100,000. "mean word length": not 3 to 10 characters. "symbols": more than 0.1 "#" per word,
    or more than 0.1 ELLIPSES (both kinds together). "bullet lines": over 90 % begin with one of BULLETS. "ellipsis
    lines": over 30 % end with one of ELLIPSES. "alphabetic words": under 80 % have a letter. "stop words": fewer than
    two different STOP_WORDS (in any case, punctuation around a word ignored). "duplicate lines": over 30 % of the
    lines repeat an earlier one (table A1). A page without words breaks just "word count".
    """
    # BEGIN SOLUTION
    words = text.split()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not words:
        return ["word count"]
    n = len(words)
    mean_length = sum(map(len, words)) / n
    n_ellipses = sum(text.count(mark) for mark in ELLIPSES)
    bare = {re.sub(r"^\W+|\W+$", "", word).lower() for word in words}
    with_letter = sum(any(character.isalpha() for character in word) for word in words)
    broken = {
        "word count": not 50 <= n <= 100_000,
        "mean word length": not 3 <= mean_length <= 10,
        "symbols": text.count("#") / n > 0.1 or n_ellipses / n > 0.1,
        "bullet lines": sum(line.startswith(BULLETS) for line in lines) / len(lines) > 0.9,
        "ellipsis lines": sum(line.endswith(ELLIPSES) for line in lines) / len(lines) > 0.3,
        "alphabetic words": with_letter / n < 0.8,
        "stop words": len(STOP_WORDS & bare) < 2,
        "duplicate lines": (len(lines) - len(set(lines))) / len(lines) > 0.3,
    }
    return [rule for rule, is_broken in broken.items() if is_broken]
    # END SOLUTION


# --- near-duplicates -------------------------------------------------------------------------------------------


def shingles(text: str, n: int = 5) -> set[str]:
    """All runs of `n` words, in lower case; a shorter text is one shingle. Example: "A b c", 2 -> {"a b", "b c"}."""
    words = text.lower().split()
    return {" ".join(words[i : i + n]) for i in range(max(1, len(words) - n + 1))} if words else set()


def hash32(text: str) -> int:
    """A number from 0 to 2³² - 1 that looks random: 4 bytes of SHA-1, stirred as datasketch 2 does (MurmurHash3)."""
    h = int.from_bytes(hashlib.sha1(text.encode()).digest()[:4], "little")
    h = (h ^ h >> 16) * 0x85EBCA6B % 2**32
    h = (h ^ h >> 13) * 0xC2B2AE35 % 2**32
    return h ^ h >> 16


def random_permutations(count: int, generator: torch.Generator) -> tuple[Int[Tensor, "n_perm"], Int[Tensor, "n_perm"]]:
    """Numbers a, b of `count` permutations h -> (a h + b) mod 2³²; a is odd, so that no two h share a value."""
    a = 2 * torch.randint(2**31, (count,), generator=generator) + 1
    return a, torch.randint(2**32, (count,), generator=generator)


def minhash_signature(
    items: Collection[str], a: Int[Tensor, "n_perm"], b: Int[Tensor, "n_perm"]
) -> Int[Tensor, "n_perm"]:
    """signature[k] = min over all items of (a[k] · hash32(item) + b[k]) mod 2³².

    Broder 1997. P(two signatures agree at k) = |A ∩ B| / |A ∪ B|, the Jaccard similarity of the two sets.
    Raises ValueError where there are no items: nothing has no minimum.
    """
    if not items:
        raise ValueError("a signature needs at least one item, got none: drop empty pages first")
    # BEGIN SOLUTION
    h = torch.tensor([hash32(item) for item in items]).unsqueeze(1)
    # Products over 2⁶³ wrap around in int64; that takes off multiples of 2⁶⁴, which do not matter modulo 2³².
    values = (a * h + b) % 2**32  # (item, n_perm)
    return values.min(dim=0).values
    # END SOLUTION


def lsh_candidates(signatures: Int[Tensor, "page n_perm"], bands: int) -> list[tuple[int, int]]:
    """All pairs (i, j), i < j, whose signatures agree in every value of at least one band, sorted.

    A signature is cut into `bands` bands of n_perm / bands neighbouring values. Leskovec et al., Mining of Massive
    Datasets, section 3.4. Example: [[1, 2, 3, 4], [1, 2, 0, 0], [0, 0, 1, 2]] in 2 bands -> [(0, 1)].
    Raises ValueError if n_perm is no multiple of `bands`.
    """
    n_perm = signatures.shape[1]
    if bands < 1 or n_perm % bands:
        raise ValueError(f"{n_perm} values cannot be cut into {bands} bands: take a divisor of {n_perm}")
    # BEGIN SOLUTION
    pairs = set()
    for band in signatures.reshape(len(signatures), bands, -1).unbind(dim=1):  # (page, row)
        buckets = defaultdict(list)
        for page, values in enumerate(band.tolist()):
            buckets[tuple(values)].append(page)
        for pages in buckets.values():
            pairs.update(combinations(pages, 2))
    return sorted(pairs)
    # END SOLUTION


# --- from tokens to batches ------------------------------------------------------------------------------------


def chunk_tokens(token_ids: list[int], context_length: int, overlap: int = 0) -> list[list[int]]:
    """Cut a document into pieces of `context_length` tokens; the last `overlap` tokens of each come again in the next.

    The last piece may be shorter; none lies wholly inside the one before it. No tokens give no pieces.
    Example: [1, 2, 3, 4, 5], 3, overlap 1 -> [[1, 2, 3], [3, 4, 5]].
    Raises ValueError unless context_length >= 1 and 0 <= overlap < context_length.
    """
    if context_length < 1 or not 0 <= overlap < context_length:
        raise ValueError(f"the overlap must be from 0 to context_length - 1, got {overlap} with {context_length}")
    # BEGIN SOLUTION
    chunks, start = [], 0
    while start < len(token_ids):
        chunks.append(token_ids[start : start + context_length])
        if start + context_length >= len(token_ids):
            break
        start += context_length - overlap
    return chunks
    # END SOLUTION


def pack_documents(documents: list[list[int]], context_length: int, eos_id: int) -> dict[str, Tensor]:
    """Rows of `context_length` tokens without padding, from documents that each end in `eos_id`, one after another.

    "token_ids", "document_ids" (index in `documents`; an eos belongs to the document it ends) and "positions" (counted
    from 0 where a document or a row begins) are (row, seq). "mask" is (row, 1, query, key), True where a query may
    look: at keys of its own document that are not after it. Tokens that do not fill a last row are left out.
    Raises ValueError if context_length < 1 or not even one row can be filled.
    """
    n_tokens = sum(len(document) + 1 for document in documents)
    if context_length < 1 or n_tokens < context_length:
        raise ValueError(f"{n_tokens} tokens, ends included, do not fill one row of {context_length}")
    # BEGIN SOLUTION
    shape = (n_tokens // context_length, context_length)
    used = shape[0] * context_length
    stream = [token_id for document in documents for token_id in [*document, eos_id]]
    owners = [i for i, document in enumerate(documents) for _ in range(len(document) + 1)]
    token_ids = torch.tensor(stream[:used]).view(shape)
    document_ids = torch.tensor(owners[:used]).view(shape)

    columns = torch.arange(context_length)
    begins = torch.zeros(shape, dtype=torch.long)
    begins[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    positions = columns - (begins * columns).cummax(dim=1).values

    same = document_ids[:, None, :, None] == document_ids[:, None, None, :]  # (row, 1, query, key)
    mask = same & (columns[:, None] >= columns)
    return {"token_ids": token_ids, "document_ids": document_ids, "positions": positions, "mask": mask}
    # END SOLUTION


def get_batch(
    token_ids: Int[Tensor, "n_tokens"], batch_size: int, context_length: int, generator: torch.Generator | None = None
) -> tuple[Int[Tensor, "batch seq"], Int[Tensor, "batch seq"]]:
    """`batch_size` windows of `context_length` tokens, and the same windows one token later: (inputs, targets).

    Each window begins anywhere, independently and uniformly, also at the last place where its targets still fit.
    Raises ValueError where no window fits (it takes context_length + 1 tokens) or batch_size or context_length < 1.
    """
    n_tokens = len(token_ids)
    if batch_size < 1 or context_length < 1 or n_tokens <= context_length:
        raise ValueError(f"no batch of {batch_size} windows of {context_length} + 1 tokens in {n_tokens} tokens")
    # BEGIN SOLUTION
    starts = torch.randint(n_tokens - context_length, (batch_size, 1), generator=generator)
    places = (starts + torch.arange(context_length)).to(token_ids.device)
    return token_ids[places], token_ids[places + 1]
    # END SOLUTION
