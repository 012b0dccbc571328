"""Tokens: a file of hashes that several processes change at once, and that never opens the service by mistake."""

from __future__ import annotations

import json
import logging
import os
import resource
import stat
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pytest

from jobmanager.auth.tokens import Role, TokenFile, check_access
from jobmanager.config import Settings
from jobmanager.errors import ConfigError, TokensUnavailable

NOW = datetime(2026, 3, 9, 12, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens"


@pytest.fixture
def tokens(path: Path) -> TokenFile:
    return TokenFile(path)


def line(**fields: object) -> str:
    """Return a line of the file, with what is given in the place of what would be right."""
    right = {"name": "ann", "role": "viewer", "hash": "0" * 64, "made_at": "2026-03-09T12:00:00Z"}
    return json.dumps(right | fields)


def test_a_token_is_found_by_what_was_printed_and_by_nothing_else(tokens: TokenFile) -> None:
    secret = tokens.add("ann", Role.OPERATOR, now=NOW)
    tokens.add("bob", Role.VIEWER, now=NOW)

    found = tokens.find(secret, now=NOW)

    assert found is not None
    assert (found.name, found.role) == ("ann", Role.OPERATOR)
    for wrong in ("", "jm_", secret[:-1], secret + "x", secret.upper(), found.hash, "ann", "\udcff"):
        assert tokens.find(wrong, now=NOW) is None, wrong


def test_the_file_holds_the_hash_of_a_token_of_256_bits_and_never_the_token(tokens: TokenFile, path: Path) -> None:
    secret = tokens.add("ann", Role.VIEWER, now=NOW, rate=5, types=["Simple"])

    (kept,) = map(json.loads, path.read_text().splitlines())

    assert kept["hash"] == sha256(secret.encode()).hexdigest()
    assert secret not in path.read_text()
    assert len(secret.removeprefix("jm_")) == 43  # 256 bits, six in each letter


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_only_its_owner_may_read_the_file(tokens: TokenFile, path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        tokens.add("ann", Role.VIEWER, now=NOW)
        tokens.add("bob", Role.VIEWER, now=NOW)
    finally:
        os.umask(before)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files for others")
def test_a_file_that_root_changes_stays_readable_for_the_user_of_the_service(tokens: TokenFile, path: Path) -> None:
    os.chown(path.parent, 12345, 12346)

    tokens.add("ann", Role.VIEWER, now=NOW)

    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 12346)


def test_a_link_to_the_file_stays_a_link(tokens: TokenFile, path: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    path.symlink_to(tmp_path / "elsewhere" / "kept")

    tokens.add("ann", Role.VIEWER, now=NOW)

    assert path.is_symlink()
    assert [token.name for token in tokens.tokens()] == ["ann"]


def test_a_token_is_good_until_it_expires(tokens: TokenFile) -> None:
    secret = tokens.add("ann", Role.VIEWER, now=NOW, expires_at=NOW + timedelta(days=1))

    assert tokens.find(secret, now=NOW + timedelta(days=1, seconds=-1)) is not None
    assert tokens.find(secret, now=NOW + timedelta(days=1)) is None


def test_what_another_process_changes_holds_from_the_next_look_on(path: Path) -> None:
    tokens, other = TokenFile(path), TokenFile(path)
    ann = other.add("ann", Role.VIEWER, now=NOW)
    assert tokens.find(ann, now=NOW)

    for number in range(10):
        bob = other.add(f"bob{number}", Role.VIEWER, now=NOW)
        assert tokens.find(bob, now=NOW)
        other.revoke(f"bob{number}")
        assert tokens.find(bob, now=NOW) is None
    other.revoke("ann")

    assert tokens.find(ann, now=NOW) is None
    assert tokens.tokens() == ()


def test_tokens_that_are_made_at_the_same_moment_are_all_there(tokens: TokenFile) -> None:
    makers = []
    for name in "abc":
        makers.append(os.fork())
        if not makers[-1]:
            for number in range(10):
                tokens.add(f"{name}{number}", Role.VIEWER, now=NOW)
            os._exit(0)

    assert [os.waitpid(maker, 0)[1] for maker in makers] == [0, 0, 0]
    assert {token.name for token in tokens.tokens()} == {f"{name}{number}" for name in "abc" for number in range(10)}


@pytest.mark.parametrize("name", ["", "1ann", "::1", "127.0.0.1", "two words", "a" * 65, "a\n", "engine", "local", "é"])
def test_a_name_that_could_be_mistaken_for_something_else_is_refused(tokens: TokenFile, name: str) -> None:
    with pytest.raises(ConfigError, match="Invalid token: name"):
        tokens.add(name, Role.VIEWER, now=NOW)


def test_a_name_is_there_once_and_what_is_not_there_cannot_be_revoked(tokens: TokenFile) -> None:
    tokens.add("ann", Role.VIEWER, now=NOW)

    with pytest.raises(ConfigError, match="The token 'ann' exists already"):
        tokens.add("ann", Role.ADMIN, now=NOW)
    with pytest.raises(ConfigError, match="There is no token 'bob'"):
        tokens.revoke("bob")


BROKEN = {
    "no JSON": "{",
    "half a line": line()[:-20],
    "no object": "[]",
    "no hash": '{"name": "ann", "role": "viewer", "made_at": "2026-03-09T12:00:00Z"}',
    "no such role": line(role="root"),
    "a hash that is none": line(hash="hunter2"),
    "a name of ours": line(name="engine"),
    "a rate of nothing": line(rate=0),
    "a time without its zone": line(expires_at="2026-03-09T12:00:00"),
    "a field that nobody knows": line(expires="2026-03-09"),
    "one name twice": f"{line()}\n{line()}",
    "no text": "\x00\udcff",
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_a_file_that_makes_no_sense_lets_nobody_in_and_is_told_once(
    tokens: TokenFile, path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    secret = tokens.add("bob", Role.ADMIN, now=NOW)
    tokens.tokens()
    good = path.read_bytes()

    path.write_bytes(good + text.encode("utf-8", "surrogateescape"))
    for _ in range(3):
        with pytest.raises(TokensUnavailable, match="JOBMANAGER_TOKENS cannot be used"):
            tokens.find(secret, now=NOW)
    path.write_bytes(good)

    assert tokens.find(secret, now=NOW)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "hunter2" not in caplog.text


def test_a_file_that_makes_no_sense_is_not_written_over(tokens: TokenFile, path: Path) -> None:
    path.write_text("{")

    with pytest.raises(ConfigError, match=r"line 1 .* it is not valid JSON"):
        tokens.add("ann", Role.VIEWER, now=NOW)

    assert path.read_text() == "{"


def test_a_file_that_vanishes_lets_nobody_in_until_it_is_back(
    tokens: TokenFile, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secret = tokens.add("ann", Role.ADMIN, now=NOW)
    assert tokens.find(secret, now=NOW)

    path.rename(path.with_name("away"))
    for _ in range(3):
        with pytest.raises(TokensUnavailable, match="No such file"):
            tokens.find(secret, now=NOW)
    path.with_name("away").rename(path)

    assert tokens.find(secret, now=NOW)
    assert len(caplog.records) == 1


def test_a_failure_to_read_that_passes_is_forgotten_though_the_file_stays_as_it_is(
    tokens: TokenFile, path: Path
) -> None:
    secret = tokens.add("ann", Role.ADMIN, now=NOW)

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Fewer than are open: every further one is refused, as to a server with too many clients.
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        with pytest.raises(TokensUnavailable, match="Too many open files"):
            tokens.find(secret, now=NOW)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    assert tokens.find(secret, now=NOW)


def test_what_killed_processes_left_beside_the_file_is_removed_by_the_next_change(
    tokens: TokenFile, path: Path
) -> None:
    others = {".tokens.swp", ".tokens.old.swp", "tokens.a1b2c3d4"}
    for name in (*others, ".tokens.a1b2c3d4", ".tokens._zzzzzz9"):
        path.with_name(name).touch()

    tokens.add("ann", Role.VIEWER, now=NOW)

    assert set(os.listdir(path.parent)) == {path.name} | others


def test_an_empty_file_lets_nobody_in_either(tokens: TokenFile, path: Path) -> None:
    path.write_text("\n")

    assert tokens.tokens() == ()


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "", "::", "192.168.1.7", "::ffff:10.0.0.1", "example.org", "127.0.0.1.nip.io"]
)
def test_without_tokens_only_loopback_may_be_bound(host: str) -> None:
    with pytest.raises(ConfigError, match=r"token add .* JOBMANAGER_INSECURE=1"):
        check_access(Settings(), ["127.0.0.1", host])

    check_access(Settings(insecure=True), [host])


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost", "::ffff:127.0.0.1"])
def test_loopback_may_always_be_bound(host: str) -> None:
    check_access(Settings(), [host])


def test_with_tokens_anything_may_be_bound_but_they_have_to_be_readable(tokens: TokenFile, path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read.*token add"):
        check_access(Settings(tokens=path), ["127.0.0.1"])
    tokens.add("ann", Role.VIEWER, now=NOW)

    check_access(Settings(tokens=path), ["0.0.0.0"])
