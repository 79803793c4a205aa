"""HTTP/1.1 as uvicorn speaks it, but for requests that are no HTTP: they get an error in our shape, too."""

from __future__ import annotations

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from server.replies import error_body, text_of


class Http11(H11Protocol):
    def send_400_response(self, msg: str) -> None:
        body = error_body(400, text_of(400))
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        for event in (
            h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
