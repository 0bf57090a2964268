# ruff: noqa: INP001, T201 - a script that `helm test` runs in a pod of the release, by the image's own Python
"""Call the API through the Service, as a client would. Ends with 1 and says what it saw otherwise.

Takes the API's address with its prefix, and reads TOKEN and AUTH_PROVIDER. Without a TOKEN it signs one, which only
AUTH_PROVIDER=local accepts; with another provider it only checks that a request without a token is refused.
"""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urljoin

API = sys.argv[1]
DEADLINE = time.monotonic() + 60
# The Service is next door: no HTTP_PROXY of the environment leads to it.
NEXT_DOOR = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def call(method: str, path: str, token: str = "", body: dict[str, Any] | None = None) -> tuple[int, bytes]:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    url = urljoin(API, path) if path.startswith("/") else f"{API}/{path}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers, method=method)  # noqa: S310 - our own Service
    try:
        with NEXT_DOOR.open(request, timeout=10) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def expect(status: int, method: str, path: str, token: str = "", body: dict[str, Any] | None = None) -> bytes:
    got, content = call(method, path, token, body)
    if got != status:
        sys.exit(f"{method} {path}: expected {status}, got {got}: {content[:500].decode(errors='replace')}")
    print(f"{method} {path}: {got}")
    return content


def main() -> None:
    expect(200, "GET", "public/health/ready")
    expect(401, "GET", "me")
    token = os.environ.get("TOKEN", "")
    if not token:
        if os.environ.get("AUTH_PROVIDER", "local") != "local":
            print("No TOKEN: set tests.tokenSecret to call the API as a known client as well.")
            return
        signed = subprocess.run(["plinth", "token", "--sub", "helm-test"], check=True, capture_output=True, text=True)  # noqa: S607
        token = signed.stdout.strip()

    expect(200, "GET", "me", token)
    expect(200, "GET", "jobs", token)
    # sample: begin
    item = json.loads(expect(201, "POST", "items", token, {"name": "helm test", "tags": ["helm-test"]}))
    try:
        export = json.loads(expect(202, "POST", "exports", token, {"format": "ndjson", "tag": "helm-test"}))
        while export["status"] != "ready":
            if export["status"] in ("failed", "cancelled") or time.monotonic() > DEADLINE:
                sys.exit(f"The export is {export['status']}. Is a worker ready?")
            time.sleep(0.5)
            export = json.loads(expect(200, "GET", f"exports/{export['id']}", token))
        content = expect(200, "GET", export["links"]["content"], token)
        if item["id"] not in content.decode():
            sys.exit(f"The export lacks the item {item['id']}.")
    finally:
        expect(204, "DELETE", f"items/{item['id']}", token)
    print("An item was made, exported by a worker, read back and deleted.")
    # sample: end


main()
