"""The command line: ``semantic-matcher …``. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; default: those of this process.

    Returns:
        Exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted. What went wrong stands in one line on stderr;
        a defect of the program shows its traceback.
    """
    import typer

    from semantic_matcher_core.cli.app import app
    from semantic_matcher_core.cli.logs import quiet_libraries, show_own_logs
    from semantic_matcher_core.errors import ConfigError, SemanticMatcherError

    # typer has no public name for the errors of its parser; BadParameter is one of them.
    usage_error: type[Exception] = typer.BadParameter.__base__  # type: ignore[assignment]
    quiet_libraries()
    show_own_logs()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A file may be called what the terminal's encoding does not have.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = app(
            args=list(sys.argv[1:] if argv is None else argv), prog_name="semantic-matcher", standalone_mode=False
        )
        return code if isinstance(code, int) else 0
    except usage_error as error:
        return _usage(error)
    except SemanticMatcherError as error:
        _complain(str(error))
        return 2 if isinstance(error, ConfigError) else 1
    except (KeyboardInterrupt, typer.Abort):
        _complain("interrupted")
        return 130
    except BrokenPipeError:
        # Whoever read our output (head, less) has seen enough; Python would complain once more when it closes stdout.
        import os

        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _usage(error: Exception) -> int:
    message = error.format_message()  # type: ignore[attr-defined]
    if type(error).__name__ == "NoArgsIsHelpError":
        # Its message is the help itself (older typer), or the help is printed already.
        error.show()  # type: ignore[attr-defined]
        return 2
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "semantic-matcher"
    _complain(f"{' '.join(message.split()).rstrip('.')}; see: {command} --help")
    return 2


def _complain(message: str) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
