"""The verbs of the command line as functions: structures in, results that can be looked at out.

``import potstill; potstill.distil("pool.extxyz", 100, out="distilled")``. Where ``overrides`` are taken, they are what
``--set`` is on the command line: ``{"train.steps": 2000}``. ``tell`` gets lines of progress; ``tell=print`` shows them.
The names load from :mod:`potstill` when they are first used.
"""
