"""The `jobmanager` command.

What works on this machine (serve, prune, …) is in local.py. All else asks a server by HTTP like any other client:
remote.py one question, following.py until something ends. A failure is told in one sentence, without a traceback.
"""

from __future__ import annotations

from typing import Any

import click

from jobmanager.cli import following, local, remote
from jobmanager.errors import JobManagerError
from jobmanager.printable import clean


class _Commands(click.Group):
    """The commands. Errors are shown as click shows them, without characters that a terminal would obey."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (JobManagerError, TimeoutError, FileExistsError) as error:
            # A server's words, or a job's, may be part of it.
            raise click.ClickException(clean(str(error))) from None
        except BrokenPipeError:
            raise  # click knows: nobody reads on
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise click.ClickException(clean(f"{where}{error.strerror or error}.")) from None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="jobmanager", message="jobmanager %(version)s")
def main() -> None:
    """Run long jobs that can be halted, resumed and stopped.

    Commands that ask a server find it by JOBMANAGER_URL (http://127.0.0.1:8080 by default), and show JOBMANAGER_TOKEN
    if it is set. With --json, they print JSON: one object, or one a line.

    Exit codes: 0 it worked, 1 it did not, 2 the command was not understood. Commands that wait for a job's end: 0 it
    was completed, 3 it failed, 4 it was stopped, 5 it was halted; 130 after Ctrl-C, if the job was left as it is.
    """


for _command in (*remote.COMMANDS, *following.COMMANDS, *local.COMMANDS):
    main.add_command(_command)
