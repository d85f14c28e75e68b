"""What the generated requests need to be answered quickly: models that are there, and short answers."""

import os

import schemathesis

CHAT_MODEL = os.environ["YANTRA_CHAT_MODEL"]
EMBEDDING_MODEL = os.environ["YANTRA_EMBEDDING_MODEL"]
EMBEDDING_PATHS = ("/v1/embeddings", "/v1/rerank", "/v1/score")
# Paths that generate, and what they call the length of an answer.
LENGTHS = {
    "/v1/chat/completions": "max_tokens",
    "/v1/completions": "max_tokens",
    "/v1/messages": "max_tokens",
    "/v1/responses": "max_output_tokens",
}
MAX_TOKENS = 4


@schemathesis.hook
def before_load_schema(context, raw_schema):
    # OpenAPI 3.1 has no words for events: their schemas are those of their data, which Schemathesis takes for the events'.
    for operations in raw_schema["paths"].values():
        for operation in operations.values():
            for response in operation["responses"].values():
                response.get("content", {}).get("text/event-stream", {}).pop("schema", None)


@schemathesis.hook
def before_call(context, case, kwargs):
    body, path = case.body, case.operation.path
    if not isinstance(body, dict):
        return
    if isinstance(body.get("model"), str):
        body["model"] = EMBEDDING_MODEL if path in EMBEDDING_PATHS else CHAT_MODEL
    if path in LENGTHS:
        body.setdefault(LENGTHS[path], MAX_TOKENS)
        for name in (LENGTHS[path], "max_completion_tokens"):
            if is_above(body.get(name), MAX_TOKENS):
                body[name] = MAX_TOKENS
        for name in ("n", "best_of"):
            if is_above(body.get(name), 2):
                body[name] = 2


def is_above(value, most):
    return isinstance(value, int) and not isinstance(value, bool) and value > most
