"""Damaged and hostile files, and processes killed at any moment."""
