"""Everything that fedrec raises on purpose.

    FedrecError
    ├── WrongInput            exit 2: a file, setting or argument that the caller can mend
    │   ├── ConfigError       every problem of one TOML file, listed together
    │   ├── DataError         about rows; stays inside the institution
    │   └── Unreachable       a site or the network does not answer at the start
    ├── UnsafeSite            exit 1: a site's own attack on itself got through, so it does not serve
    └── Refused               exit 3: somebody said no, with a code; may cross an institution's border

A `Refused` names a limit and a code, never a row, a user or a path. A `DataError` must not leave
the institution: its text may speak about the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class FedrecError(Exception):
    """The base: the command line prints one line and ends with `exit_code`."""

    exit_code = 1


class WrongInput(FedrecError):
    """Something that was handed in is wrong; nothing has been started."""

    exit_code = 2


class ConfigError(WrongInput):
    """One TOML file with all its problems."""

    def __init__(self, file: str, problems: Sequence[str]) -> None:
        super().__init__(f"{file}: " + "; ".join(problems))
        self.file, self.problems = file, tuple(problems)


class DataError(WrongInput):
    """The rows are not what the schema says."""


class Unreachable(WrongInput):
    """A site, or the network, does not answer."""


class UnsafeSite(FedrecError):
    """A site found one of its defences missing."""


class Refused(FedrecError):
    """A site or the centre says no.

    Args:
        code: `part.reason`, listed in docs/errors.md.
        reason: what was wrong, without any value from the data.
        next_step: what the reader can do about it.
    """

    exit_code = 3

    def __init__(self, code: str, reason: str, next_step: str) -> None:
        super().__init__(f"{code}: {reason}. {next_step}")
        self.code, self.reason, self.next_step = code, reason, next_step

    def answer(self) -> dict[str, str]:
        """The refusal as a site's answer."""
        return {"status": "refused", "code": self.code, "reason": self.reason, "next_step": self.next_step}

    @classmethod
    def from_answer(cls, answer: Mapping[str, object]) -> Refused:
        """The refusal that a site's answer carries."""
        return cls(
            str(answer.get("code", "site.unknown")),
            str(answer.get("reason", "the site gave no reason")),
            str(answer.get("next_step", "ask the data owner")),
        )
