//! GGUF, safetensors and Hugging Face model directories: read and write.
