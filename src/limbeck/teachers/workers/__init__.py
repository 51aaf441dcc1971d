"""Teachers that cannot share a process, or an environment, with Limbeck.

    process.py           starts such a process, asks it, and ends it
    worker_messages.py   what is said, and the loop of the process; numpy only
    mlx_worker.py        runs mlx-vlm
    vllm_worker.py       runs vLLM

The last three run under another Python, as a script, where no other file of Limbeck is to be seen.
"""
