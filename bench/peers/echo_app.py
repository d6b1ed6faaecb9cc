"""The limit of HTTP itself: granian reads the body and answers a constant. No model."""


async def app(scope, protocol):
    await protocol()
    protocol.response_bytes(200, [("content-type", "application/json")], b'{"predictions": [[0.5, 0.5]]}')
