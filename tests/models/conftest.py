"""The real models, once a session."""

from __future__ import annotations

import pytest
from support.real_models import SOURCES, RealModel, real_model


@pytest.fixture(scope="session", params=SOURCES)
def real(request: pytest.FixtureRequest) -> RealModel:
    return real_model(request.param)


@pytest.fixture(scope="session")
def smollm2() -> RealModel:
    return real_model("smollm2")
