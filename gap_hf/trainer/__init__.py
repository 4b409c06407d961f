"""The Hugging Face Trainer side: names, options, the callback and the model card."""
