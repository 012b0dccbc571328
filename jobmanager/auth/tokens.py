"""API tokens: a file of names, roles and hashes, which is read again when it changes.

A revoked token is refused without a restart.
Each line of the file is a JSON object with the SHA-256 of a token, not the token itself. A fast hash is enough, because
a token is 256 random bits and cannot be guessed; only passwords that people choose need a slow hash.
This module does not depend on HTTP. Its error messages are for the operator.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import logging
import os
import re
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator

from jobmanager.config import Settings
from jobmanager.core.hosts import is_loopback
from jobmanager.durable import sync_file, sync_folder
from jobmanager.errors import ConfigError, TokensUnavailable

#: Prefix of every token. It lets people, and scanners for leaked secrets, recognise a token.
PREFIX = "jm_"

#: Names that no token may have: they are the actors of changes that were requested without a token.
_RESERVED = frozenset({"engine", "embedder", "local"})

_log = logging.getLogger(__name__)

Signature = tuple[int, ...]


class Role(StrEnum):
    """Rights of a token; each role includes those before it."""

    #: look at jobs
    VIEWER = "viewer"
    #: submit, halt, resume and stop jobs
    OPERATOR = "operator"
    #: stop jobs by force
    ADMIN = "admin"

    def includes(self, other: Role) -> bool:
        """Return True if this role includes *other*.

        >>> Role.OPERATOR.includes(Role.VIEWER), Role.OPERATOR.includes(Role.ADMIN)
        (True, False)
        """
        order = list(Role)
        return order.index(self) >= order.index(other)


class Token(BaseModel):
    """A token, as one line of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: actor of the changes that the token requests; begins with a letter, so that it cannot be an IP address
    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9._@-]{0,63}$")
    role: Role
    #: SHA-256 of the token, in hexadecimal
    hash: str = Field(pattern=r"^[0-9a-f]{64}$")
    made_at: AwareDatetime
    #: requests a minute; None: unlimited
    rate: int | None = Field(None, ge=1, le=1_000_000)
    #: None: the token never expires
    expires_at: AwareDatetime | None = None
    #: the job types that the token may see; None: all
    types: tuple[str, ...] | None = None

    @field_validator("name")
    @classmethod
    def _is_free(cls, name: str) -> str:
        if name in _RESERVED:
            raise ValueError(f"{name} is a reserved name")
        return name

    def is_valid(self, now: datetime) -> bool:
        """Return True unless the token has expired."""
        return self.expires_at is None or now < self.expires_at


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """The content of the file when it was last read."""

    #: signature of the file, see `_signature`
    signature: Signature
    tokens: tuple[Token, ...] = ()
    #: why the file cannot be used; "" if it can
    fault: str = ""


