"""The server under test, given by the environment (see `cargo xtask test`)."""

import os

import openai
import pytest


def needed(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        pytest.exit(f"{name} is not set; run `cargo xtask test --only python`", returncode=2)
    return value


@pytest.fixture(scope="session")
def url() -> str:
    return needed("YANTRA_URL").rstrip("/") + "/v1"


@pytest.fixture(scope="session")
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key=needed("YANTRA_API_KEY"), max_retries=0, timeout=120)


@pytest.fixture(scope="session")
def async_client(url: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=url, api_key=needed("YANTRA_API_KEY"), max_retries=0, timeout=120)


@pytest.fixture(scope="session")
def model() -> str:
    return needed("YANTRA_CHAT_MODEL")


@pytest.fixture(scope="session")
def embedding_model() -> str:
    return needed("YANTRA_EMBEDDING_MODEL")
