"""
Receives the messages of Alertmanager: appends each alert of each message to a file, one line of JSON each.

    python3 -m tests.support.webhook PORT FILE

A line has the path of the message, the labels of the alert, "firing" or "resolved", and the time of arrival.
"""

import http.server
import json
import sys
import time


class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        came = time.time()
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with open(sys.argv[2], "a") as file:
            for alert in message["alerts"]:
                received = {
                    "to": self.path.strip("/"),
                    "status": alert["status"],
                    "came": came,
                    "labels": alert["labels"],
                }
                file.write(json.dumps(received) + "\n")
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: the messages are in the file."""


if __name__ == "__main__":
    http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Receiver).serve_forever()
