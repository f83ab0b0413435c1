"""The kinds of things that can be saved, one module each."""
