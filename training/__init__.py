"""The recipe of the bundled voice: text, speech, codes, codec, language model, export, evaluation.

Run one step at a time with ``python -m training STEP --work DIR``; see ``training/README.md``.
"""
