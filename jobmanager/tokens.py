"""API tokens: a file of names, roles and hashes, read anew whenever it changes, so that revoking one needs no restart.

A token is 256 random bits. Nobody can guess one from its SHA-256, however fast that is: slow hashes are for passwords,
which people choose. The file holds no token, only hashes, one JSON object a line.
This module knows nothing of HTTP. What it tells of a file that cannot be used is for the operator.
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
from jobmanager.errors import ConfigError, TokensUnavailable
from jobmanager.hosts import is_loopback

#: What every token begins with, so that people, and scanners for secrets that leaked, recognise one.
PREFIX = "jm_"

#: Names that changes are recorded under where no token asked.
_RESERVED = frozenset({"engine", "embedder", "local"})

_log = logging.getLogger(__name__)

Signature = tuple[int, ...]


class Role(StrEnum):
    """What a token is good for; each role may do what those before it may."""

    #: look at jobs
    VIEWER = "viewer"
    #: submit, halt, resume and stop them
    OPERATOR = "operator"
    #: stop them by force
    ADMIN = "admin"

    def includes(self, other: Role) -> bool:
        """Tell whether this role suffices where *other* is asked for.

        >>> Role.OPERATOR.includes(Role.VIEWER), Role.OPERATOR.includes(Role.ADMIN)
        (True, False)
        """
        order = list(Role)
        return order.index(self) >= order.index(other)


class Token(BaseModel):
    """One line of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: what changes are recorded under; begins with a letter, so that it is no address
    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9._@-]{0,63}$")
    role: Role
    #: SHA-256 of the token, in hexadecimal
    hash: str = Field(pattern=r"^[0-9a-f]{64}$")
    made_at: AwareDatetime
    #: requests a minute; None: as many as it likes
    rate: int | None = Field(None, ge=1, le=1_000_000)
    #: None: never
    expires_at: AwareDatetime | None = None
    #: the job types that it may see, as if there were no other; None: all
    types: tuple[str, ...] | None = None

    @field_validator("name")
    @classmethod
    def _is_free(cls, name: str) -> str:
        if name in _RESERVED:
            raise ValueError(f"{name} stands for something else")
        return name

    def is_valid(self, now: datetime) -> bool:
        """Tell whether it has not expired."""
        return self.expires_at is None or now < self.expires_at


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What the file held when it was read last."""

    #: tells whether it has changed since
    signature: Signature
    tokens: tuple[Token, ...] = ()
    #: why it cannot be used; "": it can
    fault: str = ""


class TokenFile:
    """The tokens of a service. Thread-safe; any number of processes may read and change the file at the same time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # Replaced as a whole. Its signature is older than what it holds, never newer: who reads while the file is
        # changed reads again next time.
        self._seen = _Seen(signature=())

    def find(self, secret: str, *, now: datetime) -> Token | None:
        """Return the token, unless there is none or it has expired; raises TokensUnavailable."""
        wanted, found = _hash(secret), None
        # All are compared, each in constant time: how long it takes tells nothing of what is in the file.
        for token in self.tokens():
            if hmac.compare_digest(token.hash, wanted):
                found = token
        return found if found is not None and found.is_valid(now) else None

    def tokens(self) -> tuple[Token, ...]:
        """Return the tokens that the file holds now; raises TokensUnavailable if it cannot be used."""
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
        """Return what `tokens` does, for a person who is told at once what is wrong: the log says nothing of it."""
        seen = _read(self.path, ())
        if seen.fault:
            raise TokensUnavailable(seen.fault)
        return seen.tokens

    def holds(self, token: Token, *, now: datetime) -> bool:
        """Tell whether a token that was found is still as it was; raises TokensUnavailable."""
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
        """Make a token and return it: it is kept nowhere. Raises ConfigError if the name is taken or a value wrong."""
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
            raise ConfigError(f"There can be no such token: {_explain(error)}.") from None

        def with_it(tokens: tuple[Token, ...]) -> tuple[Token, ...]:
            if name in [other.name for other in tokens]:
                raise ConfigError(f"There is a token {name!r} already; revoke it first, or choose another name.")
            return (*tokens, token)

        self._change(with_it)
        return secret

    def revoke(self, name: str) -> None:
        """Have the token be none any more, from the next request on; raises ConfigError if there is none."""

        def without_it(tokens: tuple[Token, ...]) -> tuple[Token, ...]:
            kept = tuple(token for token in tokens if token.name != name)
            if len(kept) == len(tokens):
                raise ConfigError(f"There is no token {name!r}.")
            return kept

        self._change(without_it)

    def _change(self, change: Callable[[tuple[Token, ...]], tuple[Token, ...]]) -> None:
        path = self.path.resolve()  # a link stays one
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
    """Raise ConfigError if the tokens cannot be read, or if there are none and a host is not this machine alone."""
    if settings.tokens is not None:
        try:
            TokenFile(settings.tokens).read()
        except TokensUnavailable as error:
            raise ConfigError(str(error)) from None
        return
    exposed = [host or "0.0.0.0" for host in hosts if not is_loopback(host)]
    if exposed and not settings.insecure:
        raise ConfigError(
            f"Everybody who reaches {', '.join(exposed)} could submit and stop jobs, since JOBMANAGER_TOKENS is not "
            "set. Have it name a file, and make a token with: jobmanager token add NAME --role operator. Or bind "
            "127.0.0.1, or insist with JOBMANAGER_INSECURE=1."
        )


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()


def _signature(path: Path) -> Signature:
    """Return what differs where the file does; empty if there is none to be seen."""
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
        # Without a signature, the next request tries again: the trouble may pass while the file stays as it is.
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
        return _Seen(signature=signature, fault=f"JOBMANAGER_TOKENS cannot be used: a name is twice in {path}.")
    return _Seen(signature=signature, tokens=tuple(tokens))


def _explain(error: ValidationError) -> str:
    """Return what is wrong with a line, without repeating it."""
    (first, *_) = error.errors(include_url=False, include_input=False)
    where = ".".join(map(str, first["loc"]))
    text = "it is no JSON" if first["type"] == "json_invalid" else first["msg"].removeprefix("Value error, ")
    return f"{where}: {text}" if where else text


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a lock on the folder: that of the file would go with it when it is replaced."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)


def _unfinished_prefix(path: Path) -> str:
    return f".{path.name}."


def _remove_unfinished(path: Path) -> None:
    """Remove what processes left behind that were killed while they wrote; the lock says that none writes now."""
    # mkstemp adds eight characters; an editor's files beside this one, as in .tokens.swp, have other names.
    unfinished = re.compile(re.escape(_unfinished_prefix(path)) + "[a-z0-9_]{8}")
    for other in path.parent.iterdir():
        if unfinished.fullmatch(other.name):
            other.unlink(missing_ok=True)


def _replace(path: Path, text: str) -> None:
    """Write the text to the file, all of it or nothing, and durably; only its owner may read it. Needs the lock."""
    _remove_unfinished(path)
    owner = (path if path.exists() else path.parent).stat()
    number, name = tempfile.mkstemp(dir=path.parent, prefix=_unfinished_prefix(path))
    try:
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if os.geteuid() == 0:
                # What root makes is for the service, which is another user, to read.
                os.fchown(number, owner.st_uid, owner.st_gid)
            os.fsync(number)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
