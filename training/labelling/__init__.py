"""Labelled pairs of real pictures: chosen by order or by likeness, matched by a strong teacher, checked by geometry."""
