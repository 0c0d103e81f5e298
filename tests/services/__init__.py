"""Throw-away database servers on loopback, started by the tests."""
