"""openvino-genai's continuous batching on lines: `openvino_batching.py FILE DTYPE`.

Runs in an environment with `openvino-genai`. Each line of stdin is a JSON object with `prompts` and
`new_tokens`; the answer is a line with the number of new tokens.
"""

import json
import sys

import openvino_genai

PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


def main() -> None:
    file, dtype = sys.argv[1:]
    precision = PRECISIONS[dtype]
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.enable_prefix_caching = False
    pipeline = openvino_genai.ContinuousBatchingPipeline(
        file,
        scheduler,
        "CPU",
        {"INFERENCE_PRECISION_HINT": precision, "KV_CACHE_PRECISION": precision},
    )
    print("ready", flush=True)
    for line in sys.stdin:
        call = json.loads(line)
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos = call["new_tokens"], True
        results = pipeline.generate(call["prompts"], [config] * len(call["prompts"]))
        count = call["new_tokens"] * len(results)
        print(f"tokens {count}", flush=True)


if __name__ == "__main__":
    main()
