"""The command line: ``clipc classify``, ``detect``, ``explain`` and the other commands.

Results go to standard output, everything else (progress, notes, errors) to standard error. An error is
one line and exit code 1, a wrong call exit code 2, Ctrl-C exit code 130.

Each command has a module of its name; ``download`` and ``remove`` are in that of ``models``. Help and
completion import them all, and shall come at once: what only the work of a command needs is not imported at
the top.
"""

from clipc.cli import bias, classify, convert, detect, embed, evaluate, explain, info, models
from clipc.cli.program import main

__all__ = ["main"]

main.add_command(bias.bias)
main.add_command(classify.classify)
main.add_command(convert.convert)
main.add_command(detect.detect)
main.add_command(embed.embed)
main.add_command(evaluate.evaluate)
main.add_command(explain.explain)
main.add_command(info.info)
main.add_command(models.models)
main.add_command(models.download)
main.add_command(models.remove)
