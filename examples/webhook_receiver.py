"""Receives the ends of jobs and checks their signatures: python examples/webhook_receiver.py [PORT]

Pass its address as `webhook_url` of POST /api/generate. A server calls private addresses only where the setting
`webhook_networks` allows it: AGENTNAME_WEBHOOK_NETWORKS=127.0.0.0/8 for a receiver on the server's own machine.
"""

import base64
import hmac
import json
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

from server.client import AgentName

MAX_AGE_S = 300  # an older call may be a recorded one, sent again by somebody else

with AgentName() as client:
    SECRET = base64.b64decode(client.request("GET", "/api/webhooks/secret")["secret"].removeprefix("whsec_"))


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        call_id, sent_at = self.headers.get("webhook-id", ""), self.headers.get("webhook-timestamp", "0")
        digest = base64.b64encode(hmac.digest(SECRET, f"{call_id}.{sent_at}.".encode() + body, "sha256")).decode()
        signed = hmac.compare_digest(f"v1,{digest}".encode(), self.headers.get("webhook-signature", "").encode())
        genuine = signed and abs(time.time() - int(sent_at)) < MAX_AGE_S
        self.send_response(204 if genuine else 401)  # after any 2xx the server does not call again
        self.end_headers()
        if genuine:
            event = json.loads(body)
            links = [output["url"] for output in event["data"]["outputs"]]
            print(event["type"], event["data"]["jobId"], *links, flush=True)


with HTTPServer(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 8099), Receiver) as receiver:
    print(f"http://127.0.0.1:{receiver.server_port}/", flush=True)
    receiver.serve_forever()
