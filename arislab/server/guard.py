"""Who may ask: Host allow-list, bearer token, size limits; and the form in which the server refuses."""

import asyncio
import hmac
import ipaddress
import os
import secrets
import socket
import stat
import time
from pathlib import Path

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from arislab.errors import PrerequisiteError
from arislab.server.limits import Limits

FORM_BYTES = 1 << 16  # what a multipart form has around its file


def read_token(path: Path) -> str:
    """The token in a file that only its owner can read; a new random one is written if the file is absent.

    Raises:
        PrerequisiteError: others can read the file, or it is empty, a folder, a link to nothing, or cannot be read or
            written.
    """
    try:
        return _read_token(path)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise PrerequisiteError(
            f"the token file {str(path)!r} cannot be used: {why or error}; give a file that you can read, or one that "
            "does not exist yet"
        ) from None


def _read_token(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # with its mode from the first moment on: a chmod afterwards would leave a moment in which others can open it
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        if path.is_symlink() and not path.exists():
            raise PrerequisiteError(
                f"the token file {str(path)!r} is a link to {str(path.readlink())!r}, which does not exist; remove the "
                "link, or make that file"
            ) from None
        if not path.is_file():
            raise PrerequisiteError(
                f"the token file {str(path)!r} is {'a folder' if path.is_dir() else 'no file'}; give the name of a "
                "file in it, or another"
            ) from None
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise PrerequisiteError(
                f"the token file {str(path)!r} has mode {mode:o}, so others on this machine may read it; make it 600: "
                f"chmod 600 {path}"
            ) from None
        if not (token := path.read_text(encoding="utf-8").strip()):
            raise PrerequisiteError(
                f"the token file {str(path)!r} is empty; remove it to get a new token, or write one into it"
            ) from None
        return token
    with os.fdopen(descriptor, "w") as file:
        token = "arislab-" + secrets.token_urlsafe(32)
        file.write(token + "\n")
    return token


class Guard:
    """What every request passes first: Host allow-list (against DNS rebinding), token, limits of size and time."""

    def __init__(self, app: ASGIApp, *, token: str, host: str, limits: Limits):
        self.app, self._token, self._limits = app, token.encode(), limits
        wildcard = host in ("0.0.0.0", "::", "")
        self._any_address = wildcard  # a page in a browser can forge names, not addresses
        self._hosts = {"127.0.0.1", "localhost", "::1", host.lower()} | (
            {socket.gethostname().lower()} if wildcard else set()
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or pass it on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if not self._host_is_known(headers.get(b"host", b"").decode("latin-1")):
            refusal = envelope(
                403,
                "this Host header is not served; use the url that the server printed when it started",
                code="host_not_allowed",
            )
            await refusal(scope, receive, send)
            return
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        # compare_digest: a comparison that ends at the first wrong byte tells how much of a guess is right
        if scope["path"] != "/health" and not (
            kind.lower() == b"bearer" and hmac.compare_digest(given.strip(), self._token)
        ):
            message = (
                "missing or wrong API key; send the content of the server's token file as "
                "'Authorization: Bearer <token>'"
            )
            refusal = envelope(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
            await refusal(scope, receive, send)
            return
        limits = self._limits
        limit = limits.file_bytes + FORM_BYTES if scope["path"] == "/v1/files" else limits.body_bytes
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > limit:  # what a client says of itself; what it sends is counted below
            await envelope(413, too_large(limit), code="request_too_large")(scope, receive, send)
            return
        n_bytes, is_whole, began = 0, False, time.monotonic()

        async def counted() -> Message:
            nonlocal n_bytes, is_whole
            if is_whole:
                return await receive()  # waits for the client to leave
            deadline = began + limits.grace_s + n_bytes / limits.slow_bytes_per_s
            try:
                message = await asyncio.wait_for(receive(), deadline - time.monotonic())
            except TimeoutError:
                raise refuse(408, "the request came too slowly; send it again", code="request_timeout") from None
            n_bytes += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            if n_bytes > limit:
                raise refuse(413, too_large(limit), code="request_too_large")
            return message

        await self.app(scope, counted, send)

    def _host_is_known(self, header: str) -> bool:
        name = header.lower()
        name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
        if name in self._hosts:
            return True
        return self._any_address and _is_address(name)


def envelope(
    status: int,
    message: str,
    *,
    param: str | None = None,
    code: str | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """An error as OpenAI's API shows it."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return JSONResponse({"error": {"message": message, "type": kind, "param": param, "code": code}}, status, headers)


def refuse(status: int, message: str, *, param: str | None = None, code: str | None = None) -> HTTPException:
    """The exception that becomes an :func:`envelope`."""
    return HTTPException(status, {"message": message, "param": param, "code": code})


def too_large(limit: int) -> str:
    """What a client reads that sent more."""
    return f"the request has more than {limit} bytes; split the file"


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
