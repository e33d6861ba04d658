"""Cancel a request by its id, from another connection, while it streams.

`python examples/cancel.py [URL]`
"""

import asyncio
import json
import sys

import aiohttp

REQUEST_ID = "cancel-example"


async def main(url: str) -> None:
    """Read five tokens, cancel, and print what the stream says then."""
    parameters = {"max_new_tokens": 1000, "ignore_eos_token": True}
    body = {"inputs": "def main():", "parameters": parameters}
    headers = {"x-request-id": REQUEST_ID}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/generate_stream", json=body, headers=headers) as stream,
    ):
        count = 0
        async for line in stream.content:
            if not line.startswith(b"data:"):
                continue
            event = json.loads(line.removeprefix(b"data:"))
            if "error" in event:
                print(f"the stream ended with {event['error_type']!r}")
                return
            count += 1
            if count == 5:
                async with session.delete(f"{url}/requests/{REQUEST_ID}") as answer:
                    print(f"cancelled: status {answer.status}")


asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "http://localhost:3000"))
