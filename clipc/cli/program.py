"""The program around the commands: the group ``clipc``, its exit codes, errors and warnings as lines."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
import warnings

import click

import clipc
from clipc.cli.messages import describe, note, one_line, print_line
from clipc.errors import ClipcWarning


class _Settings:
    """What holds for a whole run, whichever command it is."""

    def __init__(self):
        self.debug = os.environ.get("CLIPC_DEBUG", "") not in ("", "0")
        self.quiet = False


class _Program(click.Group):
    """The group of commands; turns exceptions and warnings into lines, and them into exit codes."""

    def main(self, args=None, prog_name=None, **extra):
        settings = _Settings()
        with warnings.catch_warnings():
            _print_warnings_as_notes(settings)
            code = self._run(args, settings, extra)
        sys.exit(code)

    def _run(self, args, settings, extra):
        extra["standalone_mode"] = False
        try:
            # click returns the exit code of --help and the like, and what the command returned: None.
            code = super().main(args, "clipc", obj=settings, **extra)
            if sys.stdout is not None:
                sys.stdout.flush()  # a failure is reported here, and not when the interpreter ends
            return code or 0
        except BrokenPipeError:
            _discard_output()
            return 1
        except click.UsageError as error:
            hint = f" (see {error.ctx.command_path} --help)" if error.ctx else ""
            print_line(f"clipc: {one_line(error.format_message()).rstrip('.')}{hint}")
            return 2
        except (click.exceptions.Abort, KeyboardInterrupt) as error:  # click makes the former of the latter
            _report(error, "interrupted", settings)
            return 130
        except Exception as error:
            _report(error, describe(error), settings)
            if isinstance(error, OSError):
                _discard_output()
            return 1


def _report(error, message, settings):
    if settings.debug:
        traceback.print_exception(type(error), error, error.__traceback__)
    else:
        print_line(f"clipc: {one_line(message)}")


def _print_warnings_as_notes(settings):
    """Print each `ClipcWarning` once, as a line that begins with ``note:``; other warnings as Python does."""
    otherwise = warnings.showwarning
    printed = set()

    def show(message, category, filename, lineno, file=None, line=None):
        if not issubclass(category, ClipcWarning):
            otherwise(message, category, filename, lineno, file, line)
        elif str(message) not in printed and not settings.quiet:
            printed.add(str(message))
            note(str(message))

    warnings.showwarning = show
    if not sys.warnoptions:  # what -W or PYTHONWARNINGS asks for stays
        warnings.simplefilter("always", ClipcWarning)


def _discard_output():
    """Let the rest of the output vanish, so that the interpreter does not complain of it when it ends."""
    with contextlib.suppress(OSError, ValueError, AttributeError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def set_debug(ctx, parameter, value):
    """Callback of --debug."""
    if value:
        ctx.ensure_object(_Settings).debug = True


def set_quiet(ctx, parameter, value):
    """Callback of --quiet."""
    if value:
        ctx.ensure_object(_Settings).quiet = True
    return value


def _print_version(ctx, parameter, value):
    if value and not ctx.resilient_parsing:
        click.echo(f"clipc {clipc.__version__}")
        ctx.exit()


# fmt: off
@click.group(
    cls=_Program,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version,
              help="Show the version and exit.")
@click.option("--debug", is_flag=True, is_eager=True, expose_value=False, callback=set_debug,
              help="Show where in the program an error arose (also: CLIPC_DEBUG=1).")
@click.pass_context
def main(ctx):
    """CLIP on this computer's processor: say which words fit a picture, and where in it.

    \b
      clipc classify photo.jpg dog cat           which of the labels fits the picture best?
      clipc detect photo.jpg dog cat -o b.png    where in the picture are they?
      clipc explain photo.jpg dog -o cam.png     which parts of the picture speak for a text?
      clipc embed photos/ -o photos.npy          pictures as vectors, for a search or statistics
      clipc evaluate zero-shot photos/           how often is a model right, on pictures with labels?
      clipc bias faces/ --preset nurse-doctor --group gender
                                                 does the model answer differently for groups?
      clipc models                               which models there are; also clipc download, clipc remove
      clipc info                                 what clipc uses on this computer
      clipc convert ViT-B-32.pt b32.safetensors  another kind of file for a model

    "clipc COMMAND --help" explains a command and has more examples.

    \b
    Completion with the Tab key, for bash (zsh and fish likewise):
      eval "$(_CLIPC_COMPLETE=bash_source clipc)"

    Exit code: 0 done, 1 an error, 2 a wrong call, 130 stopped with Ctrl-C.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(2)
# fmt: on
