"""The shop's pages, one module for each corner of the shop."""
