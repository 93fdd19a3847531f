"""Models that users have, each with data, and checks that run on all of them."""
