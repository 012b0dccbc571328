"""Options that several commands share, and the parsing of their values."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import wraps
from typing import Any

import click
from click.shell_completion import CompletionItem

from jobmanager.cli.output import Printer
from jobmanager.client import Client
from jobmanager.client.filters import Filters
from jobmanager.client.flows import DEFAULT_URL
from jobmanager.core.states import Status
from jobmanager.errors import JobManagerError

#: How long to retry requests: the first is for a server that may not exist, the second for one that has just answered.
_QUICK_SECONDS = 2.0
_PATIENT_SECONDS = 300.0

_TOKEN_HELP = "API token. Better set JOBMANAGER_TOKEN: other users of the machine can see the command line."

Function = Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """The URL of the server, and the token to send."""

    url: str
    token: str | None

    def client(self, *, is_patient: bool = False) -> Client:
        """Return a client. If *is_patient*, the client retries long enough for the server to restart."""
        seconds = _PATIENT_SECONDS if is_patient else _QUICK_SECONDS
        return Client(self.url, token=self.token or None, retry_seconds=seconds)


def with_server_options(function: Function) -> Function:
    """Add the options --url, --token and --json to a command, which is called with a Connection and a Printer."""

    @click.option("--url", envvar="JOBMANAGER_URL", default=DEFAULT_URL, show_default=True, help="URL of the server.")
    @click.option("--token", envvar="JOBMANAGER_TOKEN", metavar="TOKEN", help=_TOKEN_HELP)
    @with_json_option
    @wraps(function)
    def command(url: str, token: str | None, printer: Printer, **options: Any) -> Any:
        return function(Connection(url=url, token=token), printer, **options)

    return command


def with_json_option(function: Function) -> Function:
    """Add the option --json to a command, which is called with a *printer*."""

    @click.option("--json", "as_json", is_flag=True, help="Print JSON: one object, or one per line.")
    @wraps(function)
    def command(as_json: bool, **options: Any) -> Any:
        return function(printer=Printer(as_json=as_json), **options)

    return command


def with_filter_options(function: Function) -> Function:
    """Add the options that filter jobs to a command, which is called with *filters*."""

    @click.option("--type", "type_name", metavar="TYPE", shell_complete=complete_types, help="Only jobs of this type.")
    @click.option(
        "--status",
        "statuses",
        multiple=True,
        type=click.Choice([str(status) for status in Status]),
        help="Only jobs in this status; repeat for several.",
    )
    @click.option(
        "--label",
        "labels",
        multiple=True,
        metavar="NAME=VALUE",
        callback=parse_labels,
        help="Only jobs with this label; repeat for several.",
    )
    @click.option("--after", "submitted_after", type=TimeParam(), help="Only jobs submitted at this time or later.")
    @click.option("--before", "submitted_before", type=TimeParam(), help="Only jobs submitted before this time.")
    @wraps(function)
    def command(
        type_name: str | None,
        statuses: tuple[str, ...],
        labels: dict[str, str],
        submitted_after: datetime | None,
        submitted_before: datetime | None,
        **options: Any,
    ) -> Any:
        filters = Filters(
            type=type_name,
            status=statuses or None,
            labels=labels or None,
            submitted_after=submitted_after,
            submitted_before=submitted_before,
        )
        return function(filters=filters, **options)

    return command


class TimeParam(click.ParamType[datetime]):
    """A time such as 2024-05-01, 2024-05-01T12:00 or 2024-05-01T12:00:00Z; without a zone, in this machine's zone."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Parse the time; the result has a zone."""
        if isinstance(value, datetime):
            return value
        try:
            return datetime.fromisoformat(value).astimezone()
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is not a time. Use one such as 2024-05-01T12:00.", param, ctx)


def parse_pair(pair: str, option: str = "--arg") -> tuple[str, str]:
    """Split NAME=VALUE. Raises BadParameter."""
    name, separator, text = pair.partition("=")
    if not separator or not name:
        raise click.BadParameter(f"{pair!r} is not NAME=VALUE", param_hint=option)
    return name, text


def parse_args(pairs: tuple[str, ...]) -> dict[str, Any]:
    """Parse the arguments of a job. A value that is not valid JSON is text."""
    return {name: _parse_value(text) for name, text in map(parse_pair, pairs)}


def _parse_value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def parse_labels(ctx: click.Context, param: click.Parameter, pairs: tuple[str, ...]) -> dict[str, str]:
    """Parse labels. Raises BadParameter if a name has two values: only one of them could be used."""
    labels: dict[str, str] = {}
    for pair in pairs:
        name, value = parse_pair(pair, "--label")
        if labels.setdefault(name, value) != value:
            raise click.BadParameter(f"the label {name} has two values", param_hint="--label")
    return labels


def complete_types(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the job types that start with *incomplete*."""
    return _complete(
        ctx,
        incomplete,
        lambda client: [CompletionItem(each.type, help=each.description) for each in client.job_types()],
    )


def complete_jobs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the ids that start with *incomplete*, among the ids of the 100 newest jobs."""
    return _complete(
        ctx,
        incomplete,
        lambda client: [CompletionItem(job.id, help=f"{job.type}, {job.status}") for job in client.list(limit=100)],
    )


def _complete(
    ctx: click.Context, incomplete: str, look: Callable[[Client], list[CompletionItem]]
) -> list[CompletionItem]:
    """Return the server's items that start with *incomplete*; [] if the server does not answer within a second."""
    try:
        url, token = ctx.params.get("url") or DEFAULT_URL, ctx.params.get("token")
        with Client(url, token=token, retry_seconds=0, timeout_seconds=1) as client:
            return [item for item in look(client) if item.value.startswith(incomplete)]
    except JobManagerError:
        return []
