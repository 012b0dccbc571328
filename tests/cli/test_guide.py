"""docs/cli.md names every command, and its examples are valid."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from jobmanager.cli import main
from jobmanager.cli.follow import EXIT_CODES

GUIDE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
LINES = [line for block in re.findall(r"```sh\n(.*?)```", GUIDE, re.DOTALL) for line in block.splitlines()]
EXAMPLES = [part for line in LINES for part in re.findall(r"jobmanager [^|)]+", line)]


def test_the_cli_guide_names_every_command_and_no_other() -> None:
    named = set(re.findall(r"^\| `jobmanager (\w+)", GUIDE, re.MULTILINE))

    assert named == main.commands.keys()


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_of_the_cli_guide_are_valid(example: str) -> None:
    name, *arguments = shlex.split(example.strip('" '))[1:]
    command = main.commands[name]

    with click.Context(command) as ctx:
        command.make_parser(ctx).parse_args(arguments)


def test_every_option_in_the_cli_guide_exists() -> None:
    for name, text in re.findall(r"^\| `jobmanager (\w+)[^|]*\|(.*)\|$", GUIDE, re.MULTILINE):
        options = {option for parameter in main.commands[name].params for option in parameter.opts}
        assert set(re.findall(r"`(--?[\w-]+)", text)) <= options, name


def test_the_cli_guide_has_the_exit_codes_of_the_commands() -> None:
    rows = dict(re.findall(r"^\| (\d+) \| (.*) \|$", GUIDE, re.MULTILINE))

    assert all(str(status) in rows[str(code)] for status, code in EXIT_CODES.items())
