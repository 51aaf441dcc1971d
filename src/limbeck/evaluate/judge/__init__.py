"""A model judges the answers: it is asked, its replies are read, and it is tried first.

questions.py  what it is asked: two answers in both orders, or one; known pairs; the prompt
replies.py    what a reply says, if it says anything
tallies.py    rates and mean grades with intervals, how often the order decided
trial.py      the known pairs: how often it was right, and whether it is of use
stage.py      all of it as a stage
"""
