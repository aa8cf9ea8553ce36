"""Engines for the tests: a crafted Orpheus checkpoint with a random SNAC (any token engine, no
sense in what it says), and the bundled voice, which really speaks."""

from __future__ import annotations

import importlib.util
import os
import random
import secrets
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

# The same examples in every run, however slow the machine is.
settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("repeatable")

# A shell starts background programs with SIGINT ignored, and they pass that on to those they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

if TYPE_CHECKING:
    from orpheus_plugin.engine.local import LocalEngine
    from orpheus_plugin.models.files import ModelFiles


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked for a machine that has what this one lacks."""
    from orpheus_plugin.models.devices import cuda_available, vllm_installed

    def deploys() -> bool:
        return importlib.util.find_spec("ray") is not None

    for name, is_here in (("deploy", deploys), ("gpu", cuda_available), ("vllm", vllm_installed)):
        marked = [item for item in items if item.get_closest_marker(name)]
        if marked and not is_here():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=f"no {name} here"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints what tests measured (`record_property`), also if they passed or ran in another
    process."""
    reports = [report for some in terminalreporter.stats.values() for report in some]
    for report in reports:
        if getattr(report, "when", None) == "call":
            for name, value in report.user_properties:
                terminalreporter.write_line(f"{name}: {value}")


@pytest.fixture(autouse=True)
def repeatable_seeds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns without a seed draw theirs here: other ones in each turn and test, the same in each
    run. So the length of what a crafted checkpoint speaks is the same in each run too."""
    numbers = random.Random(request.node.nodeid)
    monkeypatch.setattr(secrets, "randbits", numbers.getrandbits)


@pytest.fixture(scope="session")
def crafted_files() -> ModelFiles:
    """Well-formed frames of random codes, ending by themselves after some 50 frames; voices tara
    and leo."""
    import torch

    from orpheus_plugin.models.files import ModelFiles, ModelSpec
    from tests.support.checkpoints import SMALL_TEXT, crafted_checkpoint
    from tests.support.codecs import random_codec

    torch.set_num_threads(1)
    spec = ModelSpec("crafted", voices=("tara", "leo"), tags=("laugh",), license="none")
    return ModelFiles(spec, crafted_checkpoint(text=SMALL_TEXT), random_codec())


@pytest.fixture
async def crafted_engine(crafted_files: ModelFiles) -> AsyncIterator[LocalEngine]:
    """A running engine on `crafted_files`, small enough to start in a second."""
    from orpheus_plugin.engine.config import EngineConfig
    from orpheus_plugin.engine.local import LocalEngine

    engine = LocalEngine(EngineConfig(device="cpu", max_turns=8), files=crafted_files)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.aclose()
