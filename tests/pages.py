"""Pages of the documentation, for tests of what they say."""

import pathlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def words(page):
    """Returns the text of a page in `docs` without its line breaks."""
    return " ".join((ROOT / "docs" / page).read_text("utf-8").split())


def sign(mean):
    """Returns 1 or -1 if the interval of 95 % of a mean excludes 0, and 0 otherwise."""
    low, high = mean.interval()
    return (low > 0) - (high < 0)


def within(found, low, high):
    """Returns whether all numbers are in a range."""
    return all(low <= number <= high for number in found)
