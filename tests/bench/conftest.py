"""Tests of the benchmark's arithmetic and report; nothing is measured here."""
