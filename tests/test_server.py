"""The server of lesson 05, by real HTTP: the official client, bad input, clients that leave, and stopping."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import openai
import pytest
import torch

from shared.course import ROOT
from shared.models import course_folder
from week1_decoder.solutions.decoder import GPT
from week2_pretraining.solutions.pretraining import load_pretrained
from week4_finetuning.chat import encode_prompt
from week5_inference.decoders import PagedDecoder, PagedRows
from week5_inference.engine import Engine, TokenBytes
from week5_inference.load import crowd
from week5_inference.server import listen, serving, sse_event
from week5_inference.solutions.kv_cache import cached_forward, generate_cached
from week5_inference.solutions.serving import PagedKVCache

NAME = "course-instruct"
ASK = [{"role": "user", "content": "Write a short story about a lost kite."}]


@pytest.fixture(scope="module")
def loaded():
    return load_pretrained(course_folder("instruct"), GPT)


@pytest.fixture
def start(loaded):
    """Start a server on a free port, which is stopped at the end of the test. With a `delay` (seconds a step) it is so
    slow that a test can act while requests run; `endless`: no token ends an answer."""
    model, tokenizer = loaded
    entered = []

    def start(n_slots=2, queue_size=16, delay=0.0, endless=False, grace=5.0, **options):
        decoder = PagedDecoder(model, n_slots, **options)
        if delay:
            decode = decoder.decode
            decoder.decode = lambda tokens: (time.sleep(delay), decode(tokens))[1]
        ends = [] if endless or delay else [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")]
        engine = Engine(decoder, tokenizer, ends, queue_size)
        context = serving(engine, NAME, grace=grace)
        entered.append(context)
        return context.__enter__()

    yield start
    for context in entered:
        context.__exit__(None, None, None)


def client(server, **options):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", **({"max_retries": 0} | options))


def post(server, body, path="/v1/completions"):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    return httpx.post(server.url + path, content=content, headers=headers, timeout=30)


def wait_for(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def never_ends(server, max_tokens=200, **options):
    """A request that runs to max_tokens, of an endless server."""
    body = {"model": NAME, "prompt": [5, 6, 7], "max_tokens": max_tokens, "temperature": 2.0, "seed": 3} | options
    return post(server, body)


# --- right answers ------------------------------------------------------------------------------------------------


def test_the_official_client_gets_the_models_own_greedy_answer(start, loaded):
    model, tokenizer = loaded
    server = start()
    prompt = encode_prompt(tokenizer, ASK)
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    expected = generate_cached(model, [prompt], 40, eos_id=stop)[0]
    reply = client(server).chat.completions.create(model=NAME, messages=ASK, max_tokens=40, temperature=0)
    assert reply.choices[0].message.content == tokenizer.decode(expected, skip_special_tokens=True)
    assert reply.choices[0].message.role == "assistant"
    assert reply.choices[0].finish_reason == ("stop" if expected[-1] == stop else "length")
    usage = reply.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (len(prompt), len(expected))
    assert usage.total_tokens == len(prompt) + len(expected)


def test_models_are_listed_and_health_tells_the_slots(start):
    server = start(n_slots=3)
    assert [model.id for model in client(server).models.list()] == [NAME]
    assert httpx.get(f"{server.url}/health").json() == {"running": 0, "waiting": 0, "slots": 3}


@pytest.mark.parametrize("chat", [False, True])
def test_streamed_pieces_join_to_the_whole_answer(start, chat):
    asking = client(start())
    settings = {"model": NAME, "max_tokens": 30, "temperature": 0.8, "seed": 11}
    if chat:
        make, settings = asking.chat.completions.create, settings | {"messages": ASK}
        whole = make(**settings).choices[0].message.content
        chunks = list(make(**settings, stream=True, stream_options={"include_usage": True}))
        pieces = [chunk.choices[0].delta.content for chunk in chunks[:-1]]
    else:
        make, settings = asking.completions.create, settings | {"prompt": "Nell lost her kite"}
        whole = make(**settings).choices[0].text
        chunks = list(make(**settings, stream=True, stream_options={"include_usage": True}))
        pieces = [chunk.choices[0].text for chunk in chunks[:-1]]
    assert "".join(pieces) == whole and len(pieces) > 10
    assert chunks[-2].choices[0].finish_reason in ("stop", "length")
    assert 10 < chunks[-1].usage.completion_tokens <= 30


def test_a_seed_gives_the_same_answer_alone_and_in_company(start):
    server = start(n_slots=4)
    settings = {"model": NAME, "prompt": "One day", "max_tokens": 25, "temperature": 1.0}
    alone = [client(server).completions.create(**settings, seed=seed).choices[0].text for seed in range(6)]
    assert len(set(alone)) > 1
    together = [None] * 6

    def ask(seed):
        together[seed] = client(server).completions.create(**settings, seed=seed).choices[0].text

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone
    assert max(server.engine.batch_sizes) > 1  # they were in one batch


def test_a_stop_string_ends_the_text_before_it(start):
    asking = client(start())
    settings = {"model": NAME, "messages": ASK, "max_tokens": 40, "temperature": 0}
    whole = asking.chat.completions.create(**settings).choices[0].message.content
    word = whole.split()[5]
    for stop in (word, ["no such text", word]):
        cut = asking.chat.completions.create(**settings, stop=stop).choices[0]
        assert cut.message.content == whole[: whole.index(word)] and cut.finish_reason == "stop"
    stream = asking.chat.completions.create(**settings, stop=[word], stream=True)
    assert "".join(chunk.choices[0].delta.content for chunk in stream) == whole[: whole.index(word)]


def test_max_tokens_and_top_p_are_obeyed(start):
    asking = client(start(endless=True))
    reply = asking.completions.create(model=NAME, prompt=[5, 6, 7], max_tokens=3, temperature=2, seed=1)
    assert reply.usage.completion_tokens == 3 and reply.choices[0].finish_reason == "length"
    narrow = asking.completions.create(model=NAME, prompt="One day", max_tokens=12, temperature=1, top_p=1e-6, seed=4)
    greedy = asking.completions.create(model=NAME, prompt="One day", max_tokens=12, temperature=0)
    assert narrow.choices[0].text == greedy.choices[0].text


def test_characters_of_several_tokens_come_whole(loaded):
    model, tokenizer = loaded
    table, text = TokenBytes(tokenizer), "kité 🪁, naïve"
    ids = tokenizer(text).input_ids
    assert b"".join(table[i] for i in ids).decode() == text
    assert table[tokenizer.eos_token_id] == b""

    class Script:  # a decoder that writes what it is told
        n_slots, context_length = 1, 256

        def fits(self, n_tokens):
            return True

        def prefill(self, slot, prompt, n_tokens):
            self.left = [*ids, tokenizer.eos_token_id]
            return self.decode({})

        def decode(self, tokens):
            logits = torch.full((len(tokenizer),), -20.0)
            logits[self.left.pop(0)] = 20.0
            return logits if not tokens else logits[None]

        def release(self, slot):
            pass

    engine = Engine(Script(), tokenizer, [tokenizer.eos_token_id])
    with serving(engine, NAME) as server:
        stream = client(server).completions.create(model=NAME, prompt="x", max_tokens=99, temperature=0, stream=True)
        pieces = [chunk.choices[0].text for chunk in stream]
    assert "".join(pieces) == text and not any("\ufffd" in piece for piece in pieces)


def test_paged_rows_give_the_logits_of_whole_rows(loaded):
    model, _ = loaded
    pages = PagedKVCache(model.config.n_layers, 20, 8, model.config.n_heads, model.config.d_head)
    ids = torch.randint(0, 2000, (2, 30), generator=torch.Generator().manual_seed(0))
    lengths = (19, 7)
    with torch.no_grad():
        expected = model(ids)
        for row, length in enumerate(lengths):
            pages.add(row)
            logits = cached_forward(model, ids[row : row + 1, :length], PagedRows(pages, [row]))
            torch.testing.assert_close(logits, expected[row : row + 1, :length], rtol=1e-4, atol=1e-4)
        for step in range(4):
            token_ids = torch.stack([ids[row, length + step] for row, length in enumerate(lengths)])[:, None]
            logits = cached_forward(model, token_ids, PagedRows(pages, [0, 1]))
            for row, length in enumerate(lengths):
                torch.testing.assert_close(logits[row, 0], expected[row, length + step], rtol=1e-4, atol=1e-4)


# --- bad input ----------------------------------------------------------------------------------------------------


def check_error(response, status, text):
    assert response.status_code == status
    error = response.json()["error"]
    assert text in error["message"] and {"message", "type", "param", "code"} == error.keys()


GOOD = {"model": NAME, "prompt": "One day", "max_tokens": 2}


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (b'{"model": "course-instruct", "prompt": ', 400, "not valid JSON"),
        (b"", 400, ""),
        (b"[1, 2]", 400, ""),
        ({"prompt": "x"}, 400, "model"),
        ({"model": NAME}, 400, "prompt"),
        (GOOD | {"prompt": ""}, 400, "prompt"),
        (GOOD | {"prompt": [1, 999_999]}, 400, "token ids must be from 0 to"),
        (GOOD | {"max_tokens": 0}, 400, "max_tokens"),
        (GOOD | {"max_tokens": "many"}, 400, "max_tokens"),
        (GOOD | {"temperature": -1}, 400, "temperature"),
        (GOOD | {"top_p": 0}, 400, "top_p"),
        (GOOD | {"stop": ["a", ""]}, 400, "stop"),
        (GOOD | {"n": 2}, 400, "does not support 'n'"),
        (GOOD | {"logprobs": 3}, 400, "does not support 'logprobs'"),
        (GOOD | {"model": "gpt-4"}, 404, "'gpt-4' does not exist here; this server has 'course-instruct'"),
        (GOOD | {"prompt": "long " * 300}, 400, "This model's context is 256 tokens"),
        (GOOD | {"max_tokens": 300}, 400, "This model's context is 256 tokens"),
    ],
)
def test_bad_input_gets_its_status_and_openais_error_object(start, body, status, text):
    check_error(post(start(), body), status, text)


def test_the_official_client_raises_its_own_errors(start):
    asking = client(start())
    with pytest.raises(openai.NotFoundError, match="does not exist here"):
        asking.completions.create(model="gpt-4", prompt="x")
    with pytest.raises(openai.BadRequestError, match="context is 256") as caught:
        asking.completions.create(model=NAME, prompt="long " * 300)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="wizard"):
        asking.chat.completions.create(model=NAME, messages=[{"role": "wizard", "content": "x"}])
    assert asking.completions.create(model=NAME, prompt="One day", max_tokens=2).usage.completion_tokens == 2


def test_an_unknown_path_or_method_is_told_in_the_same_form(start):
    server = start()
    check_error(post(server, {}, "/v1/embeddings"), 404, "/v1/embeddings")
    check_error(httpx.get(f"{server.url}/v1/completions"), 405, "GET /v1/completions")


# --- load ---------------------------------------------------------------------------------------------------------


def test_a_client_that_goes_away_frees_its_slot_and_harms_nobody(start):
    server = start(n_slots=2, delay=0.02)
    engine, others = server.engine, []
    other = threading.Thread(target=lambda: others.append(never_ends(server, 100)))
    other.start()
    body = {"model": NAME, "prompt": [5, 6, 7], "max_tokens": 240, "temperature": 2.0, "seed": 3, "stream": True}
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=30) as response:
        lines = response.iter_lines()  # kept: when it is collected, the connection is closed
        next(lines)
        wait_for(lambda: len(engine.running) == 2)
    wait_for(lambda: len(engine.running) <= 1, 3)  # long before its 240 tokens
    other.join()
    assert others[0].json()["usage"]["completion_tokens"] == 100
    wait_for(lambda: not engine.decoder.promised)
    assert len(engine.decoder.pages.free_blocks) == engine.decoder.n_blocks  # nothing leaks


def test_a_client_that_does_not_wait_for_its_whole_answer_frees_its_slot_too(start):
    server = start(n_slots=1, delay=0.02)
    with pytest.raises(httpx.ReadTimeout):
        body = {"model": NAME, "prompt": [5, 6, 7], "max_tokens": 240, "temperature": 2.0, "seed": 3}
        httpx.post(f"{server.url}/v1/completions", json=body, timeout=0.3)
    wait_for(lambda: not server.engine.running, 3)


def test_more_requests_than_slots_wait_and_more_than_the_queue_get_429(start):
    server = start(n_slots=1, queue_size=2, delay=0.02)
    engine, answers = server.engine, []
    threads = []
    for _ in range(3):
        threads.append(threading.Thread(target=lambda: answers.append(never_ends(server, 40))))
        threads[-1].start()
        n = len(threads)
        wait_for(lambda n=n: len(engine.running) + engine.n_waiting == n)
    refused = never_ends(server, 40)
    check_error(refused, 429, "2 requests are waiting already")
    assert refused.headers["Retry-After"] == "1"
    patient = client(server, max_retries=8).completions.create(model=NAME, prompt="One day", max_tokens=2)
    assert patient.usage.completion_tokens == 2  # the official client came back by itself
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200] * 3


def test_a_crowd_of_clients_gets_every_answer_whole(start):
    server = start(n_slots=3, endless=True)
    answers, seconds = crowd(server.url, NAME, 4, ["One day"] * 7, list(range(5, 12)))
    assert sorted(answer.n_new for answer in answers) == list(range(5, 12))
    assert all(0 < answer.first_token <= answer.seconds <= seconds for answer in answers)
    with pytest.raises(openai.NotFoundError):
        crowd(server.url, "gpt-4", 2, ["One day"] * 3, [2] * 3)


def test_few_blocks_make_requests_wait_in_line(start):
    server = start(n_slots=4, n_blocks=6, block_size=16, endless=True)
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(never_ends(server, 60))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.json()["usage"]["completion_tokens"] for answer in answers] == [60] * 4
    assert max(server.engine.batch_sizes) == 1  # 63 tokens are 4 blocks, and there are 6
    check_error(never_ends(server, 94), 400, "This model's context is 96 tokens")


def test_a_fault_in_a_step_is_told_to_its_clients_and_the_server_lives_on(start):
    server = start(endless=True)
    decode = server.engine.decoder.decode
    server.engine.decoder.decode = lambda tokens: 1 / 0
    check_error(never_ends(server, 5), 503, "ZeroDivisionError")
    server.engine.decoder.decode = decode
    assert never_ends(server, 5).json()["usage"]["completion_tokens"] == 5


# --- stopping -----------------------------------------------------------------------------------------------------


def test_stopping_lets_running_requests_finish_and_refuses_those_that_wait(start):
    server = start(n_slots=1, delay=0.01, grace=20)
    answers = {}

    def ask(name):
        answers[name] = never_ends(server, 60)

    threads = [threading.Thread(target=ask, args=(name,)) for name in ("runs", "waits")]
    threads[0].start()
    wait_for(lambda: server.engine.running)
    threads[1].start()
    wait_for(lambda: server.engine.n_waiting == 1)
    server.stop()
    for thread in threads:
        thread.join()
    assert answers["runs"].json()["usage"]["completion_tokens"] == 60
    check_error(answers["waits"], 503, "shutting down")
    assert not server.thread.is_alive() and not server.engine.thread.is_alive()
    with pytest.raises(httpx.ConnectError):
        never_ends(server, 1)
    listen(server.port).close()  # the port is free


def test_stopping_tells_a_request_that_does_not_finish_in_time(start):
    server = start(n_slots=1, delay=0.05, grace=0.3)
    lines = []

    def read():
        body = {"model": NAME, "prompt": [5, 6, 7], "max_tokens": 240, "temperature": 2.0, "seed": 3, "stream": True}
        with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=30) as response:
            lines.extend(line for line in response.iter_lines() if line)

    thread = threading.Thread(target=read)
    thread.start()
    wait_for(lambda: server.engine.running)
    begun = time.monotonic()
    server.stop()
    thread.join()
    assert time.monotonic() - begun < 8
    assert "stopped before this answer was whole" in lines[-1] and "[DONE]" not in lines[-1]


def test_a_taken_port_is_told():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OSError, match="is taken"):
            listen(taken.getsockname()[1])


def test_the_program_serves_and_ends_on_ctrl_c():
    command = [sys.executable, "-m", "week5_inference.server", "--port", "0", "--bits", "0", "--slots", "2"]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    try:
        url = next(match[0] for line in process.stdout if (match := re.search(r"http://\S+", line)))
        asking = openai.OpenAI(base_url=url, api_key="none")
        assert asking.chat.completions.create(model=NAME, messages=ASK, max_tokens=3).usage.completion_tokens <= 3
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        process.kill()


def test_a_server_sent_event_is_one_line_of_data_and_an_empty_line():
    assert sse_event({"text": "a\nb"}) == 'data: {"text": "a\\nb"}\n\n'
    assert sse_event("[DONE]") == "data: [DONE]\n\n"
