"""The command line, ``pyro-priors``: :func:`.main.main`, and one file for each command."""
