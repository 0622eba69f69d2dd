"""The command line: ``semantic-matcher …``. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

# What a shell adds to the number of the signal that ended a command.
_SIGNALLED = 128


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; default: those of this process.

    Returns:
        Exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 terminated, 129 hung up. What went wrong stands
        in one line on stderr; a defect of the program shows its traceback.
    """
    _open_closed_streams()
    with _ended_in_order():
        try:
            code = _run(argv)
            if sys.stdout is not None:
                sys.stdout.flush()
            return code
        except KeyboardInterrupt:
            _complain("interrupted")
            return _SIGNALLED + signal.SIGINT
        except _Ended as ended:
            _complain(f"ended by {signal.Signals(ended.number).name}")
            return _SIGNALLED + ended.number
        except BrokenPipeError:
            # Whoever read our output (head, less) has seen enough.
            _forget_output()
            return 1
        except Exception as error:
            from semantic_matcher_core.errors import of_the_machine
            from semantic_matcher_core.io.atomic import is_write_failure

            reason = of_the_machine(error)
            # Only what is printed is written without a name.
            if not reason and isinstance(error, OSError) and is_write_failure(error):
                _forget_output()
                reason = f"cannot write the output: {error.strerror}"
            if not reason:
                raise
            _complain(reason)
            return 1


def _run(argv: Sequence[str] | None) -> int:
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
        if code == _SIGNALLED + signal.SIGINT:  # what newer typer makes of Ctrl-C
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except usage_error as error:
        return _usage(error)
    except SemanticMatcherError as error:
        _complain(str(error))
        return 2 if isinstance(error, ConfigError) else 1
    except typer.Abort as error:
        # What typer makes of EOFError, and older ones of Ctrl-C.
        raise error.__cause__ or KeyboardInterrupt from None


class _Ended(BaseException):
    """SIGTERM or SIGHUP came: what is half-written is removed on the way out, as after Ctrl-C."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def _ended_in_order() -> Iterator[None]:
    def end(number: int, _: object) -> None:
        raise _Ended(number)

    # What this process was started to ignore (nohup) stays ignored, and handlers of a caller stay theirs.
    mine = threading.current_thread() is threading.main_thread()
    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if mine and signal.getsignal(n) is signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, end)
    before = sys.unraisablehook
    if mine:
        sys.unraisablehook = functools.partial(_send_again, before)
    try:
        yield
    finally:
        sys.unraisablehook = before
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _send_again(otherwise: Callable[[Any], object], found: Any) -> None:
    # A signal that meets a finalizer or a hook of fork is lost there, with a traceback: it comes again a little later.
    lost = found.exc_value
    if isinstance(lost, _Ended | KeyboardInterrupt):
        number = lost.number if isinstance(lost, _Ended) else signal.SIGINT
        timer = threading.Timer(0.05, os.kill, (os.getpid(), number))
        timer.daemon = True
        timer.start()
    else:
        otherwise(found)


def _open_closed_streams() -> None:
    """Open a closed stdin, stdout or stderr (``2>&-``), which would otherwise become the next file that is opened."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # for as long as the process lives


def _forget_output() -> None:
    # Python would complain once more when it closes stdout.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _usage(error: Exception) -> int:
    message = error.format_message()  # type: ignore[attr-defined]
    if type(error).__name__ == "NoArgsIsHelpError":
        # Its message is the help itself (older typer), or the help is printed already.
        error.show()  # type: ignore[attr-defined]
        return 2
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "semantic-matcher"
    # Newer typer checks values with pydantic, which says what they should be and not what they are.
    errors = getattr(error.__cause__, "errors", None)
    given = f", got {errors()[0]['input']!r}" if errors is not None else ""
    _complain(f"{' '.join(message.split()).rstrip('.')}{given}; see: {command} --help")
    return 2


def _complain(message: str) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
