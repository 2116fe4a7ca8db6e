"""One thread inside, what was before outside."""

import subprocess
import sys

import torch

from fedrec.core.threads import _libraries, one_thread


def threads() -> list[int]:
    return [library["num_threads"] for library in _libraries().info()]


def test_everything_runs_on_one_thread_inside_and_as_before_outside():
    torch.set_num_threads(2)
    before = threads()
    with one_thread():
        assert set(threads()) == {1}
        assert torch.get_num_threads() == 1
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
    assert threads() == before
    assert torch.get_num_threads() == 2


def test_threads_are_restored_after_an_error():
    torch.set_num_threads(2)
    try:
        with one_thread():
            raise ValueError
    except ValueError:
        assert torch.get_num_threads() == 2


def test_statistic_models_load_neither_torch_nor_pandas():
    code = (
        "import sys; from fedrec.institution import work; from fedrec import aggregation, models; "
        "models.Ease(l2=200.0); models.create('itemcf', {}); "
        "sys.exit(bool({'torch', 'pandas', 'pydantic', 'syft'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
