"""A real HTTP server on a free port, with a dispatcher that follows a script."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.typedefs import Middleware

from router.backend import Backend
from router.config import Limits
from router.dispatch.live_requests import PreparedRequest
from router.errors import Overloaded, RouterError
from router.http.access import AccessPolicy
from router.http.gateway import Timeouts
from router.http.server import build_application, run_server
from router.observability.metrics import Metrics
from router.observability.server_state import (
    CountsState,
    DelayQuantiles,
    DraftingState,
    KvCacheState,
    PreemptionCounts,
    ServerState,
    ShardsState,
)
from router.openai.model_names import ModelNames
from router.openai.sampling_defaults import SamplingDefaults
from router.requests.adapters import AdapterRegistry
from router.requests.request import Request, resolve_limits
from router.requests.tokens import NO_TOP_TOKENS
from router.route_groups import build_route_groups
from router.scheduler.api import DeviceCapacity, RequestStatus, SchedulerStatus
from router.served_model import ServedModel
from router.server_info import ServerInfo
from router.text.chat_template import ChatTemplate
from router.text.tokenizer import Tokenizer
from router.text.worker_pool import TextWorkers, WorkerFiles
from shard.wire.protocol import TopTokens
from tests.support.families import byte_level
from tests.support.shared_workers import DEMO, VOCAB_SIZE, shared_workers

MODEL = ServedModel(Tokenizer(byte_level()), ChatTemplate.load(str(DEMO)))
BOUNDS = resolve_limits(Limits(max_concurrent_requests=3, payload_limit=2000), 2000)
TIMEOUTS = Timeouts(linger=0.05)
CAPACITY = DeviceCapacity(
    pages=10,
    page_size=16,
    max_rows=4,
    prefill_tokens=64,
    speculate=0,
    draft_token_seconds=0.0,
    verify_seconds=0.1,
)
SERVER_INFO = ServerInfo(
    model_id="bigscience/bloom-560m",
    model_sha="abc",
    pipeline_tag=None,
    compute_type="1-cpu",
    validation_workers=2,
    speculate=0,
    draft_model_id=None,
    scheduler="fcfs",
)
DRAFTING_SERVER_INFO = ServerInfo(
    model_id="big",
    model_sha=None,
    pipeline_tag="text2text-generation",
    compute_type="2-cpu",
    validation_workers=2,
    speculate=5,
    draft_model_id="small",
    scheduler="laps-sd",
)


@dataclass(frozen=True)
class Token:
    id: int
    text: str
    logprob: float
    special: bool = False
    top: TopTokens = NO_TOP_TOKENS
    drafted: bool = False
    rejected: int = 0


@dataclass(frozen=True)
class PromptToken:
    id: int
    text: str
    logprob: float | None
    top: TopTokens = NO_TOP_TOKENS
    special: bool = False


PREEMPTIONS = {"keep": 1, "swap": 2, "recompute": 0}
VIEW = SchedulerStatus(
    waiting=(2, 1),
    running=3,
    perceptible=4,
    free_pages=8,
    preemptions=PREEMPTIONS,
    acceptance_rate=0.75,
    estimate_error=0.0625,
)

STATE = ServerState(
    time=1.0,
    shards=ShardsState(health="ready", seconds_since_answer=[0.0], steps_in_flight=0),
    running=0,
    queue_depth=[0, 0],
    requests=[],
    unlisted_requests=0,
    kv_cache=KvCacheState(total=10, used=0, shared=0, cached=0, free=10, swap_total=0, swap_used=0),
    tokens_per_second=0.0,
    time_to_first_token=DelayQuantiles(p50=None, p90=None, p99=None),
    inter_token=DelayQuantiles(p50=None, p90=None, p99=None),
    drafting=DraftingState(
        drafter=None, max_draft_length=0, draft_length=0.0, acceptance_rate=0.0, survival=[]
    ),
    counts=CountsState(preemptions=PreemptionCounts(**PREEMPTIONS), restarts=0, failures={}),
)

HELLO = (
    Token(15, " Hello", -0.25),
    Token(16, " «世»", -0.3427734375),
    Token(2, "</s>", -1.5, True),
)


@dataclass
class ScriptedRecord:
    """A record that plays `script`: tokens, events to wait for, and errors to raise."""

    request: Request
    script: Sequence[Token | asyncio.Event | Exception]
    ending: str | None
    prompt: tuple[int, ...] = (1, 2, 3)
    max_new: int = 20
    drafted: int = 4
    accepted: int = 2
    accepted_by_round: tuple[int, ...] = (2, 0)
    longest_draft: int = 2
    finish_reason: str | None = None
    error: RouterError | None = None
    stop_string: str | None = None
    tokens: list[Token] = field(default_factory=list)
    arrived: float = 10.0
    queued: float = 10.25
    started: float = 10.5
    first_token: float = 10.75
    ended: float = 12.0
    device_seconds: float = 0.625
    cached_tokens: int = 2
    steps: int = 3
    preemptions: Mapping[str, int] = field(default_factory=lambda: dict(PREEMPTIONS))

    @property
    def is_live(self) -> bool:
        return self.finish_reason is None

    @property
    def text(self) -> str:
        return "".join(token.text for token in self.tokens if not token.special)

    @property
    def mean_logprob(self) -> float:
        return sum(token.logprob for token in self.tokens) / max(1, len(self.tokens))

    def top_tokens(self, token: Token) -> list[Token]:
        """Those of `token`; the text of one that is not in HELLO is `x`."""
        texts = {known.id: known.text for known in HELLO}
        top = zip(token.top.ids, token.top.logprobs, strict=True)
        return [Token(id, texts.get(id, "x"), value) for id, value in top]

    def token_text(self, id: int) -> str:
        return next(token.text for token in HELLO if token.id == id)

    def token_bytes(self, id: int) -> bytes:
        played = (part for part in self.script if isinstance(part, Token))
        known: tuple[Token | PromptToken, ...] = (*self.prompt_tokens, *played, *HELLO)
        return next(token.text for token in known if token.id == id).encode()

    @property
    def prompt_tokens(self) -> list[PromptToken]:
        wanted = self.request.decoder_input_details
        return [PromptToken(1, "a", None), PromptToken(2, "b", -0.5)] if wanted else []

    async def wait(self) -> None:
        async for _ in self.numbers():
            pass

    async def numbers(self) -> AsyncIterator[int]:
        for position, part in enumerate(self.script, 1):
            if isinstance(part, Exception):
                raise part
            if isinstance(part, asyncio.Event):
                await part.wait()
                continue
            hides = (
                self.request.hide_stops_and_specials
                and part.special
                and part.text not in self.request.visible_specials
            )
            self.tokens.append(replace(part, text="") if hides else part)
            if position == len(self.script):
                self.finish_reason = self.ending
            yield len(self.tokens)


class ScriptedDispatcher:
    """Plays one script for every request; `opened` holds the requests."""

    def __init__(
        self,
        *script: Token | asyncio.Event | Exception,
        ending: str | None = "eos_token",
        reason: str | None = None,
        full: bool = False,
        refusal: RouterError | None = None,
        heads: Sequence[Sequence[Token]] = ((),),
        adapters: Sequence[str] = (),
        adapter_error: RouterError | None = None,
    ) -> None:
        self.heads = heads
        """Tokens that each record of one request plays before the script."""
        self.script = script or HELLO
        self.ending, self.reason, self.full, self.refusal = ending, reason, full, refusal
        self.opened: list[tuple[Request, str]] = []
        self.callers: list[str] = []
        """Who started, asked for or cancelled a request, in this order."""
        self.known: dict[str, list[tuple[ScriptedRecord, RequestStatus | None]]] = {}
        """The live records by request id."""
        self.entered, self.left = asyncio.Event(), asyncio.Event()
        self.change_count = self.live_count = 0
        self.adapters = AdapterRegistry(adapters, ["/folder"] * len(adapters))
        self.adapter_calls: list[tuple[str, ...]] = []
        self.adapter_error = adapter_error

    @property
    def view(self) -> ScriptedDispatcher:
        """Its own view."""
        return self

    def unhealthy_reason(self) -> str | None:
        return self.reason

    def server_state(self) -> ServerState:
        return STATE

    def scheduler_status(self) -> SchedulerStatus:
        return VIEW

    def request_statuses(
        self, request_id: str, caller: str = ""
    ) -> list[tuple[ScriptedRecord, RequestStatus | None]]:
        self.callers.append(caller)
        return self.known.get(request_id, [])

    def cancel(self, request_id: str, caller: str = "") -> int:
        self.callers.append(caller)
        return len(self.known.pop(request_id, []))

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    @property
    def permits_held(self) -> int:
        return len(self.opened)

    @property
    def paused_count(self) -> int:
        return 0

    def seconds_to_restart(self) -> float:
        return 6.2

    @contextmanager
    def hold_permits(self, count: int) -> Iterator[None]:
        if self.full:
            raise Overloaded
        yield

    async def wait_in_queue(self, record: ScriptedRecord) -> None:
        """Wait until `record` runs; here it does so at once."""

    async def prepare_grammar(self, compiled: str) -> None:
        """Prepare `grammar` on every rank; here it is ready at once."""

    async def load_adapter(self, name: str, path: str) -> None:
        self.adapter_calls.append((name, path))
        if self.adapter_error:
            raise self.adapter_error

    def unload_adapter(self, name: str) -> None:
        self.adapter_calls.append((name,))
        if self.adapter_error:
            raise self.adapter_error

    @contextmanager
    def start(self, prepared: PreparedRequest) -> Iterator[ScriptedRecord]:
        if self.refusal:
            raise self.refusal
        head = self.heads[len(self.opened) % len(self.heads)]
        self.opened.append((prepared.request, prepared.request_id))
        self.callers.append(prepared.caller)
        self.entered.set()
        try:
            yield ScriptedRecord(prepared.request, [*head, *self.script], self.ending)
        finally:
            self.left.set()


@dataclass(frozen=True)
class HttpResponse:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


_INTERNALS = re.compile(
    rb"Traceback|File \"|\.sock|\.py\b|0x[0-9a-f]{6}|/(?:tmp|usr|root|home|proc)/|site-packages"
    rb"|https?://(?:errors\.pydantic|docs\.)"
)


def check_discloses_nothing(status: int, response: bytes) -> None:
    """Assert that an error contains no path, address or traceback, and no link of a library."""
    assert status < 400 or not _INTERNALS.search(response), response


@dataclass
class RunningServer:
    """A running server and a client session on it."""

    base_url: str
    port: int
    dispatcher: ScriptedDispatcher
    session: aiohttp.ClientSession
    paths: Sequence[tuple[str, str]]
    """Return method and path of every route."""

    async def post(self, path: str, body: Any = None, **more: Any) -> HttpResponse:
        """POST `body` as JSON, or `data` as it is."""
        if body is not None:
            more["json"] = body
        return await self.request("POST", path, **more)

    async def request(self, method: str, path: str, **more: Any) -> HttpResponse:
        async with self.session.request(method, self.base_url + path, **more) as response:
            body = await response.read()
            check_discloses_nothing(response.status, body)
            return HttpResponse(response.status, response.headers, body)

    async def send_raw(self, head: str, body: bytes = b"") -> bytes:
        """Send raw bytes; return all that the server sends until it closes the connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        status_line, _, rest = answer.partition(b"\r\n")
        if status_line.startswith(b"HTTP/"):
            check_discloses_nothing(int(status_line.split()[1]), rest)
        return answer