class TokenFile:
    """The tokens of a service. Thread-safe; any number of processes may read and change the file at the same time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # Replaced as a whole, so it needs no lock. The signature is taken before the file is read: if the file changes
        # in between, it is read again next time.
        self._seen = _Seen(signature=())

    def find(self, secret: str, *, now: datetime) -> Token | None:
        """Return the token with this secret; None if it is unknown or expired. Raises TokensUnavailable."""
        wanted, found = _hash(secret), None
        # Compare all, each in constant time: the duration must not depend on the tokens.
        for token in self.tokens():
            if hmac.compare_digest(token.hash, wanted):
                found = token
        return found if found is not None and found.is_valid(now) else None

    def tokens(self) -> tuple[Token, ...]:
        """Return the tokens in the file. Reads the file only if it has changed.

        Raises TokensUnavailable if the file cannot be used. Logs the reason once, and again only if the reason changes.
        """
        signature = _signature(self.path)
        seen = self._seen
        if not signature or signature != seen.signature:
            seen = _read(self.path, signature)
            if seen.fault and seen.fault != self._seen.fault:
                _log.error("Every request is refused. %s", seen.fault)
            self._seen = seen
        if seen.fault:
            raise TokensUnavailable(seen.fault)
        return seen.tokens

    def read(self) -> tuple[Token, ...]:
        """Read the file and return its tokens. Raises TokensUnavailable, without logging it: the caller shows it."""
        seen = _read(self.path, ())
        if seen.fault:
            raise TokensUnavailable(seen.fault)
        return seen.tokens

    def holds(self, token: Token, *, now: datetime) -> bool:
        """Return True if the file still has the token, unchanged, and it is not expired. Raises TokensUnavailable."""
        return token in self.tokens() and token.is_valid(now)

    def add(
        self,
        name: str,
        role: Role,
        *,
        now: datetime,
        rate: int | None = None,
        expires_at: datetime | None = None,
        types: Sequence[str] | None = None,
    ) -> str:
        """Add a token to the file and return its secret. The secret itself is stored nowhere.

        Raises ConfigError if the name is taken, a value is invalid, or the file cannot be read or written.
        """
        secret = PREFIX + secrets.token_urlsafe(32)
        try:
            token = Token(
                name=name,
                role=role,
                hash=_hash(secret),
                made_at=now,
                rate=rate,
                expires_at=expires_at,
                types=None if types is None else tuple(types),
            )
        except ValidationError as error:
            raise ConfigError(f"Invalid token: {_explain(error)}.") from None

        def with_it(tokens: tuple[Token, ...]) -> tuple[Token, ...]:
            if name in [other.name for other in tokens]:
                raise ConfigError(f"The token {name!r} exists already; revoke it first, or choose another name.")
            return (*tokens, token)

        self._change(with_it)
        return secret

    def revoke(self, name: str) -> None:
        """Revoke the token; effective with the next request. Raises ConfigError if there is no such token."""

        def without_it(tokens: tuple[Token, ...]) -> tuple[Token, ...]:
            kept = tuple(token for token in tokens if token.name != name)
            if len(kept) == len(tokens):
                raise ConfigError(f"There is no token {name!r}.")
            return kept

        self._change(without_it)

    def _change(self, change: Callable[[tuple[Token, ...]], tuple[Token, ...]]) -> None:
        path = self.path.resolve()  # replace the target of a symbolic link, not the link
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(path.parent):
                tokens: tuple[Token, ...] = ()
                if path.exists():
                    seen = _read(path, ())
                    if seen.fault:
                        raise ConfigError(seen.fault)
                    tokens = seen.tokens
                _replace(path, "".join(f"{token.model_dump_json(exclude_none=True)}\n" for token in change(tokens)))
        except OSError as error:
            raise ConfigError(f"JOBMANAGER_TOKENS cannot be written: {self.path}: {error.strerror}.") from None


def check_access(settings: Settings, hosts: Iterable[str]) -> None:
    """Raise ConfigError if the tokens cannot be read, or if other machines can connect without a token.

    *hosts* are the addresses that the service binds. JOBMANAGER_INSECURE allows connections without a token.
    """
    if settings.tokens is not None:
        try:
            TokenFile(settings.tokens).read()
        except TokensUnavailable as error:
            raise ConfigError(str(error)) from None
        return
    exposed = [host or "0.0.0.0" for host in hosts if not is_loopback(host)]
    if exposed and not settings.insecure:
        raise ConfigError(
            f"Anyone who can reach {', '.join(exposed)} could submit and stop jobs, because JOBMANAGER_TOKENS is not "
            "set. Set it to the path of a file, and make a token with: jobmanager token add NAME --role operator. Or "
            "bind 127.0.0.1, or allow access without tokens with JOBMANAGER_INSECURE=1."
        )


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


def _signature(path: Path) -> Signature:
    """Return a value that differs if the file has changed; () if the file is missing or inaccessible."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)


def _read(path: Path, signature: Signature) -> _Seen:
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        way_out = "; make a token with: jobmanager token add NAME --role operator" if not path.exists() else ""
        # An empty signature makes the next request read the file again: the error may pass without a change to it.
        return _Seen(signature=(), fault=f"JOBMANAGER_TOKENS cannot be read: {path}: {error.strerror}{way_out}.")
    tokens: list[Token] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            tokens.append(Token.model_validate_json(line))
        except ValidationError as error:
            fault = f"JOBMANAGER_TOKENS cannot be used: line {number} of {path}: {_explain(error)}."
            return _Seen(signature=signature, fault=fault)
    names = [token.name for token in tokens]
    if len(set(names)) < len(names):
        return _Seen(signature=signature, fault=f"JOBMANAGER_TOKENS cannot be used: a name occurs twice in {path}.")
    return _Seen(signature=signature, tokens=tuple(tokens))


def _explain(error: ValidationError) -> str:
    """Return the first error of a line, without quoting the line."""
    (first, *_) = error.errors(include_url=False, include_input=False)
    where = ".".join(map(str, first["loc"]))
    text = "it is not valid JSON" if first["type"] == "json_invalid" else first["msg"].removeprefix("Value error, ")
    return f"{where}: {text}" if where else text


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock the folder of the file. Blocks until the lock is free.

    A lock on the file itself would be lost when the file is replaced.
    """
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)


def _unfinished_prefix(path: Path) -> str:
    return f".{path.name}."


def _remove_unfinished(path: Path) -> None:
    """Remove the unfinished files of processes that were killed while writing. Needs the lock."""
    # Match the eight characters that mkstemp adds. Otherwise an editor's files, such as .tokens.swp, could be removed.
    unfinished = re.compile(re.escape(_unfinished_prefix(path)) + "[a-z0-9_]{8}")
    for other in path.parent.iterdir():
        if unfinished.fullmatch(other.name):
            other.unlink(missing_ok=True)


def _replace(path: Path, text: str) -> None:
    """Replace the file atomically and durably; only its owner may read it. Needs the lock."""
    _remove_unfinished(path)
    owner = (path if path.exists() else path.parent).stat()
    number, name = tempfile.mkstemp(dir=path.parent, prefix=_unfinished_prefix(path))
    try:
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if os.geteuid() == 0:
                # The service, which runs as another user, must be able to read the file.
                os.fchown(number, owner.st_uid, owner.st_gid)
            sync_file(number)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    sync_folder(path.parent)
