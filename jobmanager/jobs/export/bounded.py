"""Run database queries for HTTP requests: a few at a time, each with a timeout.

Each keeps a request thread waiting. A database that accepts connections but never answers would otherwise take all
threads of the process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

#: Maximum number of open questions per process.
MOST_QUESTIONS = 2

Answer = TypeVar("Answer")

_places = threading.BoundedSemaphore(MOST_QUESTIONS)


class Unanswered(Exception):
    """The question was not asked, or the answer did not come in time."""


def ask_briefly(question: Callable[[], Answer], *, seconds: float) -> Answer:
    """Return the result of *question*, or raise its exception. Blocks for at most *seconds*.

    Raises Unanswered after the timeout, or if too many questions are open. A question that timed out still counts as
    open until it ends.
    """
    if not _places.acquire(blocking=False):
        raise Unanswered("Too many requests are waiting for databases. Try again later.")
    answer: Future[Answer] = Future()
    threading.Thread(target=_answer, args=(question, answer), name="asks-a-database", daemon=True).start()
    try:
        return answer.result(seconds)
    except TimeoutError:
        raise Unanswered(f"The database did not answer within {seconds:g} s.") from None


def _answer(question: Callable[[], Answer], answer: Future[Answer]) -> None:
    try:
        found = question()
    except Exception as error:
        _places.release()
        answer.set_exception(error)
    else:
        _places.release()
        answer.set_result(found)
