"""Couriers against real sockets: what counts as delivered, as worth another attempt, as refused."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from contextlib import suppress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fourfold.control.couriers import HttpCourier, Refused, Undelivered
from fourfold.control.envelopes import Parcel

PARCEL = Parcel({"x-amz-sns-message-type": "Notification"}, b"hello")


class Answering:
    """A server on a socket that answers each connection with the same bytes."""

    def __init__(self, answer: bytes | None, context: ssl.SSLContext | None = None) -> None:
        self.answer = answer
        self.context = context
        self.requests: list[bytes] = []
        self._tasks: set[asyncio.Task] = set()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.context)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def _serve(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        try:
            self.requests.append(await reader.readuntil(b"hello"))
            if self.answer is None:
                await reader.read()  # until the courier gives up
            else:
                writer.write(self.answer)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def __aexit__(self, *_):
        self._server.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@pytest.mark.parametrize("status", [200, 201, 204])
async def test_2xx_is_delivered(status):
    async with Answering(f"HTTP/1.1 {status} fine\r\n\r\n".encode()) as server:
        await HttpCourier().carry(PARCEL, f"http://127.0.0.1:{server.port}/a/b?c=d")
    [request] = server.requests
    head, _, body = request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /a/b?c=d HTTP/1.1\r\n")
    assert f"host: 127.0.0.1:{server.port}".encode() in head
    assert b"x-amz-sns-message-type: Notification" in head
    assert body == b"hello"


async def test_an_interim_answer_is_not_the_answer():
    async with Answering(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 500 no\r\n\r\n") as server:
        with pytest.raises(Undelivered, match="answered 500"):
            await HttpCourier().carry(PARCEL, f"http://127.0.0.1:{server.port}")


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_429_and_5xx_may_be_tried_again(status):
    async with Answering(f"HTTP/1.1 {status} no\r\n\r\n".encode()) as server:
        with pytest.raises(Undelivered) as error:
            await HttpCourier().carry(PARCEL, f"http://127.0.0.1:{server.port}")
    assert not isinstance(error.value, Refused)


@pytest.mark.parametrize("status", [301, 400, 404])
async def test_other_answers_are_refusals(status):
    async with Answering(f"HTTP/1.1 {status} no\r\n\r\n".encode()) as server:
        with pytest.raises(Refused, match=f"answered {status}"):
            await HttpCourier().carry(PARCEL, f"http://127.0.0.1:{server.port}")


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1", b"hello\r\n\r\n", b"\r\n\r\n", b"HTTP/1.1 200 x\r\n" + b"x" * 100_000 + b"\r\n\r\n"]
)
async def test_what_is_no_http_may_be_tried_again(answer):
    async with Answering(answer) as server:
        with pytest.raises(Undelivered, match="cannot be reached"):
            await HttpCourier().carry(PARCEL, f"http://127.0.0.1:{server.port}")


async def test_a_receiver_that_never_answers_is_given_up():
    async with Answering(None) as server:
        with pytest.raises(Undelivered, match=r"within 0\.1 s"):
            await HttpCourier(timeout=0.1).carry(PARCEL, f"http://127.0.0.1:{server.port}")


async def test_nobody_listens():
    async with Answering(b"") as server:
        port = server.port
    with pytest.raises(Undelivered, match="cannot be reached"):
        await HttpCourier().carry(PARCEL, f"http://127.0.0.1:{port}")


async def test_https_is_checked(tmp_path):
    certificate = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    trusting = ssl.create_default_context(cafile=certificate)
    async with Answering(b"HTTP/1.1 200 OK\r\n\r\n", context) as server:
        await HttpCourier(trusting).carry(PARCEL, f"https://localhost:{server.port}")
        with pytest.raises(Undelivered, match="certificate"):
            await HttpCourier().carry(PARCEL, f"https://localhost:{server.port}")
    assert len(server.requests) == 1


def self_signed(folder):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "both.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path
