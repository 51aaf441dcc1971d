"""The recipe's section `public`: benchmarks of lmms-eval that the models are run on."""

from __future__ import annotations

from pydantic import Field, field_validator

from limbeck.recipe.component import Section


class Public(Section):
    """Public benchmarks: lmms-eval asks and scores, the recipe's models answer as they always do.

    lmms-eval runs in a process of its own and may have an environment of its own. It may download
    the data of a task, as its own settings (HF_HUB_OFFLINE, HF_HOME) allow.
    """

    tasks: tuple[str, ...] = Field(
        min_length=1, description="names of lmms-eval, e.g. mmbench_en_dev, mmmu_val"
    )
    models: tuple[str, ...] | None = Field(
        default=None, description="arms; default: those of evaluate.models that look at pictures"
    )
    limit: int | None = Field(
        default=None, gt=0, description="first samples of each task; then it is no full result"
    )
    include: str | None = Field(
        default=None, description="folder with tasks of your own, in lmms-eval's layout"
    )
    python: str = Field(
        default="",
        description="a Python that has lmms-eval; default: LIMBECK_LMMS_EVAL_PYTHON, else the one "
        "that runs Limbeck",
    )
    max_new_tokens: int | None = Field(
        default=None, gt=0, description="least of this and the task's own limit; null: the task's"
    )
    batch_size: int = Field(default=8, gt=0, description="samples answered at once")
    timeout_seconds: float = Field(
        default=7200.0, gt=0, description="longest wait for lmms-eval, downloads of data included"
    )

    @field_validator("tasks", "models")
    @classmethod
    def _each_once(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if names is not None and len(set(names)) != len(names):
            raise ValueError("lists a name twice")
        return names
