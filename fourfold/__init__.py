"""Fourfold: one model artifact, four ways to serve it, behind the Amazon SageMaker API."""

__version__ = "0.1.0"
