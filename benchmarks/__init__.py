"""What sessions cost, here and elsewhere; ``make bench``."""
