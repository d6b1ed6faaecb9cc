"""Who carries a parcel to a subscriber: over HTTP, or to a queue of an SQS endpoint.

A courier returns when the receiver has taken the parcel. It raises `Refused` where trying again cannot help, and
`Undelivered` where it can.
"""

from __future__ import annotations

import asyncio
import ssl
from functools import cache
from typing import Any, Protocol
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError

from fourfold.control.envelopes import HMAC_HEADER, Parcel
from fourfold.errors import FourfoldError

RECEIVER_SECONDS = 15.0
"""How long a receiver may take to answer, connection included. As with SNS."""
MOST_ANSWER_BYTES = 64 * 1024
"""Most bytes of head of a receiver's answer."""


class Undelivered(FourfoldError):
    """A parcel that did not arrive; it may if it is sent again."""


class Refused(Undelivered):
    """A parcel that the receiver does not want: it answered 4xx, or there is no such queue."""


class Courier(Protocol):
    async def carry(self, parcel: Parcel, endpoint: str) -> None:
        """Raises Undelivered, or Refused where another attempt is of no use."""


class HttpCourier:
    """POSTs to http and https URLs, each on a connection of its own.

    Args:
        context: which certificates are trusted. None: the system's, and those of SSL_CERT_FILE.
        timeout: seconds for one parcel.
    """

    def __init__(self, context: ssl.SSLContext | None = None, timeout: float = RECEIVER_SECONDS) -> None:
        self._context = context
        self._timeout = timeout

    async def carry(self, parcel: Parcel, endpoint: str) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                status = await self._post(parcel, endpoint)
        except TimeoutError:
            raise Undelivered(f"{endpoint} did not answer within {self._timeout:g} s.") from None
        except (OSError, EOFError, ValueError, IndexError, asyncio.LimitOverrunError) as error:
            raise Undelivered(f"{endpoint} cannot be reached: {error or type(error).__name__}") from None
        if status == 429 or status >= 500:
            raise Undelivered(f"{endpoint} answered {status}.")
        if not 200 <= status < 300:
            raise Refused(f"{endpoint} answered {status}: only 429 and 5xx are tried again.")

    async def _post(self, parcel: Parcel, endpoint: str) -> int:
        url = urlsplit(endpoint)
        secure = url.scheme == "https"
        reader, writer = await asyncio.open_connection(
            url.hostname,
            url.port or (443 if secure else 80),
            ssl=(self._context or _system_context()) if secure else None,
            limit=MOST_ANSWER_BYTES,
        )
        try:
            writer.write(_request(parcel, url.netloc.rpartition("@")[2], _target(url.path, url.query)))
            await writer.drain()
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                status = int(head.split(None, 2)[1])
                if status >= 200:  # 100 and its like announce an answer
                    return status
        finally:
            writer.close()


def _request(parcel: Parcel, host: str, target: str) -> bytes:
    headers = {"host": host, "content-length": str(len(parcel.body)), "connection": "close", **parcel.headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {target} HTTP/1.1\r\n{lines}\r\n".encode() + parcel.body


def _target(path: str, query: str) -> str:
    return (path or "/") + (f"?{query}" if query else "")


@cache
def _system_context() -> ssl.SSLContext:
    return ssl.create_default_context()


class SqsCourier:
    """Sends to queues of an SQS endpoint.

    Credentials are those of the server's environment, as botocore finds them; an endpoint that asks for none gets a
    signature that means nothing.

    Args:
        url: the endpoint, e.g. http://127.0.0.1:9324.
        region: where its queues are.
    """

    def __init__(self, url: str, region: str) -> None:
        self._url = url
        self._region = region
        self._client: Any = None
        self._queues: dict[str, str] = {}

    async def carry(self, parcel: Parcel, endpoint: str) -> None:
        await self.send(endpoint, parcel.body.decode(), {HMAC_HEADER: parcel.headers[HMAC_HEADER]})

    async def send(self, queue: str, body: str, attributes: dict[str, str]) -> None:
        """Send a text to a queue. Raises Undelivered, or Refused where there is no such queue.

        Args:
            queue: its ARN.
            body: the text.
            attributes: message attributes, of type String.
        """
        try:
            await asyncio.to_thread(self._send, queue, body, attributes)
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            kind = Refused if 400 <= status < 500 and status != 429 else Undelivered
            raise kind(f"{queue}: {error}") from None
        except BotoCoreError as error:
            raise Undelivered(f"{queue}: {error}") from None

    def _send(self, queue: str, body: str, attributes: dict[str, str]) -> None:
        values = {name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()}
        self._sqs().send_message(QueueUrl=self._queue_url(queue), MessageBody=body, MessageAttributes=values)

    def _queue_url(self, arn: str) -> str:
        if arn not in self._queues:
            _, _, _, _, account, name = arn.split(":")
            found = self._sqs().get_queue_url(QueueName=name, QueueOwnerAWSAccountId=account)
            self._queues[arn] = found["QueueUrl"]
        return self._queues[arn]

    def _sqs(self) -> Any:
        if self._client is None:
            import botocore.session  # a tenth of the server's time to start, and needed where queues are
            from botocore.config import Config

            session = botocore.session.Session()
            known = session.get_credentials()
            keys = {} if known else {"aws_access_key_id": "none", "aws_secret_access_key": "none"}
            self._client = session.create_client(
                "sqs",
                endpoint_url=self._url,
                region_name=self._region,
                config=Config(connect_timeout=5, read_timeout=RECEIVER_SECONDS, retries={"total_max_attempts": 1}),
                **keys,
            )
        return self._client
