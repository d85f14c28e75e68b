//! Chat with a model wherever it runs: in process or behind an OpenAI-compatible URL.
