"""`limbeck compare`: teacher, baseline and student answer the same picture side by side.

recipe ── models.py ──▶ Compared(name, teacher)       whose weights finished stages have made
Compared ── answering.py ──▶ a process of its own (worker.py), so that memory is one model's
picture + question ── questions.py ──▶ Sample ──▶ Reply(text, seconds, memory) of each model
server.py: a web page of our own on this machine     terminal.py: the same as a table
"""
