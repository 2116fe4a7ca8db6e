"""What `fedrec demo` makes of the privacy that was asked for: nothing that was asked is dropped without a word."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from fedrec.cli.demo import demo
from fedrec.demo.story import Options, Story
from fedrec.exchange.privacy import Privacy


@pytest.mark.parametrize(
    ("asked", "members", "given"),
    [
        (Privacy("secure"), 3, Privacy("secure")),
        (Privacy("secure"), 2, None),
        (Privacy("ckks"), 2, None),
        (Privacy("secure", epsilon=4.0), 4, Privacy("secure", epsilon=4.0)),
        (Privacy("secure", epsilon=4.0), 2, Privacy(epsilon=4.0)),  # the noise stays, at each of them
        (None, 4, None),
    ],
)
def test_the_demo_says_what_the_centre_sees_and_keeps_the_noise(asked, members, given):
    said: list[str] = []
    assert Story(Options(privacy=asked), said.append)._privacy(members) == given
    told = " ".join(said)
    assert ("centre sees each" in told) == (given is None or given.sum == "plain")
    assert ("epsilon 4" in told) == (given is not None and given.epsilon == 4.0)


@pytest.mark.parametrize(
    "options",
    [
        ["--plain", "--secure-sum"], ["--plain", "--privacy", "epsilon=1"], ["--encrypt", "ckks", "--plain"],
        ["--privacy", "epsilon"], ["--privacy", "epsilon=x"], ["--privacy", "sigma=1"], ["--privacy", "epsilon=0"],
    ],
)  # fmt: skip
def test_wishes_that_exclude_each_other_or_are_none_are_refused(options):
    done = CliRunner().invoke(demo, options)
    assert done.exit_code == 2
    assert "--p" in done.output
