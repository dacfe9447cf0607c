"""Differentiable image operations on the device."""
