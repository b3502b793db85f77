"""The paper's experiments as tasks: VTAB-1k, few-shot and domain generalisation, from their published folders."""

from __future__ import annotations

from glora.protocols.evaluation import TaskScore, evaluate_task, interpolate, open_task, parse_alphas
from glora.protocols.make import PROTOCOLS, Protocol, check_protocol, tasks
from glora.protocols.task import Task, TestSet

__all__ = [
    "PROTOCOLS",
    "Protocol",
    "Task",
    "TaskScore",
    "TestSet",
    "check_protocol",
    "evaluate_task",
    "interpolate",
    "open_task",
    "parse_alphas",
    "tasks",
]
