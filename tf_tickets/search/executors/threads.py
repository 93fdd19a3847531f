"""The number of threads of a process, on which the last bits of results depend."""

from tf_tickets import arguments

_VARIABLES = (
    # TensorFlow.
    *("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"),
    # XLA on the CPU, as JAX uses it.
    "NPROC",
    # Libraries of linear algebra.
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"),
)


def thread_variables(threads: int) -> dict[str, str]:
    """Returns the environment variables that limit the threads of a process.

    The backend reads them before its first computation. Set them before the process
    starts, or at the top of a program before Keras is imported. On the command line,
    `tf-tickets frontier --threads 1` does so.

    Args:
        threads: The number of threads of one computation.

    Example:

    >>> thread_variables(1)["TF_NUM_INTRAOP_THREADS"]
    '1'
    """
    arguments.check_counts(threads=threads)
    return {name: str(threads) for name in _VARIABLES}
