"""The agent: runs inside a job, starts the container, makes its service reachable, ends it.

Python >= 3.8 and its standard library only: it is carried into jobs as a zip application (see
gateway.render.bundle), so its modules import each other relatively and nothing else of Sluice.
"""
