"""The report of a run: a template, a style sheet, and the plain data that fill them."""
