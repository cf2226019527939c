"""Teachers: who writes the labels of the warm start."""
