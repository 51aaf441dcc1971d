"""Calls to a model behind an OpenAI-compatible server: paid for once, whatever goes wrong.

    server.py         address, key, limits and prices; the recipe's fields
    prompts.py        a sample as the JSON of a request, pictures in it
    replies.py        what a response means: an answer, a refusal, or a reason to try again
    pace.py           rate limits, pauses and back-off
    ledger.py         the answers that were paid for, on disk
    account.py        what a job has used, and whether it may use more
    client.py         one call with its retries
    window.py         many calls at once, from a thread with an event loop
    vocabulary.py     the server's tokens as ids of a tokenizer
    distributions.py  log-probabilities in a response as a `TopK` signal

`limbeck.teachers.openai` makes a teacher of it.
"""
