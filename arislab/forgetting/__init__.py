"""A person is forgotten: what is known of a candidate goes from a root, and a receipt without their data stays.

``person`` says who it is and which texts are theirs alone, ``contents`` takes them out of one file, ``erasing`` goes
through all files of a root. It does not know what lies outside of the root: backups, other roots, commits of git,
servers elsewhere.
"""

from arislab.forgetting.erasing import Plan, forget, plan, unfinished

__all__ = ["Plan", "forget", "plan", "unfinished"]
