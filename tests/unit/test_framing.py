"""The end of a request is found in whatever pieces its bytes arrive, where gunicorn's parser finds it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from gunicorn.config import Config
from gunicorn.http import get_parser
from hypothesis import given
from hypothesis import strategies as st

from jobmanager.serving.framing import MIB, MOST_HEAD_BYTES, Incoming, Stage

GET = b"GET /jobs HTTP/1.1\r\nHost: a\r\n\r\n"


def in_chunks(parts: list[bytes], trailers: bytes) -> bytes:
    chunks = b"".join(b"%x;a=b\r\n%s\r\n" % (len(part), part) for part in parts if part)
    return (
        b"POST /jobs HTTP/1.1\r\nHost: a\r\ntransfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n" + trailers + b"\r\n"
    )


def with_length(body: bytes, zeros: int = 0) -> bytes:
    length = b"0" * zeros + b"%d" % len(body)
    return b"POST /jobs HTTP/1.1\r\nHost: a\r\nCONTENT-length:  %s \r\n\r\n" % length + body


bodies = st.binary(max_size=60)
requests = st.one_of(
    st.just(GET),
    st.builds(with_length, bodies, st.integers(0, 10)),
    st.builds(in_chunks, st.lists(bodies, max_size=3), st.sampled_from([b"", b"X: y\r\n"])),
)


@given(st.lists(requests, max_size=4), st.lists(st.integers(0, 300), max_size=8))
def test_requests_are_found_in_whatever_pieces_they_arrive(sent: list[bytes], cuts: list[int]) -> None:
    data = b"".join(sent)
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    incoming = Incoming()
    found = []

    for begin, end in itertools.pairwise(places):
        stage = incoming.feed(data[begin:end])
        while stage is Stage.COMPLETE:
            found.append(incoming.take())
            stage = incoming.update_stage()

    assert found == sent
    assert len(incoming) == 0


@given(st.lists(requests, min_size=1, max_size=4))
def test_the_parser_of_gunicorn_finds_the_same_requests(sent: list[bytes]) -> None:
    incoming = Incoming()
    incoming.feed(b"".join(sent))

    whole = [_parsed(b"".join(sent))] if len(sent) == 1 else _parsed_all(b"".join(sent), len(sent))

    assert [_parsed(each) for each in _taken(incoming)] == whole


def test_an_expectation_is_answered_once_and_not_passed_on() -> None:
    incoming = Incoming()

    assert incoming.feed(b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n") is Stage.PARTIAL
    assert incoming.awaits_continue
    incoming.awaits_continue = False
    assert incoming.feed(b"{}") is Stage.COMPLETE

    assert incoming.take() == b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"


def test_a_client_of_http_1_0_is_not_told_to_go_on() -> None:
    incoming = Incoming()

    incoming.feed(b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")

    assert not incoming.awaits_continue


def test_empty_lines_before_a_request_are_ignored() -> None:
    incoming = Incoming()

    assert incoming.feed(b"\r\n\r\n" + GET) is Stage.COMPLETE
    assert incoming.take() == GET


@pytest.mark.parametrize(
    ("sent", "stage"),
    [
        (with_length(b"")[:-4].replace(b" 0 ", b" 1048577") + b"\r\n\r\n", Stage.LARGE),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % (MIB + 1), Stage.LARGE),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * (MOST_HEAD_BYTES // 6), Stage.HEAD_TOO_LARGE),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * (MOST_HEAD_BYTES // 6) + b"\r\n", Stage.HEAD_TOO_LARGE),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", Stage.UNKNOWN_CODING),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 5000, Stage.LARGE),
        (b"POST / HTTP/1.1\r\nContent-Length: 00000000000000000055\r\n\r\n", Stage.MALFORMED),
        (b"POST / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n", Stage.MALFORMED),
        (b"POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\n", Stage.MALFORMED),
        (b"POST / HTTP/1.1\r\nContent-Length:\r\n 1\r\n\r\n", Stage.MALFORMED),
        (b"POST / HTTP/1.1\r\nContent-Length : 1\r\nContent-Length: 2\r\n\r\n", Stage.MALFORMED),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\ncontent-length: 1\r\n\r\n", Stage.MALFORMED),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", Stage.MALFORMED),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n", Stage.MALFORMED),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", Stage.MALFORMED),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxYY0\r\n\r\n", Stage.MALFORMED),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;" + b"x" * 300, Stage.MALFORMED),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\r\n", Stage.MALFORMED),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * 20_000, Stage.HEAD_TOO_LARGE),
    ],
)
def test_a_request_that_is_too_large_or_malformed_is_found_at_once(sent: bytes, stage: Stage) -> None:
    assert Incoming().feed(sent) is stage


@pytest.mark.parametrize(
    ("line", "is_urgent"),
    [
        (b"GET /health/live HTTP/1.1", True),
        (b"GET /health/ready?x=1 HTTP/1.1", True),
        (b"GET /prefix/halt/abc HTTP/1.1", True),
        (b"POST /jobs/abc/stop HTTP/1.1", True),
        (b"POST /jobs/halt HTTP/1.1", True),
        (b"POST /jobs HTTP/1.1", False),
        (b"GET /jobs/abc HTTP/1.1", False),
        (b"GET /jobs?q=/halt/x HTTP/1.1", False),
        (b"GET /jobs/abc/log HTTP/1.1", False),
    ],
)
def test_health_and_control_are_urgent(line: bytes, is_urgent: bool) -> None:
    incoming = Incoming()

    incoming.feed(line + b"\r\nHost: a\r\n\r\n")

    assert incoming.is_urgent is is_urgent


def _taken(incoming: Incoming) -> Iterator[bytes]:
    while incoming.update_stage() is Stage.COMPLETE:
        yield incoming.take()


def _parsed(request: bytes) -> tuple[str, bytes]:
    message = next(get_parser(Config(), [request], ("127.0.0.1", 1)))
    return message.path, message.body.read()


def _parsed_all(data: bytes, number: int) -> list[tuple[str, bytes]]:
    parser = get_parser(Config(), [data], ("127.0.0.1", 1))
    return [(message.path, message.body.read()) for message in (next(parser) for _ in range(number))]
