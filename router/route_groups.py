"""Everything that is served: all routes, in groups whose errors have one form.

Rule: connects the routes of each API with what they serve from. What a route does is decided in its
own file, and who may call it in `router.http.access`.
"""

from __future__ import annotations

import os

from router.anthropic.error_form import anthropic_error
from router.anthropic.openapi import ANTHROPIC_OPERATIONS
from router.anthropic.routes import PREFIX as MESSAGES_PREFIX
from router.anthropic.routes import REQUEST_ID_HEADER as MESSAGES_REQUEST_ID_HEADER
from router.anthropic.routes import MessagesRoutes
from router.backend import Backend
from router.cloud import CLOUD_OPERATIONS, CloudRoutes
from router.debug.debug_routes import DEBUG_OPERATIONS, DebugRoutes
from router.dispatch.intake import Intake
from router.errors import openai_error
from router.http.gateway import Gateway, Timeouts
from router.http.openapi_document import openapi_document
from router.http.route_group import RouteGroup
from router.http.swagger import DocsRoutes
from router.native.openapi import NATIVE_OPERATIONS
from router.native.routes import NativeRoutes
from router.native.status_routes import StatusRoutes
from router.openai.adapter_routes import ADAPTER_OPERATIONS, AdapterRoutes
from router.openai.chat_prompt import ChatPromptBuilder
from router.openai.generation import GenerationBuilder
from router.openai.openapi import OPENAI_OPERATIONS
from router.openai.responder import Responder
from router.openai.routes import PREFIX, OpenAIRoutes
from router.pages.page_routes import PageRoutes
from router.served_model import ServedModel
from router.text.encoder import Encoder
from router.text.grammar import GrammarCompiler
from router.text.worker_pool import TextWorkers

OPERATIONS = (
    *NATIVE_OPERATIONS,
    *OPENAI_OPERATIONS,
    *ADAPTER_OPERATIONS,
    *ANTHROPIC_OPERATIONS,
    *CLOUD_OPERATIONS,
    *DEBUG_OPERATIONS,
)
"""Of the OpenAPI document."""


def build_route_groups(
    backend: Backend,
    model: ServedModel,
    workers: TextWorkers,
    timeouts: Timeouts,
    *,
    with_pages: bool = True,
) -> list[RouteGroup]:
    """Everything that is served, in groups whose errors have one form."""
    bounds, server_info = backend.bounds, backend.server_info
    encoder = Encoder(model.tokenizer, workers.long_texts)
    grammars = GrammarCompiler(workers.jobs, enabled=not bounds.disable_grammar_support)
    intake = Intake(
        backend.dispatcher,
        encoder,
        grammars,
        bounds,
        backend.capacity.page_size,
        backend.vocabulary_size,
    )
    gateway = Gateway(backend.dispatcher, intake, backend.metrics, bounds, timeouts)
    prompts = ChatPromptBuilder(model.template, workers.jobs, model.tool_call_parser)
    native = NativeRoutes(gateway, server_info, encoder)
    generations = GenerationBuilder(
        bounds,
        server_info,
        model.tokenizer,
        backend.vocabulary_size,
        prompts,
        model.defaults,
        backend.names,
    )
    responder = Responder(gateway, server_info)
    openai = OpenAIRoutes(gateway, server_info, encoder, prompts, generations, responder)
    adapters = AdapterRoutes(gateway, backend.dispatcher, server_info)
    messages = MessagesRoutes(gateway, encoder, prompts, generations, responder)
    routes = [
        *native.routes(),
        *StatusRoutes(backend.dispatcher, backend.metrics, bounds, server_info).routes(),
        *openai.tgi_routes(),
        *CloudRoutes(gateway, native, openai).routes(os.environ.get("AIP_PREDICT_ROUTE")),
        *DebugRoutes(gateway, backend.dispatcher).routes(),
        *DocsRoutes(openapi_document(OPERATIONS)).routes(docs_ui=with_pages),
        *(PageRoutes().routes() if with_pages else ()),
    ]
    return [
        RouteGroup(routes),
        RouteGroup([*openai.routes(), *adapters.routes()], PREFIX, openai_error),
        RouteGroup(
            messages.routes(), MESSAGES_PREFIX, anthropic_error, (MESSAGES_REQUEST_ID_HEADER,)
        ),
    ]
