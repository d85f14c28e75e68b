//! Tokenisers, incremental detokenisation, chat templates.
