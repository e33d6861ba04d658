"""Two turns of a chat with OpenAI's client, and the tokens that each cost.

`python examples/openai_chat.py [URL]`
"""

import sys
from typing import Any

from openai import OpenAI

url = sys.argv[1] if len(sys.argv) > 1 else "http://localhost:3000"
messages: list[Any] = []
with OpenAI(base_url=f"{url}/v1", api_key="-") as client:
    for question in ("What does shutil.copy do?", "And shutil.move?"):
        messages.append({"role": "user", "content": question})
        answer = client.chat.completions.create(
            model="tgi", messages=messages, max_tokens=30, temperature=0
        )
        text = answer.choices[0].message.content
        messages.append({"role": "assistant", "content": text})
        assert answer.usage
        print(f"{question} ({answer.usage.total_tokens} tokens)\n{text}")
