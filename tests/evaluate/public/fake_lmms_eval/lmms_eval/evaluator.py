"""As `lmms_eval.evaluator`."""

import copy
import math
from types import SimpleNamespace

from lmms_eval.tasks import get_task_dict


def simple_evaluate(model, tasks, limit, task_manager, log_samples, bootstrap_iters, **_):
    found = {"results": {}, "versions": {}, "n-samples": {}, "higher_is_better": {}}
    loaded = get_task_dict(tasks, task_manager, "simple" if model.is_simple else "chat")
    requests = []
    for name, task in loaded.items():
        model.task_dict[name] = task.dataset
        for number in range(min(limit or len(task.eval_docs), len(task.eval_docs))):
            options = copy.deepcopy(task.get_config("generation_kwargs"))
            args = ("", task.doc_to_messages, options, number, name, "test")
            requests.append(SimpleNamespace(args=args))
    answers = model.generate_until(requests)
    assert len(answers) == len(requests)
    for name, task in loaded.items():
        own = [(r, a) for r, a in zip(requests, answers, strict=True) if r.args[4] == name]
        values = [
            task.config["process_results"](task.eval_docs[request.args[3]], [answer])["right"]
            for request, answer in own
        ]
        mean = sum(values) / len(values)
        spread = math.sqrt(mean * (1 - mean) / max(len(values) - 1, 1))
        found["results"][name] = {
            "alias": name,
            "right,none": mean,
            "right_stderr,none": spread,
            "right_stderr_clt,none": spread,
            "submission,none": None,
        }
        found["versions"][name] = task.VERSION
        found["n-samples"][name] = {"original": len(task.eval_docs), "effective": len(values)}
        found["higher_is_better"][name] = {"right": True}
    return found
