"""What two requests at once do to sessions, here and elsewhere, counted.

``make stress-peers``, or ``python3 -m benchmarks.peers``.
"""
