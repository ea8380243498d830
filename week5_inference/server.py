"""An OpenAI-compatible server of the course model: week 1's GPT, this week's cache and bits, and the engine.

python -m week5_inference.server                        on http://127.0.0.1:8000
python -m week5_inference.server --port 0 --bits 0      any free port, float32 weights

GET /v1/models, POST /v1/completions, POST /v1/chat/completions, both streamed on request. Your own saved answers
(GPT, KVCache, PagedKVCache, int8_quantize, stop_at …) are used where you have passed them. Ctrl-C: running requests
have `--grace` seconds to finish.
"""

import argparse
import asyncio
import json
import socket
import threading
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import contextmanager, suppress

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from week4_finetuning.chat import START, encode_prompt
from week5_inference.engine import Closed, Done, Engine, Failed, QueueFull, Sampling, Text


class ApiError(Exception):
    """An error as the client sees it: an HTTP status and OpenAI's error object."""

    def __init__(self, status: int, message: str, kind: str = "invalid_request_error", code: str | None = None, **more):
        super().__init__(message)
        self.status, self.headers = status, more.pop("headers", {})
        self.error = {"message": message, "type": kind, "param": more.get("param"), "code": code}

    def response(self) -> JSONResponse:
        return JSONResponse({"error": self.error}, self.status, self.headers)


class Asked(BaseModel):
    """What both endpoints understand; other fields are let pass, those that would change the answer are refused."""

    model_config = ConfigDict(extra="allow")
    model: str
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: dict | None = None
    n: int = 1


class CompletionAsked(Asked):
    prompt: str | list[int] = Field(min_length=1)


class Message(BaseModel):
    role: str
    content: str


class ChatAsked(Asked):
    messages: list[Message] = Field(min_length=1)


UNSUPPORTED = ("logprobs", "top_logprobs", "logit_bias", "best_of", "echo", "suffix", "tools", "response_format")


def sse_event(data: dict | str) -> str:
    """One server-sent event: `data: ` and the JSON (or text), and an empty line."""
    return f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n"


