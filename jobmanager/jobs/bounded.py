"""Asks a database on behalf of a request: a few at a time and not for long, since each takes a thread that serves.

A database that accepts connections and is silent would otherwise take all threads of the process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

#: How many questions of a process may be open at once.
MOST_QUESTIONS = 2

Answer = TypeVar("Answer")

_places = threading.BoundedSemaphore(MOST_QUESTIONS)


class Unanswered(Exception):
    """The question was not asked, or not answered in time."""


def ask_briefly(question: Callable[[], Answer], *, seconds: float) -> Answer:
    """Return what *question* returns; raises what it raises, or Unanswered.

    Waits for at most *seconds*. A question without an answer keeps its place until it ends.
    """
    if not _places.acquire(blocking=False):
        raise Unanswered("Other requests are asking databases. Try again later.")
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
