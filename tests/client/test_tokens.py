"""A client sends its token, and raises the errors of a service that requires one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from jobmanager import Client
from jobmanager.auth.tokens import Role, TokenFile
from jobmanager.errors import ConfigError, Forbidden, RateLimited, Unauthenticated


@pytest.fixture
def make_token(service: Any, tmp_path: Path) -> Callable[..., str]:
    """Make the service require tokens; return a function that makes them."""
    file = TokenFile(tmp_path / "tokens")

    def make(name: str, role: Role, rate: int | None = None) -> str:
        return file.add(name, role, now=datetime.now(UTC), rate=rate, expires_at=None, types=None)

    make("first", Role.ADMIN)
    service.end()
    service.settings = type(service.settings)(data_dir=tmp_path / "var", tokens=tmp_path / "tokens", slots=2)
    service.start()
    return make


def test_a_client_may_do_what_the_role_of_its_token_allows(service: Any, make_token: Callable[..., str]) -> None:
    viewer, operator = make_token("eve", Role.VIEWER), make_token("olga", Role.OPERATOR)

    with Client(service.url) as nobody, pytest.raises(Unauthenticated, match="needs a token"):
        nobody.submit("Steps")
    with Client(service.url, token=operator) as client:
        job = client.submit("Steps", {"n": 1}).wait(10)
        assert job.changes()[0].actor == "olga"
    with Client(service.url, token=viewer) as client:
        assert client.get(job.id).status == "completed"
        with pytest.raises(Forbidden, match="role"):
            client.submit("Steps")
    with Client(service.url, token="wrong") as stranger, pytest.raises(Unauthenticated, match="not valid"):
        stranger.submit("Steps")


def test_a_token_over_its_rate_is_refused_with_a_retry_time(service: Any, make_token: Callable[..., str]) -> None:
    token = make_token("rush", Role.OPERATOR, rate=1)

    with Client(service.url, token=token, retry_seconds=0) as client:
        client.submit("Steps", {"n": 1})
        with pytest.raises(RateLimited) as refused:
            client.submit("Steps", {"n": 1})

    assert refused.value.retry_after_seconds > 0


@pytest.mark.parametrize("token", ["", " ", "a\nb", "ü"])
def test_a_client_refuses_an_invalid_token(token: str) -> None:
    with pytest.raises(ConfigError, match="token"):
        Client(token=token)
