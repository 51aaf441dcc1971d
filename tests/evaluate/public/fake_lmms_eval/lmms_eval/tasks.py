"""As `lmms_eval.tasks`: tasks are YAML files with functions beside them."""

import importlib.util
import json
import re
from pathlib import Path

import yaml


class TaskManager:
    def __init__(self, verbosity="INFO", include_path=None, model_name=None):
        self.files = {path.stem: path for path in Path(include_path or "/nowhere").glob("*.yaml")}
        self.all_tasks = sorted(self.files)


class Task:
    VERSION = None

    def __init__(self, path):
        def function(loader, node):
            module, _, name = node.value.partition(".")
            spec = importlib.util.spec_from_file_location(module, path.parent / f"{module}.py")
            found = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(found)
            return getattr(found, name)

        class Loader(yaml.SafeLoader):
            pass

        Loader.add_constructor("!function", function)
        self.config = yaml.load(path.read_text(), Loader)
        self.VERSION = self.config["metadata"]["version"]
        rows = Path(self.config["dataset_kwargs"]["data_files"]["test"]).read_text()
        self.eval_docs = [json.loads(line) for line in rows.splitlines()]
        self.dataset = {"test": self.eval_docs}

    def get_config(self, key):
        return self.config.get(key)

    def doc_to_messages(self, doc):
        text = re.sub(r"{{(\w+)}}", lambda m: doc[m[1]], self.config["doc_to_text"])
        pictures = [{"type": "image", "url": one} for one in self.config["doc_to_visual"](doc)]
        return [{"role": "user", "content": [*pictures, {"type": "text", "text": text}]}]


def get_task_dict(task_name_list, task_manager=None, task_type="simple"):
    assert task_type == "chat"
    return {name: Task(task_manager.files[name]) for name in task_name_list}
