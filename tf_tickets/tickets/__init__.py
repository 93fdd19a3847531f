"""A ticket, its controls, and which ticket is best."""
