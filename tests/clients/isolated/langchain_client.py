"""LangChain's endpoint class: the hub's client beneath it, and stop strings cut by itself."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from langchain_huggingface import HuggingFaceEndpoint

PROMPT = "<|user|>What does shutil.copy do?<|assistant|>"
url = sys.argv[1]


def endpoint(**more: Any) -> Any:
    return HuggingFaceEndpoint(endpoint_url=url, max_new_tokens=40, do_sample=False, **more)


text = endpoint().invoke(PROMPT)
assert text.strip(), text
assert asyncio.run(endpoint().ainvoke(PROMPT)) == text
assert "".join(endpoint(streaming=True).stream(PROMPT)) == text
word = text.split()[2]
assert endpoint().invoke(PROMPT, stop=[word]) == text[: text.index(word)]
assert endpoint().batch([PROMPT] * 3) == [text] * 3
