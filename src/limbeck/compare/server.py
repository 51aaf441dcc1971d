"""The page of `limbeck compare`: a small server on this machine, with a page of its own.

    GET  /                       the page, and its style.css and script.js
    GET  /comparison.json        models, and the samples that can be asked about
    GET  /pictures/NUMBER/N      picture N of a sample
    POST /pictures               a picture's bytes -> {"picture": name, "width", "height"}
    POST /answers                {"model", "question", "sample" or "picture"} -> a reply

It listens on the loopback address unless told otherwise. Requests that name another host than the
one it was opened under, or come from another site's page, are refused: a page on the web must not
be able to ask. Uploads are limited in size, decoded by the one way in which pictures are opened,
and gone when the server ends.
"""

from __future__ import annotations

import json
import mimetypes
import tempfile
from collections import OrderedDict
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from limbeck.compare.answering import Answerers, BusyError
from limbeck.compare.questions import Upload, ask_about, ask_again, question_of, store_upload
from limbeck.compare.terminal import cost_line
from limbeck.data.samples import read_samples
from limbeck.errors import DataError, LimbeckError, UsageError
from limbeck.recipe import Recipe
from limbeck.records import Sample

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAX_UPLOAD_BYTES = 20 * 2**20
MAX_QUESTION_BYTES = 64 * 2**10
MAX_SAMPLES = 1000
UPLOADS_KEPT = 32
PICTURE_TYPES = ("image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp", "image/tiff")
SECONDS_TO_SEND = 30
POLICY = (
    "default-src 'none'; img-src 'self' blob: data:; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
STATIC = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/script.js": ("page.js", "text/javascript; charset=utf-8"),
    "/style.css": ("page.css", "text/css; charset=utf-8"),
}


class RefusedError(Exception):
    """A request that is not answered, with its status."""

    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status = status


class CompareServer(ThreadingHTTPServer):
    """Serves one comparison; `url` is where.

    Args:
        recipe: whose models answer.
        models: they themselves.
        folder: where uploads are kept meanwhile.
        host: the address to listen on.
        port: 0 for any that is free.

    Raises:
        UsageError: the address cannot be listened on.
    """

    daemon_threads = True

    def __init__(
        self, recipe: Recipe, models: Answerers, folder: Path, *, host: str, port: int
    ) -> None:
        self.models, self.folder, self.host = models, folder, host
        data, split = models.comparison.data, recipe.evaluate.split
        self.name = recipe.name
        self.samples = read_samples(data, split, MAX_SAMPLES)
        self.uploads: OrderedDict[str, Upload] = OrderedDict()
        try:
            super().__init__((host, port), Handler)
        except OSError as error:
            raise UsageError(
                f"cannot listen there ({error.strerror or error})",
                where=f"{host}:{port}",
                mend="choose another --port, or 0 for any that is free",
            ) from error

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.server_address[1])

    @property
    def url(self) -> str:
        """What to open."""
        shown = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{shown}:{self.port}/"

    def described(self) -> dict[str, Any]:
        """What the page is made of."""
        return {
            "name": self.name,
            "models": [
                {"name": m.name, "id": m.id, "local": m.local}
                for m in self.models.comparison.models
            ],
            "samples": [
                {
                    "id": sample.id,
                    "question": question_of(sample),
                    "references": list(sample.references),
                    "pictures": len(sample.images),
                }
                for sample in self.samples
            ],
            "max_upload_bytes": MAX_UPLOAD_BYTES,
            "picture_types": PICTURE_TYPES,
        }

    def keep(self, data: bytes) -> dict[str, Any]:
        """Keep an upload; the oldest one makes room."""
        upload = store_upload(data, self.folder)
        name = upload.file.sha256
        self.uploads[name] = upload
        self.uploads.move_to_end(name)
        while len(self.uploads) > UPLOADS_KEPT:
            _, oldest = self.uploads.popitem(last=False)
            Path(oldest.file.path).unlink(missing_ok=True)
        return {"picture": name, "width": upload.file.width, "height": upload.file.height}

    def sample_of(self, asked: dict[str, Any]) -> Sample:
        """What the models are asked.

        Raises:
            UsageError: there is no such sample or picture, or the question cannot be asked.
        """
        question = asked.get("question")
        if not isinstance(question, str):
            raise UsageError("the question is no text", where="question")
        if (picture := asked.get("picture")) is not None:
            upload = self.uploads.get(picture) if isinstance(picture, str) else None
            if upload is None:
                raise UsageError("the picture is gone", where="picture", mend="upload it again")
            return ask_about(upload, question, self.samples)
        return ask_again(self.sample(asked.get("sample")), question)

    def sample(self, number: Any) -> Sample:
        """A sample of the data by its number.

        Raises:
            UsageError: there is none.
        """
        if type(number) is not int or not 0 <= number < len(self.samples):
            raise UsageError(f"there is no sample {str(number)[:20]}", where="sample")
        return self.samples[number]


