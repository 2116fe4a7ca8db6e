"""Small replacements inside PySyft 0.9.5, each with its reason; the only place that reaches into it.

Imported by the site's own process only, before the server is built. The list is checked against the installed
version: another PySyft has other holes, so the site does not start with it.
"""

from __future__ import annotations

import sys
from typing import Any

from fedrec.errors import WrongInput

KNOWN = "0.9.5"


def import_syft() -> Any:
    """PySyft without torch: the site's process never trains, and saves 120 MB and 3 s.

    Raises:
        WrongInput: the installed PySyft is not the one whose holes are known.
    """
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    import syft

    if syft.__version__ != KNOWN:
        raise WrongInput(f"PySyft {syft.__version__} is installed; this site knows the holes of {KNOWN} only")
    return syft


def apply() -> None:
    """Replace five functions; calling it twice changes nothing."""
    from syft.service.api.api import TwinAPIEndpoint
    from syft.service.code.user_code import UserCode
    from syft.service.policy.policy import OutputPolicyExecuteCount
    from syft.types.result import Ok

    # An endpoint call made two in-process clients that were never freed: 3.4 MB each, and the server's own
    # signing key in one of them. Our endpoint uses neither.
    TwinAPIEndpoint.get_user_client_from_server = lambda self, context: None
    TwinAPIEndpoint.get_admin_client_from_server = lambda self, context: None
    # Every call read and extended the whole history of outputs, which guests could forge. The ledger counts.
    UserCode.get_output_history = lambda self, context: Ok([])
    UserCode.store_execution_output = lambda self, **facts: Ok(None)
    # PySyft's own limit is not enforced (its False is ignored); the permit's is.
    OutputPolicyExecuteCount.is_valid = lambda self, context=None: True
