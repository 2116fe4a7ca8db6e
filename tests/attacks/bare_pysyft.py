"""PySyft's own server as it comes, without fedrec around it: the control of attacks on what fedrec closes.

python tests/attacks/bare_pysyft.py FOLDER PORT ROOT_PASSWORD
"""

from __future__ import annotations

import os
import secrets
import sys

if __name__ == "__main__":
    folder, port, password = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    os.environ.update(
        SERVER_UID=secrets.token_hex(16), SERVER_PRIVATE_KEY=secrets.token_hex(32), SYFT_TEMP_ROOT=folder, SYFT_NAME="bare",
        SYFT_DEV_MODE="False", SYFT_RESET="False", SYFT_DEPLOYMENT_TYPE="python", DEFAULT_ROOT_EMAIL="root@bare.example",
        DEFAULT_ROOT_PASSWORD=password, DEFAULT_ROOT_USERNAME="root",
    )  # fmt: skip
    sys.modules["torch"] = None  # type: ignore[assignment]  # three seconds
    import syft  # noqa: F401
    import uvicorn

    uvicorn.run("syft.server.uvicorn:app_factory", factory=True, host="127.0.0.1", port=port, log_level="critical")
