"""Speed and spread, measured: ``make bench``."""
