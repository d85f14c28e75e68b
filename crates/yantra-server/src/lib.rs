//! The HTTP server: OpenAI-compatible API, metrics, console.
