"""Show that a text depends on prompt, parameters and seed, and not on drafts or on other requests.

`python examples/seeds.py [URL]`
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from openai import OpenAI

url = sys.argv[1] if len(sys.argv) > 1 else "http://localhost:3000"
client = OpenAI(base_url=f"{url}/v1", api_key="-")


def sample(seed: int, **more: Any) -> str:
    """Sample the continuation of one prompt; `more` are fields that OpenAI's API does not have."""
    answer = client.completions.create(
        model="tgi",
        prompt="def main():",
        max_tokens=20,
        temperature=0.8,
        seed=seed,
        extra_body=more,
    )
    return answer.choices[0].text


with client:
    alone = [sample(seed) for seed in range(3)]
    with ThreadPoolExecutor() as pool:
        together = list(pool.map(sample, range(3)))
    plain = [sample(seed, speculate=0) for seed in range(3)]
print(*alone, sep="\n---\n")
print(f"the same in a batch: {together == alone}, without drafts: {plain == alone}")
