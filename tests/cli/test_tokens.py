"""`jobmanager token` prints a token once, alone on stdout; the file has only its hash."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from jobmanager.auth.tokens import Role, TokenFile
from jobmanager.cli import main


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JOBMANAGER_TOKENS", str(tmp_path / "etc" / "tokens"))
    return tmp_path / "etc" / "tokens"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["token", *arguments])


def test_stdout_has_only_the_token_so_that_a_script_can_store_it(path: Path) -> None:
    result = run("add", "ann", "--role", "operator")

    assert result.exit_code == 0
    assert TokenFile(path).find(result.stdout.strip(), now=datetime.now(UTC)) is not None
    assert "ann is an operator" in result.stderr


def test_the_list_shows_everything_except_the_token(path: Path) -> None:
    secret = run("add", "ann", "--role", "viewer", "--rate", "30", "--expires", "7", "--type", "Export").stdout.strip()
    TokenFile(path).add("bob", Role.ADMIN, now=datetime.now(UTC), expires_at=datetime.now(UTC))

    listed = run("list").stdout

    ann, bob = listed.splitlines()
    for told in ("ann", "viewer", "30 requests a minute", "expires 20", "sees Export"):
        assert told in ann
    assert "bob" in bob
    assert "EXPIRED" in bob
    assert secret not in listed
    assert TokenFile(path).tokens()[0].hash not in listed


def test_a_revoked_token_is_not_listed(path: Path) -> None:
    run("add", "ann", "--role", "viewer")

    result = run("revoke", "ann")

    assert result.stdout == "ann is revoked.\n"
    assert run("list").stdout == ""


@pytest.mark.parametrize("arguments", [["add", "ann", "--role", "viewer"], ["list"], ["revoke", "ann"]])
def test_without_the_setting_each_token_command_names_it(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    monkeypatch.delenv("JOBMANAGER_TOKENS", raising=False)

    result = run(*arguments)

    assert result.exit_code == 1
    assert "JOBMANAGER_TOKENS=/etc/jobmanager/tokens" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["add", "ann"], "--role"),
        (["add", "ann", "--role", "root"], "root"),
        (["add", "ann", "--role", "viewer", "--rate", "0"], "rate"),
        (["add", "ann", "--role", "viewer", "--expires", "0"], "expires"),
        (["add", "ann", "--role", "viewer", "--expires", "nan"], "expires"),
        (["add", "127.0.0.1", "--role", "viewer"], "Invalid token"),
        (["revoke", "nobody"], "There is no token 'nobody'"),
        (["list"], "token add"),
    ],
)
def test_a_wrong_token_command_fails_with_a_reason(path: Path, arguments: list[str], sentence: str) -> None:
    result = run(*arguments)

    assert result.exit_code != 0
    assert sentence in result.stderr
    assert not path.exists()


def test_a_folder_that_cannot_be_written_fails_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBMANAGER_TOKENS", "/proc/nowhere/tokens")

    result = run("add", "ann", "--role", "viewer")

    assert result.exit_code == 1
    assert "JOBMANAGER_TOKENS cannot be written" in result.stderr


def test_a_missing_token_file_is_one_error_without_log_lines(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    result = run("list")

    assert result.exit_code == 1
    assert f"JOBMANAGER_TOKENS cannot be read: {path}" in result.stderr
    assert caplog.text == ""


def test_json_output_has_everything_except_the_secret(path: Path) -> None:
    made = json.loads(run("add", "ann", "--role", "viewer", "--rate", "30", "--json").stdout)

    (listed,) = map(json.loads, run("list", "--json").stdout.splitlines())
    revoked = json.loads(run("revoke", "ann", "--json").stdout)

    assert (made["name"], made["role"]) == ("ann", "viewer")
    assert (listed["name"], listed["rate"], listed["types"], listed["is_valid"]) == ("ann", 30, None, True)
    assert made["token"].removeprefix("jm_") not in json.dumps(listed)
    assert revoked == {"name": "ann", "revoked": True}
