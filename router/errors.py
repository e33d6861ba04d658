"""Every way a request can fail, and the message that its caller gets.

A RouterError knows its HTTP status, its `error_type` (TGI's names, which `huggingface_hub` maps to
its exceptions) and the label under which `tgi_request_failure` counts it. Exceptions of libraries
are translated into these where they are caught. Messages never hold a path, an address or a
traceback.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from types import MappingProxyType
from typing import Any, ClassVar

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class RouterError(Exception):
    """The abstract error; `str()` of it is the caller's message."""

    status: ClassVar[int]
    error_type: ClassVar[str]
    label: ClassVar[str] = "validation"
    """`err` of `tgi_request_failure`; failures before the body is read are not counted."""
    openai_type: ClassVar[str] = "invalid_request_error"
    """`type` of OpenAI's error object."""
    prefix: ClassVar[str] = ""
    headers: Mapping[str, str] = _NO_HEADERS

    def __init__(self, text: str = "") -> None:
        super().__init__(self.prefix + text)

    def in_stream(self) -> RouterError:
        """The error as an event of a stream whose headers are already sent."""
        return self


class ValidationError(RouterError):
    """A value breaks a rule; `text` is TGI's."""

    status, error_type = 422, "validation"
    prefix = "Input validation error: "


class BodyTypeError(RouterError):
    """A field has the wrong type or lies outside its type's bounds; `text` names it."""

    status, error_type = 422, "validation"
    prefix = "Failed to deserialize the JSON body into the target type: "


class ChatTemplateError(RouterError):
    """The chat template rejects the messages, or there is none."""

    status, error_type, label = 422, "template_error", "template"
    prefix = "Template error: "


class MissingTemplateVariable(RouterError):
    """The chat template needs a variable that is missing; the prefix has TGI's spelling."""

    status, error_type, label = 422, "missing_template_variable", "template"
    prefix = "Missing template vatiable: "


class ToolError(RouterError):
    """The tools cannot be used as requested."""

    status, error_type = 422, "tool_error"
    prefix = "Tool error: "


class SuffixNotSupported(RouterError):
    """The `suffix` parameter is not supported."""

    status, error_type = 422, "suffix not supported"
    prefix = "Suffix is not supported and can be achieved by preprocessing the prompt."


class TooManyPrompts(RouterError):
    """`text` is the maximum number of prompts per request."""

    status, error_type = 422, "batch size exceeded"
    prefix = "Number of prompts exceeds the maximum allowed batch size of "


class MalformedJson(RouterError):
    """The body is not JSON."""

    status, error_type = 400, "bad_request"
    prefix = "Failed to parse the request body as JSON: "


class ModelNotFound(RouterError):
    """The model is not the one that is served; `text` is its name."""

    status, error_type = 404, "model_not_found"
    prefix = "The model does not exist: "


class AdapterNotFound(RouterError):
    """No adapter has the name that is to be unloaded; `text` is the name."""

    status, error_type = 404, "NotFoundError"
    prefix = "The lora adapter cannot be found: "


class AdapterRefused(RouterError):
    """An adapter cannot be loaded; `text` is the reason."""

    status, error_type = 400, "InvalidUserInput"


class Overloaded(RouterError):
    """No permit is free, or the queue is too long."""

    status, error_type, label = 429, "overloaded", "overloaded"
    openai_type = "rate_limit_error"
    prefix = "Model is overloaded"

    def __init__(self, wait: float = 0.0) -> None:
        """`wait`: estimated seconds until there is room."""
        super().__init__()
        self.headers = retry_after(wait)


class GenerationFailed(RouterError):
    """The engine failed on this request."""

    status, error_type, label = 424, "generation", "generation"
    openai_type = "server_error"
    prefix = "Request failed during generation: Server error: "


class Cancelled(RouterError):
    """Cancelled by its id."""

    status, error_type, label = 499, "cancelled", "cancelled"
    openai_type = "cancelled"
    prefix = "Request was cancelled"


class IncompleteGeneration(RouterError):
    """The generation ended without a final token."""

    status, error_type, label = 500, "incomplete_generation", "incomplete"
    openai_type = "server_error"
    prefix = "Incomplete generation"

    def in_stream(self) -> RouterError:
        return IncompleteGenerationStream()


class IncompleteGenerationStream(RouterError):
    """IncompleteGeneration after the headers have been sent."""

    status, error_type, label = 500, "incomplete_generation_stream", "incomplete"
    openai_type = "server_error"
    prefix = "Incomplete generation stream"


class EngineFault(RouterError):
    """The engine failed each time that this request ran, so it is not run again."""

    status, error_type, label = 500, "engine_fault", "quarantined"
    openai_type = "server_error"
    prefix = "The model failed each time it ran this request; do not send it again"
    headers = MappingProxyType({"x-should-retry": "false"})


class StreamSerializationError(RouterError):
    """A value cannot be represented in JSON, such as NaN."""

    status, error_type, label = 500, "stream_serialization_error", "generation"
    openai_type = "server_error"
    prefix = "Stream event serialization error"


class Unavailable(RouterError):
    """No request is served: `Server is shutting down` or `Model is unavailable`."""

    status, error_type, label = 503, "unavailable", "unavailable"
    openai_type = "server_error"
    headers = MappingProxyType({"Retry-After": "1", "Connection": "close"})


class NoInstances(RouterError):
    """A body for Vertex AI without instances."""

    status, error_type = 422, "Input validation error"
    prefix = "Input validation error"


class NoPredictions(RouterError):
    """A failed generation for Vertex AI."""

    status, error_type, label = 500, "Incomplete generation", "generation"
    openai_type = "server_error"
    prefix = "Incomplete generation"


def retry_after(seconds: float) -> dict[str, str]:
    """The header for a client that should wait `seconds`; RFC 9110, section 10.2.3."""
    return {"Retry-After": str(max(1, ceil(seconds)))}


def native_error(error: RouterError) -> dict[str, Any]:
    """An error's body, or stream event, on TGI's routes."""
    return {"error": str(error), "error_type": error.error_type}


def openai_error(error: RouterError) -> dict[str, Any]:
    """An error's body on OpenAI's routes; `huggingface_hub` reads the outer `error_type`."""
    fields = {"message": str(error), "type": error.openai_type, "code": error.error_type}
    return {"error": fields, "error_type": error.error_type}