@asynccontextmanager
async def serving(
    dispatcher: ScriptedDispatcher | None = None,
    server_info: ServerInfo = SERVER_INFO,
    timeouts: Timeouts = TIMEOUTS,
    access: AccessPolicy = AccessPolicy(),  # noqa: B008
    middlewares: Sequence[Middleware] = (),
    *,
    with_pages: bool = True,
    template: str | None = None,
    defaults: SamplingDefaults = SamplingDefaults(),  # noqa: B008
) -> AsyncIterator[RunningServer]:
    """Serve over HTTP; `template` replaces the demo's chat template, "" removes it."""
    dispatcher = dispatcher or ScriptedDispatcher()
    with TemporaryDirectory() as temporary:
        folder = DEMO if template is None else _model_folder(Path(temporary), template)
        async with (
            _text_workers(folder) as workers,
            _serving(
                *(dispatcher, server_info, timeouts, access, middlewares, with_pages),
                *(folder, workers, defaults),
            ) as served,
        ):
            yield served


@asynccontextmanager
async def _text_workers(folder: Path) -> AsyncIterator[TextWorkers]:
    """The workers that all servers of the demo share, or some for the model in `folder`."""
    if folder == DEMO:
        yield shared_workers()
        return
    workers = TextWorkers(WorkerFiles(str(folder), VOCAB_SIZE), 1)
    try:
        yield workers
    finally:
        await workers.close()


