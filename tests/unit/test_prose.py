"""Code, tests and documentation are in plain English: the phrases that readers had to read twice do not come back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("jobmanager", "benchmarks", "tests", "docs")
SUFFIXES = {".py", ".js", ".html", ".css", ".md", ".mako", ".toml"}
FILES = sorted(
    path
    for path in [*ROOT.iterdir(), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))]
    if path.is_file() and (path.suffix in SUFFIXES or path.name in {"Makefile", "Dockerfile", "setup.cfg"})
)
TEXTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8").lower() for path in FILES}
#: The character ~ keeps this file from matching its own list; it is removed.
REFUSED = [
    phrase.replace("~", "")
    for phrase in (
        "it is ~told",
        "is told ~so",
        "a~new",
        "what is ~asked",
        "those of ~which",
        "is none ~that",
        "as long as ~that",
        "but ~for",
        "is no ~JSON",
        "is no ~setting",
        "is no ~number",
        "who~ever",
        "tell ~whether",
        "has it ~that",
    )
]
#: Between two words: a space, the underscore of a name, or the end of a line and the mark of a comment.
GAP = r"[\s_#*/]+"


def pattern(phrase: str) -> re.Pattern[str]:
    """Return what finds the phrase as whole words, in prose and in names, in a text in lower case."""
    first, *others = phrase.lower().split()
    # The check of the character before follows the first word: a pattern that begins with letters is searched faster.
    return re.compile(rf"{first}(?<![^\W_]{first}){''.join(GAP + word for word in others)}(?![^\W_])")


def places(phrase: str) -> Iterator[str]:
    """Yield the file and line of each occurrence."""
    for name, text in TEXTS.items():
        for match in pattern(phrase).finditer(text):
            yield f"{name}:{text.count(chr(10), 0, match.start()) + 1}"


@pytest.mark.parametrize("phrase", REFUSED)
def test_a_phrase_that_must_be_read_twice_is_nowhere(phrase: str) -> None:
    assert list(places(phrase)) == [], f"write it in plain English, not {phrase!r}"


def test_a_phrase_is_found_across_lines_and_in_names_but_not_within_words() -> None:
    found = pattern("It is big")

    assert all(map(found.search, ("it is big.", "it is\n    # big", "test_it_is_big_enough")))
    assert not any(map(found.search, ("it is, big", "it is bigger", "orbit is big")))


def test_the_documentation_and_the_code_are_searched() -> None:
    assert {"README.md", "wsgi.py", "docs/job-types.md", "jobmanager/manager.py", "tests/conftest.py"} <= TEXTS.keys()
    assert {"jobmanager/http/static/dashboard/app.js", "benchmarks/export.py", "Makefile"} <= TEXTS.keys()
