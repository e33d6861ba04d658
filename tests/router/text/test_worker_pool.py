"""A job that never ends is killed, and the next job gets a new worker."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from router.text.encoder import Encoder
from router.text.job_errors import JobRejected, WorkerLimitExceeded
from router.text.tokenizer import Tokenizer
from router.text.worker_pool import TextWorkers, WorkerFiles, WorkerPool
from tests.support.families import byte_level

FOREVER = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
CHAT = [{"role": "user", "content": "hi"}]


@pytest.fixture
async def workers(tmp_path: Path) -> AsyncIterator[WorkerPool]:
    """One worker with a second per job; the message decides what the template does."""
    byte_level().save(str(tmp_path / "tokenizer.json"))
    source = f"{{% if messages[0].content == 'loop' %}}{FOREVER}{{% endif %}}"
    source += "{% if messages[0].content == 'big' %}{{ 'x' * 9999999999 }}{% endif %}"
    source += "{{ messages[0].content }}"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": source}))
    pool = WorkerPool(WorkerFiles(str(tmp_path), 300), count=1, seconds=1.0)
    yield pool
    await pool.close()


async def render(workers: WorkerPool, text: str) -> str:
    chat = [{"role": "user", "content": text}]
    return await workers.run_job("render", variables={"messages": chat})


async def test_the_same_process_runs_one_job_after_another(workers: WorkerPool) -> None:
    assert [await render(workers, text) for text in ("a", "é\n", "c")] == ["a", "é\n", "c"]
    assert len(workers._idle) == 1


@pytest.mark.parametrize("text", ["loop", "big"])
async def test_a_job_without_end_is_killed_and_the_next_one_runs(
    workers: WorkerPool, text: str
) -> None:
    async with asyncio.timeout(30):
        with pytest.raises((WorkerLimitExceeded, JobRejected)):
            await render(workers, text)
        assert await render(workers, "b") == "b"


async def test_a_killed_worker_is_replaced(workers: WorkerPool) -> None:
    await render(workers, "a")
    [worker] = workers._idle
    os.kill(worker.pid, 9)
    with pytest.raises(WorkerLimitExceeded):
        await render(workers, "a")
    assert await render(workers, "a") == "a"


async def test_no_other_job_waits_for_a_long_text(tmp_path: Path) -> None:
    """The worker of long texts is stopped, so its job lasts as long as the test wants."""
    byte_level().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "{{ messages|length }}"}')
    workers = TextWorkers(WorkerFiles(str(tmp_path), 300), count=1)
    try:
        await workers.long_texts.prestart()
        [worker] = workers.long_texts._idle
        worker.send_signal(signal.SIGSTOP)
        encoder = Encoder(Tokenizer(byte_level()), workers.long_texts)
        texts = [asyncio.create_task(encoder.encode("a" * (1 << 16))) for _ in range(4)]
        assert await render(workers.jobs, "a") == "1"
        assert list(await encoder.encode("ab")) == byte_level().encode("ab").ids
        assert not any(text.done() for text in texts)
        worker.send_signal(signal.SIGCONT)
        assert [len(ids) for ids in await asyncio.gather(*texts)] == [1 << 16] * 4
    finally:
        await workers.close()


async def test_a_cancelled_job_kills_its_worker_and_frees_its_slot(
    workers: WorkerPool,
) -> None:
    await workers.prestart()
    [worker] = workers._idle
    job = asyncio.ensure_future(render(workers, "loop"))
    await asyncio.sleep(0.01)
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    assert worker.returncode is not None
    assert await render(workers, "a") == "a"


async def test_jobs_wait_for_a_free_worker(workers: WorkerPool) -> None:
    texts = [str(number) for number in range(20)]
    assert await asyncio.gather(*(render(workers, text) for text in texts)) == texts
    assert len(workers._idle) == 1


async def test_closing_the_pool_ends_idle_workers(workers: WorkerPool) -> None:
    await render(workers, "a")
    [worker] = workers._idle
    await workers.close()
    assert worker.returncode is not None


async def test_rendering_without_a_template_is_rejected(tmp_path: Path) -> None:
    byte_level().save(str(tmp_path / "tokenizer.json"))
    pool = WorkerPool(WorkerFiles(str(tmp_path), 300), count=1)
    with pytest.raises(JobRejected, match="template not found"):
        await render(pool, "a")
    await pool.close()
