"""The `jobmanager token` commands, for the operator on the host: tokens cannot be made or revoked over HTTP."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import click

from jobmanager.auth.tokens import Role, Token, TokenFile
from jobmanager.cli.options import with_json_option
from jobmanager.cli.output import Printer
from jobmanager.config import Settings
from jobmanager.errors import ConfigError, TokensUnavailable


@click.group("token")
def token_group() -> None:
    """Make, list and revoke API tokens, in the file that JOBMANAGER_TOKENS names."""


@token_group.command("add")
@click.argument("name")
@click.option("--role", type=click.Choice([str(role) for role in Role]), required=True, help="Role of the token.")
@click.option("--rate", type=click.IntRange(1, 1_000_000), help="Requests per minute; default: no limit.")
@click.option("--expires", "days", type=click.IntRange(1, 36_500), help="Days until the token expires; default: never.")
@click.option("--type", "types", multiple=True, help="Job type that it may see; repeat for several. Default: all.")
@with_json_option
def add(name: str, role: str, *, rate: int | None, days: int | None, types: tuple[str, ...], printer: Printer) -> None:
    """Make a token and print it. It cannot be shown again: only its hash is stored."""
    now = datetime.now(UTC)
    try:
        secret = _file().add(
            name,
            Role(role),
            now=now,
            rate=rate,
            expires_at=None if days is None else now + timedelta(days=days),
            types=types or None,
        )
    except ConfigError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{name} is {_article(role)}. Keep its token, which cannot be shown again:", err=True)
    printer.print_text(secret, name=name, role=role, token=secret)


@token_group.command("list")
@with_json_option
def show(printer: Printer) -> None:
    """List the tokens with their roles and limits."""
    now = datetime.now(UTC)
    try:
        tokens = _file().read()
    except (ConfigError, TokensUnavailable) as error:
        raise click.ClickException(str(error)) from None
    for token in tokens:
        printer.print_text(_line(token, now), **_fields(token, now))


@token_group.command("revoke")
@click.argument("name")
@with_json_option
def revoke(name: str, printer: Printer) -> None:
    """Revoke a token, from the next request on."""
    try:
        _file().revoke(name)
    except ConfigError as error:
        raise click.ClickException(str(error)) from None
    printer.print_text(f"{name} is revoked.", name=name, revoked=True)


def _file() -> TokenFile:
    """Return the token file. Raises ConfigError if JOBMANAGER_TOKENS is not set."""
    settings = Settings.from_env()
    if settings.tokens is None:
        raise ConfigError(
            "JOBMANAGER_TOKENS is not set. Set it to the file of the tokens, for this command and for the service, "
            "for example: JOBMANAGER_TOKENS=/etc/jobmanager/tokens"
        )
    return TokenFile(settings.tokens)


def _fields(token: Token, now: datetime) -> dict[str, Any]:
    """Return the fields of a token without its hash."""
    return {
        "name": token.name,
        "role": token.role,
        "made_at": token.made_at.isoformat(),
        "expires_at": token.expires_at and token.expires_at.isoformat(),
        "is_valid": token.is_valid(now),
        "rate": token.rate,
        "types": token.types and sorted(token.types),
    }


def _line(token: Token, now: datetime) -> str:
    parts = [f"{token.name:<20} {token.role:<8} made {token.made_at:%Y-%m-%d}"]
    if token.expires_at is not None:
        parts.append(f"{'expires' if token.is_valid(now) else 'EXPIRED'} {token.expires_at:%Y-%m-%d %H:%M}Z")
    if token.rate is not None:
        parts.append(f"{token.rate} requests a minute")
    if token.types is not None:
        parts.append(f"sees {', '.join(token.types)}")
    return ", ".join(parts)


def _article(role: str) -> str:
    return f"{'a' if role == Role.VIEWER else 'an'} {role}"
