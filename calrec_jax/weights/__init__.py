"""Reading of pretrained weights: GGUF, safetensors and packages."""
