"""Read the server-sent events of `/generate_stream` with nothing but an HTTP client.

An event is one line `data:` with a JSON object. The last one has the whole text and the details.

`python examples/sse.py [URL]`
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import aiohttp


async def events(url: str, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """Yield the events of one request. Raises aiohttp.ClientResponseError for an error status."""
    async with (
        aiohttp.ClientSession(raise_for_status=True) as session,
        session.post(f"{url}/generate_stream", json=body) as response,
    ):
        async for line in response.content:
            if line.startswith(b"data:"):
                yield json.loads(line.removeprefix(b"data:"))


async def main(url: str) -> None:
    """Print the tokens as they come, then why the text ended."""
    parameters = {"max_new_tokens": 20, "details": True}
    async for event in events(url, {"inputs": "def main():", "parameters": parameters}):
        print(event["token"]["text"], end="", flush=True)
        if event["details"]:
            print(f"\nfinish reason: {event['details']['finish_reason']}")


asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "http://localhost:3000"))
