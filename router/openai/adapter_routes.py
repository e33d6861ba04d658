"""vLLM's routes that load and unload LoRA adapters while the server runs."""

from __future__ import annotations

from aiohttp import web
from pydantic import Field

from router.dispatch.dispatcher import Dispatcher
from router.errors import AdapterRefused
from router.http.gateway import Gateway
from router.http.json_body import Body
from router.http.openapi_document import Operation
from router.openai import response_models
from router.openai.model_names import DEFAULT_NAMES
from router.server_info import ServerInfo

LOAD_PATH, UNLOAD_PATH = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


class LoadAdapterRequest(Body):
    """Body of `/v1/load_lora_adapter`."""

    lora_name: str = Field(min_length=1)
    """Name by which requests choose the adapter."""
    lora_path: str = Field(min_length=1)
    """Folder of the adapter, below that of `--lora-folder`; absolute, or relative to it."""
    load_inplace: bool = False
    """Must be false: an adapter of that name has to be unloaded first."""


class UnloadAdapterRequest(Body):
    """Body of `/v1/unload_lora_adapter`."""

    lora_name: str
    """Name of the adapter. Requests that use it go on."""
    lora_int_id: int | None = None
    """Has no effect."""


class AdapterRoutes:
    """The routes over one dispatcher."""

    def __init__(self, gateway: Gateway, dispatcher: Dispatcher, server_info: ServerInfo) -> None:
        self._gateway, self._dispatcher, self._server_info = gateway, dispatcher, server_info

    def routes(self) -> list[web.RouteDef]:
        """The routes."""
        return [web.post(LOAD_PATH, self.load), web.post(UNLOAD_PATH, self.unload)]

    async def load(self, http: web.Request) -> web.StreamResponse:
        """POST `/v1/load_lora_adapter`."""
        body = await self._gateway.read_body(http, LoadAdapterRequest)
        if body.load_inplace:
            raise AdapterRefused("`load_inplace` is not supported; unload the adapter first")
        if body.lora_name in (*DEFAULT_NAMES, self._server_info.model_id):
            raise AdapterRefused(f"`{body.lora_name}` is the name of the served model")
        await self._dispatcher.load_adapter(body.lora_name, body.lora_path)
        return web.Response(text=f"Success: LoRA adapter '{body.lora_name}' added successfully.")

    async def unload(self, http: web.Request) -> web.StreamResponse:
        """POST `/v1/unload_lora_adapter`."""
        body = await self._gateway.read_body(http, UnloadAdapterRequest)
        self._dispatcher.unload_adapter(body.lora_name)
        return web.Response(text=f"Success: LoRA adapter '{body.lora_name}' removed successfully.")


ADAPTER_OPERATIONS = (
    Operation(
        method="post",
        path=LOAD_PATH,
        summary="Load a LoRA adapter",
        request_model=LoadAdapterRequest,
        example={"lora_name": "support", "lora_path": "support"},
        is_text=True,
        error_model=response_models.OpenAiErrorResponse,
    ),
    Operation(
        method="post",
        path=UNLOAD_PATH,
        summary="Unload a LoRA adapter",
        request_model=UnloadAdapterRequest,
        example={"lora_name": "support"},
        is_text=True,
        error_model=response_models.OpenAiErrorResponse,
    ),
)
