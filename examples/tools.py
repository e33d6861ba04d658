"""Let the model call a function, run it, and send back the result.

`python examples/tools.py [URL]`
"""

import json
import sys
from typing import Any

from openai import OpenAI


def add(a: int, b: int) -> int:
    """Return the sum."""
    return a + b


digit = {"type": "integer", "minimum": 0, "maximum": 9}
tool: Any = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add two digits",
        "parameters": {
            "type": "object",
            "properties": {"a": digit, "b": digit},
            "required": ["a", "b"],
            "additionalProperties": False,
        },
    },
}
url = sys.argv[1] if len(sys.argv) > 1 else "http://localhost:3000"
messages: list[Any] = [{"role": "user", "content": "What is 2 + 3?"}]
with OpenAI(base_url=f"{url}/v1", api_key="-") as client:
    asked = client.chat.completions.create(
        model="tgi", messages=messages, tools=[tool], tool_choice="required", max_tokens=100
    )
    [call] = asked.choices[0].message.tool_calls or []
    assert call.type == "function"
    arguments = json.loads(call.function.arguments)
    result = add(**arguments)
    print(f"add({arguments['a']}, {arguments['b']}) = {result}")
    messages.append(asked.choices[0].message)
    messages.append({"role": "tool", "tool_call_id": call.id, "content": str(result)})
    answer = client.chat.completions.create(
        model="tgi", messages=messages, tools=[tool], tool_choice="none", max_tokens=30
    )
    print(answer.choices[0].message.content)
