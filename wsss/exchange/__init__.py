"""Masks and networks out into the tools that people use, and back; one file for each format."""
