"""The data plane's store: tensors on their way in or out, each tied to a request; `task_files` says when they go."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from fedrec.errors import Refused
from fedrec.institution.gate import too_large


class Blobs:
    """Files below `folder`/in and /out, one folder a request; a file's name is its SHA-256."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for side in ("in", "out"):
            (folder / side).mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, side: str, request: str, sha256: str) -> Path:
        """Where a blob lies, whether it exists or not. Callers pass hex digits only."""
        return self._folder / side / request / sha256

    def requests(self) -> set[str]:
        """The requests that have a folder here."""
        return {folder.name for folder in self._folder.glob("*/*")}

    def files(self, request: str) -> list[Path]:
        """All files of a request, those that are only half there too."""
        found: list[Path] = []
        for side in ("in", "out"):
            with contextlib.suppress(FileNotFoundError):  # a revocation deletes it at this moment
                found += (self._folder / side / request).iterdir()
        return found

    async def receive(self, request: str, sha256: str, parts: AsyncIterator[bytes], limit: int) -> int:
        """Stream a body to its place and return its length; nothing stays when its SHA-256 differs.

        Raises:
            Refused: `gate.size` as soon as the limit is passed, `gate.digest`.
        """
        target = self.path("in", request, sha256)
        target.parent.mkdir(mode=0o700, exist_ok=True)
        digest, length = hashlib.sha256(), 0
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".part-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                async for part in parts:
                    length += len(part)
                    if length > limit:
                        raise too_large(limit)
                    digest.update(part)
                    file.write(part)
            if digest.hexdigest() != sha256:
                raise Refused("gate.digest", "the body is not what its SHA-256 says", "Send it again")
            os.replace(name, target)
        finally:
            Path(name).unlink(missing_ok=True)
        return length

    def release(self, request: str, file: Path, sha256: str) -> Path:
        """Move an update that may leave to its place."""
        target = self.path("out", request, sha256)
        target.parent.mkdir(mode=0o700, exist_ok=True)
        os.replace(file, target)
        return target

    def drop(self, side: str, request: str, sha256: str) -> None:
        """Delete one blob; nothing happens when it is gone."""
        self.path(side, request, sha256).unlink(missing_ok=True)

    def drop_request(self, request: str) -> None:
        """Delete everything of a request."""
        for side in ("in", "out"):
            shutil.rmtree(self._folder / side / request, ignore_errors=True)
