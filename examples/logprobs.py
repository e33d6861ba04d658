"""Print each token of an answer with its probability and the runners-up.

`python examples/logprobs.py [URL]`
"""

import sys
from math import exp

from openai import OpenAI

url = sys.argv[1] if len(sys.argv) > 1 else "http://localhost:3000"
with OpenAI(base_url=f"{url}/v1", api_key="-") as client:
    answer = client.chat.completions.create(
        model="tgi",
        messages=[{"role": "user", "content": "What does shutil.copy do?"}],
        max_tokens=8,
        temperature=0,
        logprobs=True,
        top_logprobs=3,
    )
logprobs = answer.choices[0].logprobs
for token in (logprobs.content if logprobs else None) or ():
    others = [other for other in token.top_logprobs if other.token != token.token]
    rest = ", ".join(f"{other.token!r} {exp(other.logprob):.0%}" for other in others)
    print(f"{token.token!r} {exp(token.logprob):.0%} (or {rest})")