def make_app(engine: Engine, name: str, clients: set | None = None) -> FastAPI:
    """The HTTP side of an engine that serves the model called `name`."""
    app = FastAPI(title="LLMs in six weeks", openapi_url=None)
    app.state.engine = engine

    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> JSONResponse:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        if first["type"] == "json_invalid":
            reason = first.get("ctx", {}).get("error", "")
            return ApiError(400, f"The body is not valid JSON: {reason} at character {where}").response()
        return ApiError(400, f"{where or 'the body'}: {first['msg']}", param=where or None).response()

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> JSONResponse:
        return ApiError(error.status_code, f"{request.method} {request.url.path}: {error.detail}").response()

    @app.get("/health")
    async def health() -> dict:
        return {"running": len(engine.running), "waiting": engine.n_waiting, "slots": engine.decoder.n_slots}

    @app.get("/v1/models")
    async def models() -> dict:
        about = {"id": name, "object": "model", "created": 0, "owned_by": "you"}
        return {"object": "list", "data": [about | {"max_model_len": engine.decoder.context_length}]}

    @app.post("/v1/completions")
    async def completions(asked: CompletionAsked, request: Request):
        prompt = asked.prompt
        if isinstance(prompt, str):
            prompt = engine.tokenizer(START + prompt, add_special_tokens=False, verbose=False).input_ids
        elif not all(0 <= token_id < len(engine.tokenizer) for token_id in prompt):
            raise ApiError(400, f"token ids must be from 0 to {len(engine.tokenizer) - 1}", param="prompt")

        def choice(text: str, reason: str | None, first: bool) -> dict:
            return {"index": 0, "text": text, "finish_reason": reason, "logprobs": None}

        return await answer(asked, request, prompt, "cmpl", ("text_completion", "text_completion"), choice, 16)

    @app.post("/v1/chat/completions")
    async def chat(asked: ChatAsked, request: Request):
        try:
            prompt = encode_prompt(engine.tokenizer, [message.model_dump() for message in asked.messages])
        except ValueError as error:  # an unknown role
            raise ApiError(400, str(error), param="messages") from error
        default = max(1, engine.decoder.context_length - len(prompt))

        def choice(text: str, reason: str | None, first: bool) -> dict:
            message = {"content": text} | ({"role": "assistant"} if first else {})
            part = "delta" if asked.stream else "message"
            return {"index": 0, part: message, "finish_reason": reason, "logprobs": None}

        kinds = ("chat.completion", "chat.completion.chunk")
        return await answer(asked, request, prompt, "chatcmpl", kinds, choice, default)

    async def answer(asked: Asked, request: Request, prompt: Sequence[int], prefix: str, kinds, choice, default: int):
        if asked.model != name:
            message = f"The model {asked.model!r} does not exist here; this server has {name!r}."
            raise ApiError(404, message, code="model_not_found", param="model")
        wanted = [field for field in UNSUPPORTED if (asked.model_extra or {}).get(field)] + ["n"] * (asked.n != 1)
        if wanted:
            raise ApiError(400, f"This server does not support {wanted[0]!r}.", param=wanted[0])
        stop = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
        if "" in stop or len(stop) > 4:
            raise ApiError(400, "stop must be up to 4 strings that are not empty", param="stop")
        max_tokens = asked.max_tokens or asked.max_completion_tokens or default
        sampling = Sampling(max_tokens, asked.temperature, asked.top_p, asked.seed, tuple(stop))

        events: asyncio.Queue = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def on_event(event) -> None:  # called in the engine's thread
            if not loop.is_closed():
                loop.call_soon_threadsafe(events.put_nowait, event)

        try:
            ticket = engine.submit(prompt, sampling, on_event)
        except ValueError as error:
            raise ApiError(400, str(error), code="context_length_exceeded", param="prompt") from error
        except QueueFull as error:
            retry = {"Retry-After": "1"}
            raise ApiError(429, f"The server is full: {error}.", "rate_limit_error", headers=retry) from error
        except Closed as error:
            raise ApiError(503, str(error), "server_error", headers={"Retry-After": "5"}) from error

        about = {"id": f"{prefix}-{uuid.uuid4().hex[:24]}", "created": int(time.time()), "model": name}

        def usage(done: Done) -> dict:
            total = done.n_prompt + done.n_new
            return {"prompt_tokens": done.n_prompt, "completion_tokens": done.n_new, "total_tokens": total}

        async def stream() -> AsyncIterator[str]:
            head, first = about | {"object": kinds[1]}, True
            try:
                while True:
                    event = await events.get()
                    if isinstance(event, Text):
                        yield sse_event(head | {"choices": [choice(event.text, None, first)]})
                        first = False
                    elif isinstance(event, Done):
                        yield sse_event(head | {"choices": [choice("", event.reason, first)]})
                        if (asked.stream_options or {}).get("include_usage"):
                            yield sse_event(head | {"choices": [], "usage": usage(event)})
                        yield sse_event("[DONE]")
                        return
                    else:
                        yield sse_event({"error": ApiError(503, event.message, "server_error").error})
                        return
            finally:
                ticket.cancel()  # does nothing to a request that is done

        if asked.stream:
            return StreamingResponse(stream(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        text, looked = "", time.monotonic()
        try:
            while True:
                event = None
                with suppress(TimeoutError):
                    event = await asyncio.wait_for(events.get(), timeout=0.25)
                if time.monotonic() - looked > 0.25:
                    if await request.is_disconnected():
                        return JSONResponse({}, 499)  # nobody reads it
                    looked = time.monotonic()
                if event is None:
                    continue
                if isinstance(event, Text):
                    text += event.text
                elif isinstance(event, Failed):
                    raise ApiError(503, event.message, "server_error", headers={"Retry-After": "5"})
                else:
                    choices = [choice(text, event.reason, True)]
                    return about | {"object": kinds[0], "choices": choices, "usage": usage(event)}
        finally:
            ticket.cancel()

    return app


class Server(uvicorn.Server):
    """uvicorn, which tells the engine to finish as soon as it is asked to stop itself."""

    def __init__(self, app: FastAPI, grace: float):
        super().__init__(
            uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=int(grace) + 5)
        )
        self.engine, self.grace = app.state.engine, grace

    async def shutdown(self, sockets=None) -> None:
        self.engine.close(self.grace, wait=False)
        await super().shutdown(sockets)


def listen(port: int, host: str = "127.0.0.1") -> socket.socket:
    """A socket that has the port already; port 0 is any free one. OSError if the port is taken."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise OSError(f"port {port} is taken: stop what has it, or choose another (--port 0: any)") from error
    return sock


class Running:
    """A server in a thread of this process: its url, its engine, and `stop`."""

    def __init__(self, engine: Engine, name: str, port: int = 0, grace: float = 5.0):
        self.engine, sock = engine, listen(port)
        self.port = sock.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.server = Server(make_app(engine, name), grace)
        self.thread = threading.Thread(target=self.server.run, args=([sock],), name="server", daemon=True)
        self.thread.start()
        while not self.server.started and self.thread.is_alive():
            time.sleep(0.01)

    def stop(self) -> None:
        """Stop as on Ctrl-C: waits until the running requests are done, or `grace` seconds have passed."""
        self.server.should_exit = True
        self.thread.join(self.server.grace + 10)
        self.engine.close(0)


@contextmanager
def serving(engine: Engine, name: str, **options):
    """`with serving(engine, "model") as server: … server.url …`; the server is stopped whatever happens."""
    server = Running(engine, name, **options)
    try:
        yield server
    finally:
        server.stop()


def main(arguments: Sequence[str] | None = None) -> None:
    from week5_inference.decoders import course_engine

    parser = argparse.ArgumentParser(prog="python -m week5_inference.server", description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines ask")
    parser.add_argument("--port", type=int, default=8000, help="0: any free one")
    parser.add_argument("--stage", default="instruct", help="stage of the course model: base or instruct")
    parser.add_argument("--bits", type=int, default=8, help="of the weights; 0: float32")
    parser.add_argument("--slots", type=int, default=4, help="requests that are decoded together")
    parser.add_argument("--queue", type=int, default=16, help="requests that may wait")
    parser.add_argument("--grace", type=float, default=30.0, help="seconds that running requests have after Ctrl-C")
    options = parser.parse_args(arguments)
    try:
        sock = listen(options.port, options.host)
    except OSError as error:
        parser.exit(1, f"{error}\n")
    name = f"course-{options.stage}"
    engine = course_engine(options.stage, bits=options.bits, n_slots=options.slots, queue_size=options.queue)
    print(f"{name} on http://{options.host}:{sock.getsockname()[1]}/v1", flush=True)
    with suppress(KeyboardInterrupt):  # uvicorn raises it again when all has ended well
        Server(make_app(engine, name), options.grace).run(sockets=[sock])
    engine.close(0)


if __name__ == "__main__":
    main()
