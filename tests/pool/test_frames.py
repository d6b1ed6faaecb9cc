"""Frames survive any cutting of the stream, and garbage is told from messages."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourfold.pool import frames
from fourfold.pool.frames import FrameError, FrameReader, FromWorker, Invoke, Replies, ToWorker, encode
from fourfold.records import Call, Reply, WorkerSpec

headers = st.none() | st.dictionaries(st.text(max_size=10), st.text(max_size=10), max_size=3)
calls = st.builds(
    Call,
    id=st.integers(0, 2**32),
    body=st.binary(max_size=200),
    content_type=st.text(max_size=20),
    accept=st.text(max_size=20),
    headers=headers,
    stream=st.booleans(),
)
replies = st.builds(
    Reply,
    id=st.integers(0, 2**32),
    body=st.binary(max_size=200),
    content_type=st.text(max_size=20),
    status=st.integers(100, 599),
    headers=headers,
    detail=st.text(max_size=50),
)
to_worker = st.one_of(
    st.builds(Invoke, batch=st.integers(0, 2**32), calls=st.lists(calls, max_size=5)),
    st.builds(frames.Stream, call=calls),
    st.builds(frames.Cancel, id=st.integers(0, 2**32)),
    st.builds(frames.Task, id=st.integers(0, 9), function=st.text(), payload=st.binary()),
    st.builds(
        frames.Load,
        spec=st.builds(
            WorkerSpec, model=st.text(), path=st.text(), format=st.text(), memory_mb=st.none() | st.integers(1, 9)
        ),
    ),
    st.just(frames.Stop()),
)
from_worker = st.one_of(
    st.builds(Replies, batch=st.integers(0, 2**32), replies=st.lists(replies, max_size=5)),
    st.builds(frames.Chunk, id=st.integers(0, 9), body=st.binary()),
    st.builds(frames.End, id=st.integers(0, 9), error=st.text(), detail=st.text()),
    st.builds(frames.LoadFailed, reason=st.text(), detail=st.text()),
    st.builds(frames.Loaded, max_batch=st.integers(1, 99), concurrency=st.integers(1, 99)),
    st.builds(frames.TaskDone, id=st.integers(0, 9), payload=st.binary(), error=st.text()),
)


def read(union: object, stream: bytes, cuts: list[int]) -> list[object]:
    reader: FrameReader[object] = FrameReader(union)
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [m for start, stop in pairwise(edges) for m in reader.feed(stream[start:stop])]


@given(st.lists(to_worker, max_size=6), st.lists(st.integers(0, 10_000), max_size=12))
def test_what_goes_to_a_worker_arrives_whole_however_the_stream_is_cut(messages, cuts):
    assert read(ToWorker, b"".join(map(encode, messages)), cuts) == messages


@given(st.lists(from_worker, max_size=6), st.lists(st.integers(0, 10_000), max_size=12))
def test_what_comes_from_a_worker_arrives_whole_however_the_stream_is_cut(messages, cuts):
    assert read(FromWorker, b"".join(map(encode, messages)), cuts) == messages


@given(st.binary(min_size=1, max_size=300))
def test_garbage_is_refused_or_waited_for_but_never_believed(garbage):
    reader: FrameReader[object] = FrameReader(FromWorker)
    try:
        messages = list(reader.feed(garbage))
    except FrameError:
        return
    assert b"".join(map(encode, messages)) == garbage[: sum(len(encode(m)) for m in messages)] or messages


def test_a_length_beyond_the_bound_is_refused_before_anything_is_gathered():
    reader: FrameReader[object] = FrameReader(FromWorker)
    with pytest.raises(FrameError, match="claims"):
        list(reader.feed((frames.MAX_FRAME + 1).to_bytes(4, "big")))


def test_a_message_of_the_other_direction_is_refused():
    with pytest.raises(FrameError, match="known message"):
        list(FrameReader(FromWorker).feed(encode(frames.Stop())))
