"""The batch server: OpenAI Files and Batches over HTTP, in front of a local model or of other chat servers.

``app`` puts it together. The way of a batch: ``routes`` (taken), ``store`` (kept), ``scan`` (its lines), ``runner``
(its life), ``gate`` (its turn), ``engines`` (answered), ``writes`` and ``spools`` (on disk).
"""
