"""How sentences call the tasks of a table."""

import pandas as pd

from claw.records import primary_columns
from claw.words import in_words

FEW = 3  # tasks that a sentence names


def few_tasks(table: pd.DataFrame) -> str:
    """The tasks of a table by name, such as "arc_easy and piqa"; empty where it names none, or more than three."""
    said = {str(tasks) for tasks in table["tasks"].dropna()} if "tasks" in table else set()
    tasks = said.pop().split("+") if len(said) == 1 else list(primary_columns(table)) if not said else []
    return in_words(tasks) if len(tasks) <= FEW else ""