def _model_folder(folder: Path, template: str) -> Path:
    """Write a model folder with the chat template `template`."""
    (folder / "tokenizer.json").symlink_to(DEMO / "tokenizer.json")
    if template:
        (folder / "chat_template.jinja").write_text(template)
    return folder


@asynccontextmanager
async def _serving(
    dispatcher: ScriptedDispatcher,
    server_info: ServerInfo,
    timeouts: Timeouts,
    access: AccessPolicy,
    middlewares: Sequence[Middleware],
    with_pages: bool,
    folder: Path,
    workers: TextWorkers,
    defaults: SamplingDefaults,
) -> AsyncIterator[RunningServer]:
    model = replace(MODEL, template=ChatTemplate.load(str(folder)), defaults=defaults)
    metrics = Metrics(BOUNDS, CAPACITY)
    names = ModelNames(server_info.model_id, dispatcher.adapters, bool(dispatcher.adapters.names))
    backend = Backend(dispatcher, metrics, BOUNDS, server_info, CAPACITY, VOCAB_SIZE, names)  # type: ignore[arg-type]
    groups = build_route_groups(backend, model, workers, timeouts, with_pages=with_pages)
    app = build_application(groups, access, BOUNDS.payload_limit, middlewares)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    ready, stop = asyncio.Event(), asyncio.Event()
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(_run(app, listener, access.max_connections, timeouts, ready, stop))
        await ready.wait()
        async with aiohttp.ClientSession() as session:
            routes = [route for group in groups for route in group.routes]
            paths = [(route.method, re.sub(r":[^}]+", "", route.path)) for route in routes]
            yield RunningServer(f"http://127.0.0.1:{port}", port, dispatcher, session, paths)
        stop.set()


async def _run(
    app: web.Application,
    listener: socket.socket,
    max_connections: int,
    timeouts: Timeouts,
    ready: asyncio.Event,
    stop: asyncio.Event,
) -> None:
    async def drained() -> None:
        await stop.wait()

    await run_server(
        app, listener, max_connections, timeouts, on_ready=ready.set, wait_drained=drained
    )
