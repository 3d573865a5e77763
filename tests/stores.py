"""Stores with the protocol of S3 on loopback, in processes of their own: moto's, and one that heeds no condition.

A process of its own, for deltalake's file system holds Python's lock while it asks. moto keeps all in memory: what is
killed and started again is a ``Front`` between, which is all of the store that its clients know.

python tests/stores.py heedless
"""

import asyncio
import contextlib
import os
import re
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


class Front:
    """What clients have for the store: a process that passes bytes on, and can be killed and started again.

    It ends by itself, until it is started again, when somebody makes an object whose path ends like ``dies_at``.
    """

    def __init__(self, url, *, dies_at=""):
        self._behind, self.port = url.rpartition(":")[2], 0
        self._start(dies_at)
        self.url = f"http://127.0.0.1:{self.port}"

    def _start(self, dies_at=""):
        command = [sys.executable, __file__, "front", self._behind, str(self.port), dies_at]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())

    def kill(self):
        """The store is gone, with all that was on its way."""
        self.process.kill()
        self.process.communicate()

    def start(self):
        """It is there again, at the same address, with what it had confirmed."""
        if self.process.returncode is None:
            self.kill()
        self._start()


async def _pass_on(reader, writer, dies_at=""):
    deadly = re.compile(rb"PUT [^ ]*" + re.escape(dies_at.encode()) + rb" ") if dies_at else None
    with contextlib.suppress(ConnectionError):
        while some := await reader.read(1 << 16):
            if deadly and deadly.search(some):
                os._exit(1)
            writer.write(some)
            await writer.drain()
    writer.close()


async def _front(behind, port, dies_at):
    async def meet(reader, writer):
        back_reader, back_writer = await asyncio.open_connection("127.0.0.1", behind)
        await asyncio.gather(_pass_on(reader, back_writer, dies_at), _pass_on(back_reader, writer))

    server = await asyncio.start_server(meet, "127.0.0.1", port)
    _ends_with_parent()
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def _ends_with_parent():
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()


def _application(kind):
    from moto.server import DomainDispatcherApplication, create_backend_app

    moto, one_at_a_time = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def answer(environ, start_response):
        credential = environ.get("HTTP_AUTHORIZATION", "").partition("Credential=")[2].partition("/")[0]
        if credential != KEY_ID:
            start_response("403 Forbidden", [("Content-Type", "application/xml")])
            return [REFUSED.format(credential).encode()]
        if kind == "heedless":
            environ.pop("HTTP_IF_NONE_MATCH", None)
        with one_at_a_time:  # moto looks whether there is an object, and then makes it: two threads may both see none
            return moto(environ, start_response)

    return answer


def _serve(kind):
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, *_):
            pass

    server = make_server("127.0.0.1", 0, _application(kind), threaded=True, request_handler=Quiet)
    _ends_with_parent()
    print(server.port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    if sys.argv[1] == "front":
        asyncio.run(_front(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
    else:
        _serve(sys.argv[1])
