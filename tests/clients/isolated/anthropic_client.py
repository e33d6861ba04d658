"""Anthropic's client: messages, streams, tools, token counts, and the exceptions of errors."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path
from typing import Any

import anthropic

QUESTION: Any = {"role": "user", "content": "What does shutil.copy do?"}
TOOL: Any = {
    "name": "weather",
    "description": "Get the weather of a city",
    "input_schema": {
        "type": "object",
        "properties": {"celsius": {"type": "boolean"}},
        "required": ["celsius"],
    },
}
ASKED: Any = {
    "model": "tgi",
    "max_tokens": 40,
    "messages": [QUESTION],
    "extra_body": {"temperature": 0},  # this version has no argument for it
}
client = anthropic.Anthropic(base_url=sys.argv[1], api_key="unused", max_retries=0)


def ask(**more: Any) -> Any:
    return client.messages.create(**{**ASKED, **more})


message = ask()
assert message.type == "message", message
assert message.role == "assistant", message
text = message.content[0].text
assert text.strip(), message
assert message.stop_reason in ("end_turn", "max_tokens"), message
assert message.id == f"msg_{message._request_id}", message

short = ask(max_tokens=2)
assert (short.stop_reason, short.usage.output_tokens) == ("max_tokens", 2), short

word = text.split()[2]
stopped = ask(stop_sequences=[word])
assert stopped.content[0].text == text[: text.index(word)], stopped
assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", word), stopped

with client.messages.stream(**ASKED) as stream:
    assert "".join(stream.text_stream) == text
    final = stream.get_final_message()
assert final.content[0].text == text, final
assert final.stop_reason == message.stop_reason, final
assert final.usage.output_tokens == message.usage.output_tokens, final

system = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
turns = [QUESTION, {"role": "assistant", "content": message.content}, QUESTION]
assert ask(system=system, messages=turns, metadata={"user_id": "someone"}).content

called = ask(tools=[TOOL], tool_choice={"type": "tool", "name": "weather"})
assert called.stop_reason == "tool_use", called
(use,) = called.content
assert (use.type, use.name) == ("tool_use", "weather"), called
assert isinstance(use.input["celsius"], bool), called

with client.messages.stream(**ASKED, tools=[TOOL], tool_choice={"type": "any"}) as stream:
    kinds = [event.type for event in stream]
    (streamed,) = stream.get_final_message().content
assert streamed.input == use.input, streamed
assert kinds[0] == "message_start", kinds
assert kinds[-1] == "message_stop", kinds

result = {"type": "tool_result", "tool_use_id": use.id, "content": "20 degrees"}
results = [{"role": "user", "content": [result, {"type": "text", "text": "And now?"}]}]
assert ask(messages=[QUESTION, {"role": "assistant", "content": called.content}, *results]).content

counted = client.messages.count_tokens(model="tgi", messages=[QUESTION])
usage = message.usage
prompt = usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens
assert counted.input_tokens == prompt, (counted, usage)

image = {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}
body: Any = None
try:
    ask(messages=[{"role": "user", "content": [image]}])
except anthropic.UnprocessableEntityError as error:
    body = error.body
assert body, "an image was accepted"
assert body["error"]["type"] == "invalid_request_error", body
assert "`image` is not supported" in body["error"]["message"], body

ROOT = Path(__file__).resolve().parents[3]
runpy.run_path(str(ROOT / "examples" / "anthropic_messages.py"), run_name="__main__")
page = (ROOT / "docs" / "messages.md").read_text()
for program in re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
    exec(program.replace("http://localhost:3000", sys.argv[1]))
