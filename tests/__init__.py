"""Tests of what crosses members."""
