"""Imports the library without the log lines of TensorFlow, XLA and JAX."""

import contextlib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

_STANDARD_ERROR = 2
# The C++ code of TensorFlow, XLA and JAX logs fatal errors only. Other errors also
# reach Python, as exceptions.
_LOG_LEVEL = ("TF_CPP_MIN_LOG_LEVEL", "3")


def import_library(show_logs: bool, with_tensorflow: bool) -> None:
    """Imports `tf_tickets`, and Keras with it.

    Args:
        show_logs: Whether to show what the backend logs. Otherwise logging is turned
            off, in child processes too. What the backend writes while it starts is
            shown only if the start fails.
        with_tensorflow: Whether Keras will import TensorFlow, which it does on other
            backends too, to set its seed for instance. It is then imported now.
    """
    if show_logs or "keras" in sys.modules:
        importlib.import_module("tf_tickets")
        return
    os.environ.setdefault(*_LOG_LEVEL)
    with interrupts_kept(), standard_error_held_back():
        importlib.import_module("tf_tickets")
        _start_backend(importlib.import_module("keras"), with_tensorflow)


@contextlib.contextmanager
def interrupts_kept() -> Iterator[None]:
    """Raises a KeyboardInterrupt after the block if libraries swallowed one in it.

    Python cannot raise it from a destructor, for instance, and imports run many.
    """
    before = signal.getsignal(signal.SIGINT)
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or before is not signal.default_int_handler:
        yield
        return
    came: list[bool] = []

    def note(*arguments):
        came.append(True)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, note)
    try:
        yield
    except Exception as error:
        if came:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt


def _start_backend(keras, with_tensorflow):
    # The first tensor makes the backend look for its devices and log what it finds.
    keras.ops.convert_to_tensor(0)
    if with_tensorflow:
        keras.utils.set_random_seed(0)


@contextlib.contextmanager
def standard_error_held_back() -> Iterator[None]:
    """Holds back what is written to standard error, and shows it if the block fails.

    C++ libraries write to the file descriptor before they read their log level. A
    child process keeps the text, so it is shown even if the interpreter crashes.
    """
    if not hasattr(os, "fork"):
        yield
        return
    keeper, writer = _fork_keeper()
    before = os.dup(_STANDARD_ERROR)
    os.dup2(writer, _STANDARD_ERROR)
    os.close(writer)
    failed = False
    try:
        yield
    except Exception:
        failed = True
        raise
    finally:
        sys.stderr.flush()
        if not failed:
            os.kill(keeper, signal.SIGKILL)
        # This closes the last writing end. The keeper then shows the text.
        os.dup2(before, _STANDARD_ERROR)
        os.close(before)
        os.waitpid(keeper, 0)


def _fork_keeper():
    """Returns the id of the child process and the descriptor that it reads from."""
    sys.stderr.flush()
    reader, writer = os.pipe()
    keeper = os.fork()
    if keeper:
        os.close(reader)
        return keeper, writer
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.close(writer)
        with open(reader, "rb") as pipe, open(_STANDARD_ERROR, "wb") as shown:
            shown.write(pipe.read())
    finally:
        os._exit(0)
