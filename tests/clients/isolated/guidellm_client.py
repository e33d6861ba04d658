"""guidellm's benchmark: token counts that are obeyed, and usage at the end of each stream."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

TOKENIZER = Path(__file__).resolve().parents[3] / "shard" / "demo" / "target"
TOKENS, REQUESTS = 12, 6
url = sys.argv[1]
program = Path(sys.executable).with_name("guidellm")
with tempfile.TemporaryDirectory() as folder:
    report = Path(folder, "report.json")
    command = [
        *(str(program), "run", "--disable-console", "--profile", "kind=synchronous"),
        *("--backend", f"kind=openai_http,target={url}"),
        *("--constraint", f"kind=max_requests,count={REQUESTS}"),
        *("--tokenizer", f"kind=huggingface_auto,model={TOKENIZER}"),
        *("--data", f"kind=synthetic_text,prompt_tokens=24,output_tokens={TOKENS}"),
        *("--output", f"kind=json,path={report}"),
    ]
    subprocess.run(command, check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    requests = json.loads(report.read_text())["benchmarks"][0]["requests"]
assert not requests["errored"], requests["errored"]
assert len(requests["successful"]) >= REQUESTS - 1
for request in requests["successful"]:
    assert request["output_tokens"] == TOKENS, request
