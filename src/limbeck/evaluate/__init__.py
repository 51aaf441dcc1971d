"""Evaluation: models answer, answers are scored."""
