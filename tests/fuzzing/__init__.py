"""Fuzzing: random files, command lines and more, each tried in a process of its own under limits of time and memory.

``make fuzz`` runs all parts for ten minutes, the tests for some seconds. A part is a module with a function that makes
cases and one that checks a case; ``__main__.py`` lists the parts. What is found is written into a folder, and becomes a
test beside the code that failed.
"""
