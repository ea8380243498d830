"""The engine of the server: one thread that decodes all running requests together, and lets new ones in between steps.

A request waits in a bounded queue, gets a slot and the blocks of its whole length, is prefilled, and then takes part
in every decode step until it is done. What happens to it comes by `on_event`, called in the engine's thread.
"""

import codecs
import itertools
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedTokenizerBase

from week1_decoder.solutions.tokenization import byte_characters
from week2_pretraining.solutions.sampling import sample_next_token
from week5_inference.solutions.serving import stop_at


class QueueFull(RuntimeError):
    """As many requests wait as may; the client should come back."""


class Closed(RuntimeError):
    """The engine takes no more requests."""


@dataclass(frozen=True)
class Sampling:
    """How a request wants its tokens."""

    max_tokens: int = 64
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Text:
    """A piece of the answer that may be sent."""

    text: str


@dataclass(frozen=True)
class Done:
    """The answer is whole: "stop" (the model or a stop string ended it) or "length"."""

    reason: str
    n_prompt: int
    n_new: int


@dataclass(frozen=True)
class Failed:
    """The request ended without its answer."""

    message: str


class TokenBytes:
    """The bytes of each token of a byte-level tokenizer; special tokens have none."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        to_byte = {character: byte for byte, character in enumerate(byte_characters())}
        special = set(tokenizer.all_special_ids)
        tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        self.table = [
            b"" if i in special else bytes(to_byte[character] for character in token) for i, token in enumerate(tokens)
        ]

    def __getitem__(self, token_id: int) -> bytes:
        return self.table[token_id] if token_id < len(self.table) else b""


@dataclass
class Ticket:
    """A request on its way through the engine."""

    number: int
    prompt: list[int]
    sampling: Sampling
    on_event: Callable[[Text | Done | Failed], None]
    cancelled: bool = False
    n_new: int = 0
    last: int = -1  # the newest token, which the next step reads
    text: str = ""
    sent: int = 0  # characters of the text that the client has
    decoder: object = field(default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"))
    generator: torch.Generator | None = None

    def cancel(self) -> None:
        """The client has gone: the slot is free before the next step."""
        self.cancelled = True


class Engine:
    """Continuous batching over `decoder`, which has n_slots, context_length, fits, prefill, decode and release.

    `submit` may be called from any thread. `close` lets running requests finish for `grace` seconds.
    """

    def __init__(
        self,
        decoder,
        tokenizer: PreTrainedTokenizerBase,
        end_ids: Sequence[int],
        queue_size: int = 16,
        stop_at: Callable[[str, Sequence[str]], tuple[str, bool]] = stop_at,
    ):
        if queue_size < 1:
            raise ValueError(f"queue_size must be 1 or more, got {queue_size}")
        self.decoder, self.tokenizer, self.end_ids, self.stop_at = decoder, tokenizer, frozenset(end_ids), stop_at
        self.token_bytes = TokenBytes(tokenizer)
        self.inbox: queue.Queue[Ticket] = queue.Queue(queue_size)
        self.running: dict[int, Ticket] = {}  # slot -> who has it
        self.next: Ticket | None = None  # taken from the inbox, waits for blocks
        self.batch_sizes: deque[int] = deque(maxlen=10_000)  # of the latest steps
        self.wake, self.closing, self.deadline = threading.Event(), False, float("inf")
        self.numbers = itertools.count(1)
        self.thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self.thread.start()

    def check(self, prompt: Sequence[int], max_tokens: int) -> None:
        """ValueError for a prompt and answer that the context, or the whole cache, could never hold."""
        room = self.decoder.context_length
        if not prompt:
            raise ValueError("the prompt is empty")
        if len(prompt) + max_tokens > room:
            raise ValueError(
                f"This model's context is {room} tokens; the prompt has {len(prompt)}, and max_tokens is {max_tokens}. "
                "Shorten the prompt or ask for fewer tokens."
            )

    def submit(self, prompt: Sequence[int], sampling: Sampling, on_event: Callable) -> Ticket:
        """Put a request in the queue. Raises ValueError (too long), QueueFull or Closed."""
        self.check(prompt, sampling.max_tokens)
        if self.closing:
            raise Closed("the server is shutting down")
        ticket = Ticket(next(self.numbers), list(prompt), sampling, on_event)
        ticket.generator = torch.Generator()
        if sampling.seed is None:
            ticket.generator.seed()
        else:
            ticket.generator.manual_seed(sampling.seed)
        try:
            self.inbox.put_nowait(ticket)
        except queue.Full:
            raise QueueFull(f"{self.inbox.maxsize} requests are waiting already") from None
        self.wake.set()
        return ticket

    @property
    def n_waiting(self) -> int:
        return self.inbox.qsize() + (self.next is not None)

    def close(self, grace: float = 30.0, wait: bool = True) -> None:
        """Take no more requests; those that wait get an error, those that run have `grace` seconds to finish."""
        self.deadline = min(self.deadline, time.monotonic() + grace)
        self.closing = True
        self.wake.set()
        if wait and threading.current_thread() is not self.thread:
            self.thread.join(grace + 10)

    def _run(self) -> None:
        while True:
            try:
                with torch.inference_mode():
                    if not self._step():
                        return
            except Exception as error:  # a fault of one step must not leave its clients waiting for ever
                for slot in list(self.running):
                    self._leave(slot, Failed(f"the engine failed: {type(error).__name__}: {error}"))

    def _step(self) -> bool:
        """Let requests in, decode once; False when the engine is closed and empty."""
        for slot, ticket in list(self.running.items()):
            if ticket.cancelled:
                self._leave(slot)
            elif time.monotonic() > self.deadline:
                self._leave(slot, Failed("the server was stopped before this answer was whole"))
        self._admit()
        if self.running:
            slots = sorted(self.running)
            logits = self.decoder.decode({slot: self.running[slot].last for slot in slots})
            self.batch_sizes.append(len(slots))
            for slot, row in zip(slots, logits, strict=True):
                self._take(slot, row)
        elif self.closing:
            return False
        else:
            self.wake.wait(timeout=1.0)
            self.wake.clear()
        return True

    def _admit(self) -> None:
        while self.closing or len(self.running) < self.decoder.n_slots:
            if self.next is None:
                try:
                    self.next = self.inbox.get_nowait()
                except queue.Empty:
                    return
            ticket = self.next
            if ticket.cancelled or self.closing:
                self.next = None
                ticket.on_event(Failed("the server is shutting down"))
                continue
            if not self.decoder.fits(len(ticket.prompt) + ticket.sampling.max_tokens):
                return  # out of blocks: it waits for those that run, and nobody overtakes it
            self.next = None
            slot = min(set(range(self.decoder.n_slots)) - set(self.running))
            self.running[slot] = ticket
            logits = self.decoder.prefill(slot, ticket.prompt, len(ticket.prompt) + ticket.sampling.max_tokens)
            self._take(slot, logits)

    def _take(self, slot: int, logits: torch.Tensor) -> None:
        """Draw a request's next token, send what may be sent, and let the request go if it is done."""
        ticket, sampling = self.running[slot], self.running[slot].sampling
        token = sample_next_token(logits[None].float(), sampling.temperature, 0, sampling.top_p, ticket.generator)
        ticket.last = int(token)
        ticket.n_new += 1
        ended = ticket.last in self.end_ids
        last = ended or ticket.n_new == sampling.max_tokens
        ticket.text += ticket.decoder.decode(b"" if ended else self.token_bytes[ticket.last], final=last)
        safe, stopped = self.stop_at(ticket.text, list(sampling.stop))
        if last and not stopped:
            safe = ticket.text  # nothing comes behind it that could make a stop string of its end
        if len(safe) > ticket.sent:
            ticket.on_event(Text(safe[ticket.sent :]))
            ticket.sent = len(safe)
        if last or stopped:
            reason = "stop" if ended or stopped else "length"
            self._leave(slot, Done(reason, len(ticket.prompt), ticket.n_new))

    def _leave(self, slot: int, event: Done | Failed | None = None) -> None:
        ticket = self.running.pop(slot)
        self.decoder.release(slot)
        if event is not None:
            ticket.on_event(event)
