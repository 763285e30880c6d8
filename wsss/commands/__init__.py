"""One module for each command for one's own photographs: `add_arguments` and `main`."""
