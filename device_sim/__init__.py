"""Vehicles that know what verdict each of their messages deserves."""
