"""Tickets, their controls, and the choice of the best one."""
