"""Stores with the protocol of S3 on loopback, in processes of their own: moto's, and one that heeds no condition.

A process of its own, for deltalake's file system holds Python's lock while it asks.

python tests/stores.py heedless
"""

import contextlib
import os
import subprocess
import sys
import threading
import urllib.request

KEY_ID, SECRET = "AKIAPLANTEDKEYID0001", "planted-secret-access-key-0001"
BUCKET = "bucket"
SIGNED = "AWS4-HMAC-SHA256 Credential={}/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
REFUSED = (
    "<?xml version='1.0'?><Error><Code>InvalidAccessKeyId</Code><Message>The AWS Access Key Id you provided does not "
    "exist in our records.</Message><AWSAccessKeyId>{}</AWSAccessKeyId></Error>"
)


@contextlib.contextmanager
def store(kind):
    """Yield the variables of a store with one bucket; ``heedless`` makes an object also where there is one."""
    command = [sys.executable, __file__, kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            url = f"http://127.0.0.1:{int(process.stdout.readline())}"
            signed = {"Authorization": SIGNED.format(KEY_ID)}
            bucket = urllib.request.Request(f"{url}/{BUCKET}", method="PUT", headers=signed)
            urllib.request.urlopen(bucket).close()
            yield {
                "AWS_ENDPOINT_URL": url,
                "AWS_ACCESS_KEY_ID": KEY_ID,
                "AWS_SECRET_ACCESS_KEY": SECRET,
                "AWS_REGION": "us-east-1",
                "AWS_ALLOW_HTTP": "true",
            }
        finally:
            process.kill()


def _application(kind):
    from moto.server import DomainDispatcherApplication, create_backend_app

    moto = DomainDispatcherApplication(create_backend_app)

    def answer(environ, start_response):
        credential = environ.get("HTTP_AUTHORIZATION", "").partition("Credential=")[2].partition("/")[0]
        if credential != KEY_ID:
            start_response("403 Forbidden", [("Content-Type", "application/xml")])
            return [REFUSED.format(credential).encode()]
        if kind == "heedless":
            environ.pop("HTTP_IF_NONE_MATCH", None)
        return moto(environ, start_response)

    return answer


def _serve(kind):
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, *_):
            pass

    server = make_server("127.0.0.1", 0, _application(kind), threaded=True, request_handler=Quiet)
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()  # ends with who started it
    print(server.port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    _serve(sys.argv[1])
