"""lm-eval's local-completions: log-likelihoods from echoed prompts, and free generation.

The task is a few local questions, so that no data set is fetched.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}

import lm_eval
from lm_eval.models.openai_completions import LocalCompletionsAPI
from lm_eval.tasks import TaskManager

TOKENIZER = Path(__file__).resolve().parents[3] / "shard" / "demo" / "target"
QUESTIONS = [
    {"text": "import", "choices": [" os", "zqxjk"], "answer": 0},
    {"text": "def main", "choices": ["():", " banana"], "answer": 0},
    {"text": "return", "choices": ["qqqq", " None"], "answer": 1},
    {"text": "for name in", "choices": [" names:", "}}}}"], "answer": 0},
]
TASK = """task: own_{kind}
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{data}"}}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{text}}}}"
"""
CHOICE = """doc_to_target: answer
doc_to_choice: "{{choices}}"
metric_list: [{metric: acc}]
"""
FREE = """doc_to_target: "{{choices[answer]}}"
generation_kwargs: {until: ["zqxjk"], max_gen_toks: 8, do_sample: false}
metric_list: [{metric: exact_match}]
"""


def main(url: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = folder / "questions.jsonl"
        data.write_text("".join(json.dumps(question) + "\n" for question in QUESTIONS))
        for kind, rest in (("multiple_choice", CHOICE), ("generate_until", FREE)):
            task = TASK.format(kind=kind, data=data) + rest
            (folder / f"{kind}.yaml").write_text(task)
        evaluate(url, folder)


def evaluate(url: str, folder: Path) -> None:
    model = LocalCompletionsAPI(
        base_url=f"{url}/v1/completions",
        model="tgi",
        tokenizer=str(TOKENIZER),
        tokenized_requests=True,
        batch_size=4,
        max_retries=1,
        max_length=2048,
    )
    tasks = TaskManager(include_path=str(folder), include_defaults=False)
    names = ["own_multiple_choice", "own_generate_until"]
    report = lm_eval.simple_evaluate(
        model=model, tasks=names, task_manager=tasks, bootstrap_iters=0
    )
    accuracy = report["results"]["own_multiple_choice"]["acc,none"]
    assert accuracy == 1.0, report["results"]
    answers = report["samples"]["own_generate_until"]
    assert all(sample["resps"][0][0] for sample in answers), answers


if __name__ == "__main__":
    main(sys.argv[1])
