"""The launcher with its real children, over real sockets; the engine is the echo."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from pathlib import Path
from signal import SIGKILL, SIGTERM

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tests.support.paths import ROOT
from tests.support.poller import polling
from tests.support.processes import Processes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder as far as the echo engine needs one: bytes are the vocabulary."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_only = models.BPE({piece: number for number, piece in enumerate(alphabet)}, [])
    tokenizer = Tokenizer(bytes_only)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": len(alphabet)}))
    return tmp_path


def post(url: str, **body: object) -> bytes:
    data, head = json.dumps(body).encode(), {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, data, head), timeout=30) as answer:
        content: bytes = answer.read()
        return content


@pytest.mark.parametrize("ranks", ["1", "2"])
def test_a_request_is_answered_and_streamed_alike_and_the_server_ends_cleanly(
    processes: Processes, folder: Path, ranks: str
) -> None:
    flags = ("--echo", "--model-id", str(folder), "--hostname", "127.0.0.1", "-p", "0")
    running = processes.start(str(ROOT / "launcher.py"), *flags, "--num-shard", ranks)
    url = running.url()
    parameters = {"max_new_tokens": 8, "ignore_eos_token": True}
    whole = json.loads(post(f"{url}/generate", inputs="Once", parameters=parameters))
    stream = post(f"{url}/generate_stream", inputs="Once", parameters=parameters)
    events = [json.loads(line[5:]) for line in stream.splitlines() if line.startswith(b"data:")]
    assert len(events) == 8
    assert events[-1]["generated_text"] == whole["generated_text"]
    running.signal(SIGTERM)
    assert running.end() == 0


def test_a_server_restarts_on_its_port_although_clients_poll_it(
    processes: Processes, folder: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    flags = ("--echo", "--model-id", str(folder), "--hostname", "127.0.0.1", "-p", str(port))
    with polling(port) as responses:
        for how in (SIGKILL, SIGTERM):
            running = processes.start(str(ROOT / "launcher.py"), *flags)
            running.url()
            post(f"http://127.0.0.1:{port}/generate", inputs="Once")
            running.signal(how)
            assert running.end() in (0, -SIGKILL)
            assert responses.get(timeout=30)


def test_a_model_without_a_chat_template_gives_a_warning_and_chats_a_422_with_the_cure(
    processes: Processes, folder: Path
) -> None:
    flags = ("--echo", "--model-id", str(folder), "--hostname", "127.0.0.1", "-p", "0")
    running = processes.start(str(ROOT / "launcher.py"), *flags)
    assert "`--tokenizer-config-path FILE`" in running.line("chat requests are refused")
    with pytest.raises(urllib.error.HTTPError) as caught:
        post(f"{running.url()}/v1/chat/completions", messages=[{"role": "user", "content": "Hi"}])
    assert caught.value.code == 422
    text = json.loads(caught.value.read())["error"]["message"]
    assert text.startswith("Template error: template not found; ")
    assert "`--tokenizer-config-path FILE`" in text
