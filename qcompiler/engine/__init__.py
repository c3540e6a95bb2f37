"""Compiled engines: what the builder made of a model, read from its own listing."""
