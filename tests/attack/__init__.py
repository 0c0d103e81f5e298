"""Attacks in numbers: ``python -m tests.attack`` (``make attack``)."""
