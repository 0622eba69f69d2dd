"""Scripts behind the Makefile: set-up, the workspace build, the environment. Standard library only."""
