"""Tables, counts and pictures of what was done."""
