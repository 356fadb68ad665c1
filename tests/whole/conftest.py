"""What several tests of the rig stand on."""

import os

import pytest

from deploy import embedded
from deploy.embedded.command import STATE
from loadtest.chaos.stage import Servers


@pytest.fixture
async def pair(servers: embedded.Addresses) -> Servers:
    """This run's own servers, with the means to tell what they use."""
    pair = Servers(STATE / f"test-{os.getpid()}")
    await pair.up()
    assert pair.kafka == servers.kafka
    return pair
