//! Wire types of the OpenAI API and of Yantra's own endpoints.
