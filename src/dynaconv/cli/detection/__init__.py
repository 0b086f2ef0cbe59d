"""The commands of `dynaconv detect`, one file a command, no logic of their own."""
