"""Run the examples of docs/client.md, in order, against a real server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from jobmanager.jobs.export.sample import make_sample

GUIDE = (Path(__file__).parents[2] / "docs" / "client.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)


@pytest.fixture
def namespace(service: Any) -> Iterator[dict[str, Any]]:
    from jobmanager import Client  # noqa: PLC0415 - as in the guide

    make_sample(service.settings.data_dir, 2000)
    with Client(service.url) as client:
        yield {"__name__": "guide", "client": client}


def test_the_examples_of_the_client_guide_run(
    service: Any, namespace: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    client = namespace["client"]
    for number, block in enumerate(BLOCKS):
        code = block.replace("http://127.0.0.1:8080", service.url)
        # In a new thread: the browser tests leave an event loop in this one.
        with ThreadPoolExecutor(1, thread_name_prefix="test") as pool:
            pool.submit(exec, compile(code, f"docs/client.md, example {number + 1}", "exec"), namespace).result()
        namespace["client"] = client  # the first example closes its client

    told = capsys.readouterr().out
    assert "{'steps': 3}" in told
    assert "ended completed" in told
    assert "('args', 'steps') " in told
    assert len(BLOCKS) == 9
