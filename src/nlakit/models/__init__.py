"""Target, verbalizer and reconstructor over Hugging Face causal language models."""
