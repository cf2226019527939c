"""The server against its committed description, with requests that nobody would think of."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import CHECKS
from support.serving import WAIT_S, ScriptedEngine, scripted_nla

from nlakit.serve.app import create_app
from nlakit.serve.openapi import PATH
from nlakit.serve.settings import Settings

NAMES = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)
EXAMPLES = 12
schema = schemathesis.openapi.from_path(PATH)
pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    app = create_app(
        scripted_nla(ScriptedEngine()), Settings(data_dir=tmp_path_factory.mktemp("d"))
    )
    config = uvicorn.Config(app, log_config=None)
    config.port = 0
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
    database=None,
)
def test_no_finding(case, address):
    checks = [CHECKS.get_one(name) for name in NAMES]
    case.call_and_validate(base_url=address, checks=checks, timeout=WAIT_S)
