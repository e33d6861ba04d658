"""Stream a chat with `huggingface_hub`.

`python examples/chat_stream.py [URL]`
"""

import sys

from huggingface_hub import InferenceClient

url = sys.argv[1] if len(sys.argv) > 1 else "http://localhost:3000"
client = InferenceClient(base_url=url)
question = [{"role": "user", "content": "What does shutil.copy do?"}]
for chunk in client.chat_completion(question, max_tokens=30, temperature=0, stream=True):
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
