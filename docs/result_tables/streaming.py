"""A search over files that are streamed: memory, and a kill."""

from result_tables.reading import exists, grid, load, table

_BACKENDS = {"TensorFlow": "tensorflow", "JAX": "jax"}


@table
def streaming():
    rows = []
    for title, backend in _BACKENDS.items():
        if not exists(f"streaming_{backend}"):
            continue
        found = load(f"streaming_{backend}")
        runs = found["runs"]
        rows.append(
            [
                title,
                f"{found['images']:,} JPEG, {found['bytes_of_files'] / 1e6:,.0f} MB",
                f"{found['bytes_decoded'] / 1e6:,.0f} MB",
                f"{runs['memory']['peak_megabytes']:,} MiB",
                f"{runs['search']['peak_megabytes']:,} MiB",
                f"{runs['search']['seconds']:.0f} s",
                "yes" if found["equal_tickets"] else "no",
            ]
        )
    return grid(
        [
            *("backend", "files", "decoded", "memory of one training step"),
            *("memory of the search", "time", "same tickets after SIGKILL"),
        ],
        rows,
    )