class Handler(BaseHTTPRequestHandler):
    """One connection; everything that it says is checked before anything is done."""

    server_version, sys_version = "limbeck", ""
    timeout = SECONDS_TO_SEND

    @property
    def own(self) -> CompareServer:
        """The server."""
        return cast(CompareServer, self.server)

    def do_GET(self) -> None:  # the name is the base class's
        """Pages and pictures."""
        with self._answered():
            path = urlsplit(self.path).path
            if path in STATIC:
                name, kind = STATIC[path]
                self._send(_static(name), kind)
            elif path == "/comparison.json":
                self._send_json(self.own.described())
            elif path.startswith("/pictures/"):
                self._send(*self._picture(path))
            else:
                raise RefusedError(HTTPStatus.NOT_FOUND, "there is nothing here")

    def do_POST(self) -> None:
        """Uploads and questions."""
        with self._answered():
            path, kind = urlsplit(self.path).path, self.headers.get_content_type()
            if path == "/pictures":
                if kind not in PICTURE_TYPES:
                    why = f"{kind} is no picture that is opened here"
                    raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, why)
                self._send_json(self.own.keep(self._body(MAX_UPLOAD_BYTES)))
            elif path == "/answers":
                if kind != "application/json":
                    raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "ask in JSON")
                self._send_json(self._reply(self._body(MAX_QUESTION_BYTES)))
            else:
                raise RefusedError(HTTPStatus.NOT_FOUND, "there is nothing here")

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: questions and pictures are the user's own."""

    def _reply(self, body: bytes) -> dict[str, Any]:
        try:
            asked = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise RefusedError(HTTPStatus.BAD_REQUEST, f"this is no JSON ({error})") from None
        fields = cast(dict[str, Any], asked) if isinstance(asked, dict) else {}
        names = [model.name for model in self.own.models.comparison.models]
        if fields.get("model") not in names:
            raise RefusedError(HTTPStatus.BAD_REQUEST, f"name a model: {', '.join(names)}")
        reply = self.own.models.answer(fields["model"], self.own.sample_of(fields))
        return {**asdict(reply), "cost": cost_line(reply)}

    def _picture(self, path: str) -> tuple[bytes, str]:
        parts = path.split("/")[2:]
        if len(parts) != 2 or not all(part.isascii() and part.isdecimal() for part in parts):
            raise RefusedError(HTTPStatus.NOT_FOUND, "there is no such picture")
        number, index = (int(part[:9]) for part in parts)
        images = self.own.sample(number).images
        if index >= len(images):
            raise RefusedError(HTTPStatus.NOT_FOUND, "there is no such picture")
        file = self.own.models.comparison.data / images[index].path
        return file.read_bytes(), mimetypes.guess_type(file.name)[0] or "application/octet-stream"

    def _body(self, limit: int) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal()):
            raise RefusedError(HTTPStatus.LENGTH_REQUIRED, "say how long it is")
        if len(length) > 12 or int(length) > limit:
            why = f"it is larger than {limit / 2**20:.3g} MiB"
            raise RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, why)
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise RefusedError(HTTPStatus.BAD_REQUEST, "it ended too early")
        return body

    def _check_origin(self) -> None:
        """Refuse what another site's page, or a name that was bent to this address, asks."""
        host = urlsplit(f"//{self.headers.get('Host', '')}").hostname
        known = {*LOOPBACK} if self.own.host in LOOPBACK else {host}
        origin = self.headers.get("Origin")
        foreign = origin is not None and urlsplit(origin).netloc != self.headers.get("Host")
        if host not in known or foreign:
            raise RefusedError(HTTPStatus.FORBIDDEN, "asked from another site")

    @contextmanager
    def _answered(self) -> Generator[None]:
        """Whatever goes wrong is said as JSON, in one line; the server goes on."""
        self.close_connection = True
        try:
            self._check_origin()
            yield
        except RefusedError as refused:
            self._send_error(refused.status, str(refused))
        except BusyError as error:
            self._send_error(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        except (UsageError, DataError) as error:
            self._send_error(HTTPStatus.BAD_REQUEST, str(error))
        except LimbeckError as error:
            self._send_error(HTTPStatus.BAD_GATEWAY, str(error))
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            return  # whoever asked has gone
        except ValueError as error:  # a Host or Origin that is no address
            self._send_error(HTTPStatus.BAD_REQUEST, str(error))

    def _send_error(self, status: HTTPStatus, why: str) -> None:
        self._send_json({"error": why}, status)

    def _send_json(self, value: Any, status: HTTPStatus = HTTPStatus.OK) -> None:
        content = json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
        self._send(content, "application/json", status)

    def _send(self, content: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def serving(
    recipe: Recipe, models: Answerers, *, host: str = LOOPBACK[0], port: int = 0
) -> Generator[CompareServer]:
    """A server that is ready to `serve_forever`; uploads are gone afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix="limbeck-compare-") as folder,
        CompareServer(recipe, models, Path(folder), host=host, port=port) as server,
    ):
        yield server


def _static(name: str) -> bytes:
    own = (files("limbeck.compare") / name).read_bytes()
    if name != "page.css":
        return own
    return (files("limbeck.report") / "page.css").read_bytes() + own
