"""guidellm's benchmark: token counts that are obeyed, and usage at the end of each stream."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

TOKENIZER = Path(__file__).resolve().parents[2] / "shard" / "demo" / "target"
TOKENS, REQUESTS = 12, 6
url = sys.argv[1]
program = Path(sys.executable).with_name("guidellm")
with tempfile.TemporaryDirectory() as folder:
    report = Path(folder, "report.json")
    command = [
        *(str(program), "benchmark", "run", "--target", url, "--profile", "synchronous"),
        *("--data", f"prompt_tokens=24,output_tokens={TOKENS}", "--processor", str(TOKENIZER)),
        *("--max-requests", str(REQUESTS), "--output-path", str(report)),
    ]
    subprocess.run(command, check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    requests = json.loads(report.read_text())["benchmarks"][0]["requests"]
assert not requests["errored"], requests["errored"]
assert len(requests["successful"]) >= REQUESTS - 1
for request in requests["successful"]:
    assert request["output_tokens"] == TOKENS, request
