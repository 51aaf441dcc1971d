"""Public benchmarks: lmms-eval says what is asked and scores, Limbeck's models answer.

lmms_eval.py   the process in which it runs
stages.py      what is asked; a model's answers; their scores
"""
