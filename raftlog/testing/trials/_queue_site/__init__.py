"""The project of the trials of queue and schedule: tasks whose effects and completions can be counted."""
