"""The student's model card in the format of the Hugging Face hub, from the assembled results alone.

The front matter follows https://huggingface.co/docs/hub/model-cards; what is not known is left out
of it, and said to be so in the text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from limbeck.report import cost_tables, fact_tables, failure_tables, score_tables
from limbeck.report.format import count, duration
from limbeck.report.licences import MADE_HERE, hub_id
from limbeck.report.section import Answers, Finding, Findings, present
from limbeck.report.table import Results

LICENCE_ID = re.compile(r"[a-z0-9][a-z0-9.+-]*")
LICENCES = {"cc0-1.0": "cc0-1.0", "gpl-3.0-only": "gpl-3.0", "agpl-3.0-only": "agpl-3.0"}
"""SPDX identifiers that the hub writes otherwise than in lower case."""
TASK = "image-text-to-text"


def card_of(results: Results) -> dict[str, Any]:
    """What the template of the card is rendered with."""
    floors = results["floors"]
    looks = Findings(
        "Does it look at the pictures?",
        tuple(Finding(f["outcome"], f["sentence"]) for f in floors),
    )
    failing = failure_tables.groups_table(results)

    return {
        "results": results,
        "front_matter": yaml.safe_dump(front_matter(results), sort_keys=False, allow_unicode=True),
        "about": _about(results),
        "answers": present(Answers(tuple(results["answers"]))),
        "training": _training(results),
        "scores": present(
            score_tables.scores_table(results), score_tables.differences_table(results)
        ),
        "costs": present(cost_tables.savings_table(results), cost_tables.machines_table(results)),
        "limits": present(looks, failing, score_tables.lengths_table(results)),
        "licences": present(fact_tables.licences_table(results)),
        "provenance": present(
            fact_tables.stages_table(results),
            fact_tables.facts_table("versions", "Versions", results["versions"], "package"),
        ),
        "max_new_tokens": (results["recipe"].get("evaluate") or {}).get("max_new_tokens", 128),
    }


def front_matter(results: Results) -> dict[str, Any]:
    """The card's metadata."""
    recipe = results["recipe"]
    found: dict[str, Any] = {
        **_licence(results),
        "library_name": "transformers",
        "pipeline_tag": TASK,
        "tags": ["knowledge-distillation", "vision-language", "limbeck"],
    }
    bases = [hub for name in _weights(recipe.get("student") or {}) if (hub := hub_id(name))]
    if bases:
        found["base_model"] = bases
        found["base_model_relation"] = "finetune"
    if dataset := hub_id((recipe.get("data") or {}).get("name")):
        found["datasets"] = [dataset]
    metrics = _metrics(results)
    if metrics:
        found["metrics"] = [metric["type"] for metric in metrics]
        found["model-index"] = [
            {
                "name": results["name"],
                "results": [
                    {
                        "task": {"type": TASK},
                        "dataset": _dataset(results, dataset),
                        "metrics": metrics,
                    }
                ],
            }
        ]
    return found


def _metrics(results: Results) -> list[dict[str, Any]]:
    """The student's scores; interval, n and seeds go with each."""
    scores = results["evaluation"]
    student = next((arm for arm in scores["arms"] if arm["arm"] == "student"), None)
    found = []
    for metric in scores["metrics"]:
        score = (student or {"scores": {}})["scores"].get(metric["kind"])
        if not score or score["mean"] is None:
            continue
        arguments = {
            "n": score["n"],
            "confidence": scores["confidence"],
            "low": score["low"],
            "high": score["high"],
            "seeds": len(score.get("per_seed") or ()) or 1,
        }
        found.append(
            {
                "type": metric["kind"],
                "name": metric["name"],
                "value": score["mean"],
                "args": arguments,
            }
        )
    return found


def _dataset(results: Results, hub_id: str | None) -> dict[str, Any]:
    recipe = results["recipe"]
    source = str((recipe.get("data") or {}).get("source", "data"))
    split = (recipe.get("evaluate") or {}).get("split")
    found = {"type": hub_id or source, "name": hub_id or source}
    return {**found, **({"split": split} if split else {})}


def _licence(results: Results) -> dict[str, str]:
    """The student's licence as the hub writes it; weights made here have none until one is set."""
    rows = [row for row in results["licences"] if row["of"] == "student"]
    known = {row["licence"] for row in rows}
    if len(known) != 1 or known <= {None, MADE_HERE}:
        return {"license": "unknown"}
    licence = str(known.pop())
    word = LICENCES.get(licence.lower(), licence.lower())
    if LICENCE_ID.fullmatch(word):
        return {"license": word}
    return {"license": "other", "license_name": re.sub(r"\W+", "-", licence.lower()).strip("-")}


def _weights(section: Mapping[str, Any]) -> list[Any]:
    compose = section.get("compose") or {}
    return [section.get("model"), compose.get("vision"), compose.get("language")]


def _named(section: Mapping[str, Any]) -> str:
    names = [hub for name in _weights(section) if (hub := hub_id(name))]
    if names:
        return " and ".join(names)
    if section.get("build"):
        return f"a {section['build'].get('family', 'model')} with weights made here"
    if section.get("inherit"):
        return "layers of the teacher"
    return "a model in a local folder" if section.get("model") else "a model that is not named"


def _about(results: Results) -> str:
    recipe = results["recipe"]
    members = (recipe.get("teacher") or {}).get("teachers") or [recipe.get("teacher") or {}]
    teachers = " and ".join(dict.fromkeys(_named(member) for member in members))
    source = (recipe.get("data") or {}).get("source", "data")
    return (
        f"A vision-language model: {_named(recipe.get('student') or {})}, distilled from "
        f"{teachers} on {source}."
    )


def _training(results: Results) -> list[tuple[str, str]]:
    """How the student came about, from the recipe and from what its training recorded."""
    recipe = results["recipe"]
    losses = [
        f"{loss.get('kind')} ({loss.get('direction') or loss.get('target') or 'teacher'}), "
        f"weight {loss.get('weight')}"
        for loss in recipe.get("losses") or ()
    ]
    trained = {
        m["id"]: results["training"][m["id"]]
        for m in results["models"]
        if m["arm"] == "student" and m["id"] in results["training"]
    }
    facts = [("losses", "; ".join(losses) or "not recorded")]
    if steps := {found["steps"] for found in trained.values() if found["steps"]}:
        facts.append(("optimiser steps", " / ".join(count(n) for n in sorted(steps))))
    seeds = [m["seed"] for m in results["models"] if m["arm"] == "student"]
    facts.append(("seeds", ", ".join(str(s) for s in seeds if s is not None) or "not recorded"))
    splits = results["data"]["facts"].get("splits")
    if isinstance(splits, Mapping):
        facts.append(("samples", ", ".join(f"{name} {count(n)}" for name, n in splits.items())))
    if times := [found["seconds"] for found in trained.values() if found.get("seconds")]:
        facts.append(("time a training", duration(sum(times) / len(times))))
    adapter = (recipe.get("student") or {}).get("adapter")
    how = "in full" if not adapter else f"{adapter['kind']}, rank {adapter['rank']}"
    return [*facts, ("trained", how)]
