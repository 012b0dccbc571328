"""The `jobmanager` command.

Commands that work on this machine (serve, prune, …) are in admin.py. The others use the HTTP client: commands.py sends
single requests, follow.py runs until a job ends. An error is printed as one sentence, without a traceback.
"""

from __future__ import annotations

from typing import Any

import click

from jobmanager.cli import admin, commands, follow
from jobmanager.core.printable import clean
from jobmanager.errors import JobManagerError


class _Commands(click.Group):
    """Command group that reports our errors as click errors, without control characters."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (JobManagerError, TimeoutError, FileExistsError) as error:
            # The message may quote a server or a job.
            raise click.ClickException(clean(str(error))) from None
        except BrokenPipeError:
            raise  # click handles it: the reader of the pipe has gone
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise click.ClickException(clean(f"{where}{error.strerror or error}.")) from None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="jobmanager", message="jobmanager %(version)s")
def main() -> None:
    """Run long jobs that can be halted, resumed and stopped.

    Commands that contact a server use the URL in JOBMANAGER_URL (default: http://127.0.0.1:8080) and the token in
    JOBMANAGER_TOKEN, if it is set. With --json, they print JSON: one object, or one per line.

    Exit codes: 0 success, 1 error, 2 wrong usage. Commands that wait for a job: 0 the job completed, 3 it failed, 4 it
    was stopped, 5 it was halted; 130 after Ctrl-C, if the job was left as it is.
    """


for _command in (*commands.COMMANDS, *follow.COMMANDS, *admin.COMMANDS):
    main.add_command(_command)
