"""Check the URL of a database before anything connects to it. No error shows any part of the URL."""

from __future__ import annotations


def check_at_signs(url: str) -> None:
    """Raise ValueError if the URL of a database server has a second @.

    The first @ ends the password. If the password contains an @, the rest is taken for the host, which drivers show in
    their errors. URLs of SQLite have no password.

    >>> check_at_signs("postgresql://me:p%40ss@db/jobs")
    >>> check_at_signs("sqlite:////home/me@work/@.db")
    >>> check_at_signs("postgresql://me:p@ss@db/jobs")
    Traceback (most recent call last):
    ValueError: it has more than one @; percent-encode the user name and the password, as in %40 for an @
    """
    if not url.startswith("sqlite") and url.count("@") > 1:
        raise ValueError("it has more than one @; percent-encode the user name and the password, as in %40 for an @")
