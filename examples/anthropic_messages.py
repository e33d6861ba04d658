"""Stream a message with Anthropic's client.

`python examples/anthropic_messages.py [URL]`
"""

import sys

from anthropic import Anthropic

url = sys.argv[1] if len(sys.argv) > 1 else "http://localhost:3000"
client = Anthropic(base_url=url, api_key="-")
with client.messages.stream(
    model="tgi",
    max_tokens=30,
    system="Answer in one sentence.",
    messages=[{"role": "user", "content": "What does shutil.copy do?"}],
) as stream:
    for text in stream.text_stream:
        print(text, end="", flush=True)
    print(f"\n{stream.get_final_message().usage.output_tokens} tokens")
