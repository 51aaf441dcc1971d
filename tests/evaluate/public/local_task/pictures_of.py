"""A task of the tests, as lmms-eval wants it."""

from PIL import Image


def pictures(doc):
    return [Image.open(doc["picture"]).convert("RGB")]


def scored(doc, results):
    return {"right": float(results[0].strip() == doc["answer"])}
