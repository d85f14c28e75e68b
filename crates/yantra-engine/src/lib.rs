//! Scheduler, paged KV cache, prefix tree, sampling: synchronous, on its own thread.
