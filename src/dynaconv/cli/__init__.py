"""The command line: `dynaconv COMMAND ...`, one file a command, no logic of its own."""
