"""Models of keras.applications without some of their channels."""

from result_tables.reading import grid, load, percent, table

FILE = "shrink_applications_tensorflow"


@table
def shrink_applications():
    """How far the small model is from the masked one, and how small it is."""
    rows = [
        [
            row["model"],
            f"{row['units']:,}",
            percent(row["params"]),
            percent(row["macs"]),
            _power(row["error"]),
            _power(row["error_float64"]) if "error_float64" in row else "",
            f"{row['change']:.2f}",
            f"{row['seconds_find']:.1f}",
            f"{row['seconds_rebuild']:.1f}",
        ]
        for row in load(FILE)["rows"]
    ]
    head = ["model", "units", "parameters left", "multiply-adds left"]
    head += ["difference, float32", "difference, float64", "masked and dense"]
    return grid([*head, "find, s", "rebuild, s"], rows)


def _power(value):
    return "0" if value == 0 else f"{value:.0e}"
