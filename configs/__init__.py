"""Recipes: leaf files, one per experiment, each with its command and its result."""
