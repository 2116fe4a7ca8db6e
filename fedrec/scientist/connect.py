"""Logging in at every member of a consortium."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrec.config import ConsortiumConfig
from fedrec.config.secret import secret
from fedrec.errors import Refused, Unreachable, WrongInput
from fedrec.scientist.datasites import Datasites

if TYPE_CHECKING:
    from fedrec.scientist.syft_client import SyftSite


def connect(consortium: Path | str, user: str | None = None, password: str | None = None) -> Datasites:
    """Log in at every member of a consortium.

    Args:
        consortium: its TOML file, with each member's address and pinned key.
        user, password: by default FEDREC_USER and FEDREC_PASSWORD, or the 0600 file FEDREC_PASSWORD_FILE.

    Raises:
        WrongInput: the file is wrong, no account was named, or a site is down.
        Refused: a site knows no such account.
    """
    config = ConsortiumConfig.load(consortium)
    user, password = user or os.environ.get("FEDREC_USER"), password or secret("FEDREC_PASSWORD")
    if not user or not password:
        raise WrongInput("set FEDREC_USER and FEDREC_PASSWORD to your account at the institutions")
    from fedrec.scientist.syft_client import SyftSite, quiet

    def login(member: Any) -> SyftSite:
        try:
            return SyftSite(member.name, member.url, user, password, config.ca_path)
        except Refused as refusal:
            if refusal.code == "site.lost":
                raise Unreachable(
                    f"{refusal.reason}; start it with fedrec site serve, or mend its url in {consortium}"
                ) from None
            if refusal.code == "site.tls":
                raise Unreachable(f"{refusal.reason}. {refusal.next_step} in {consortium}") from None
            raise

    if bare := [member.name for member in config.member if not (member.url and member.key)]:
        raise WrongInput(f"{consortium}: url or key is missing for {', '.join(bare)}")
    with quiet(), ThreadPoolExecutor(len(config.member)) as pool:
        sites = list(pool.map(login, config.member))
    federation = Datasites(config, {member.name: site for member, site in zip(config.member, sites, strict=True)})
    federation.consortium = Path(consortium).absolute()
    return federation
