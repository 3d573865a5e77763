"""What every table and column means: the contract that the lake checks on each write.

One real row of ``training_data_raw``::

    custom_id='r-0b6f…' candidate_id='s1-000017' task='candidate_evaluation' sample=0 status='ok'
    llm_output='{"strengths": ["worked 7 years as …"], …, "score": 0.88, "recommendation": "hire"}'

Columns named ``*_json`` do not exist: a column that holds JSON is a String, and its description says so. A column that
is added later must be one that may be null, as it is in older rows and versions.
This module does not know where or how a table is stored.
"""

import hashlib

import polars as pl

from arislab.errors import LakeError, closest
from arislab.lake.contract import Column, Contract, checked

SPLITS = ("train", "validation", "test")
STATUSES = ("ok", "truncated", "refused", "empty", "error", "unavailable", "expired", "lost", "cancelled")
"""What became of a request. ok, truncated, refused, empty: an answer came and is kept. unavailable (failures that
pass), expired: none came; running the phase again sends it again. error (refused for good), lost (gone at the server),
cancelled: none came; sent again with ``resend``."""
PLANTED = ("gold", "repeat")
DECISIONS = ("approve", "reject", "edit", "label", "flag", "skip", "undo", "adjudicate")

_TIME = pl.Datetime("us", "UTC")


def _text(
    doc: str, *, required: bool = False, allowed: tuple[str, ...] = (), volatile: bool = False, names_run: bool = False
) -> Column:
    return Column(pl.String, doc, required=required, allowed=allowed, volatile=volatile, names_run=names_run)


def _number(doc: str, *, low: float | None = None, high: float | None = None, volatile: bool = False) -> Column:
    return Column(pl.Float64, doc, low=low, high=high, volatile=volatile)


_RUN = {
    "run_id": _text("run that wrote the row; 'interactive' for a notebook run by hand", required=True),
    "created_at": Column(_TIME, "when the row was written, UTC", required=True),
}
_INTEGER, _FLAG, _LIST = pl.Int64, pl.Boolean, pl.List(pl.String)

TABLES: dict[str, Contract] = {
    "candidates": Contract(
        "One row per profile that can be evaluated.",
        ("candidate_id",),
        {
            "candidate_id": _text("unique name of the candidate", required=True),
            "profile": _text("JSON object with what the task file needs to write its messages", required=True),
            "company": _text("company of the profile"),
            "title": _text("job title of the profile"),
            "category": _text("coarse group that quotas and plots use"),
            "use_case": _text("which set of in-context examples serves it: general, tech, executive, …"),
            "group_id": _text("shared by a candidate and its near-duplicates; the unit of the split", required=True),
            "split": _text(
                "train, validation or test, by a stable hash of group_id or as given at import; null: none, the "
                "question stands on both sides of test",
                allowed=SPLITS,
            ),
        },
    ),
    "training_runs": Contract(
        "One row per generate run.",
        ("run_id",),
        {
            "task": _text("name of the task file", required=True),
            "batch_ids": Column(_LIST, "batches at the server", volatile=True),
            "total_candidates": Column(_INTEGER, "candidates asked for, the N of the account", low=0),
            "model": _text("model name as sent to the server", required=True),
            "params": _text("JSON object: temperature, max_tokens, samples, seed"),
            "status": _text("complete, or partial when some requests have no answer", required=True),
        },
    ),
    "training_data_raw": Contract(
        "One row per request sent; the permanent record of every output.",
        ("custom_id",),
        {
            "custom_id": _text("name of the request: a digest of everything that was asked", required=True),
            "candidate_id": _text("candidate that was asked about", required=True),
            "task": _text("name of the task file", required=True),
            "sample": Column(pl.Int32, "number of the sample, from 0", low=0),
            "input": _text("last user message; null if unknown"),
            "messages": _text("JSON list of the messages sent; null if unknown (imported)"),
            "shown": _text("name of the set of examples that the prompt showed; null: none, or an older row"),
            "plain": _text("JSON list of the messages without those examples, on which is trained; null: as sent"),
            "tools": _text("JSON list of the tools that the request offered; null if it offered none"),
            "llm_output": _text("text of the answer, untouched (of calls of tools: as JSON); null if none came"),
            "tool_calls": _text(
                "JSON list of the answer's calls of tools; null if it called none, and in rows of older versions"
            ),
            "model": _text("model name as sent to the server; null if unknown (imported)"),
            "status": _text("what became of the request", required=True, allowed=STATUSES),
            "error": _text("JSON: what the server said; null if an answer came, but where it was no strict JSON"),
            "finish_reason": _text("stop, length, content_filter; null if none came"),
            "prompt_tokens": Column(_INTEGER, "tokens of the prompt; null if the server did not say", low=0),
            "completion_tokens": Column(_INTEGER, "tokens of the answer; null if the server did not say", low=0),
            "logprob_mean": _number("mean log-probability of the answer's tokens; null if not asked for", high=0),
            "logprob_tail": _number("the same of its last 16 tokens; null in rows of older versions too", high=0),
            "logprob_window": _number("the lowest of any 16 of them in a row; null likewise", high=0),
            "first_token_logprobs": _text(
                "JSON object: tokens that the answer could have begun with, and their log-probabilities; null if not "
                "asked for (top_logprobs)"
            ),
            "request_sha256": _text("sha256 of the canonical request body"),
            "stem": _text("name of the question: as custom_id, but without max_tokens; null in rows of older versions"),
            "model_returned": _text("model name that the server gave with the answer; null if it gave none"),
            "attempt": Column(
                pl.Int32, "how often the request had been sent, from 1; null if it never was", low=1, volatile=True
            ),
            "batch_id": _text("batch that brought the row; null if none did", volatile=True),
            "metadata": _text("JSON object with the columns kept at import; null otherwise"),
        },
    ),
    "judgements": Contract(
        "One row per question to a judge; the permanent record of what it said.",
        ("request_id",),
        {
            "request_id": _text("name of the request: a digest of everything that was asked", required=True),
            "custom_id": _text("output that was judged; of two, the one shown first", required=True),
            "other_id": _text("output that it was compared with; null: it was judged alone"),
            "task": _text("name of the task file that asked; others that ask the same have it too", required=True),
            "criterion": _text("name in its RUBRIC; wins where two were compared", required=True),
            "swapped": Column(_FLAG, "true: the scale, or the two answers, the other way round", required=True),
            "judge": _text("model name as sent to the server", required=True),
            "rubric_version": _text("first 12 hex of the sha256 of prompt and criterion", required=True),
            "params": _text("JSON object: temperature, max_tokens and others, without the seed", required=True),
            "asked_sha256": _text("sha256 of the question that the judge read", required=True),
            "shown_sha256": _text("sha256 of the answer; a score is of no other text", required=True),
            "other_sha256": _text("sha256 of the answer shown second; null: there was none"),
            "score": _number(
                "0..1; of two, the chance that the one shown first is better; null: see reason", low=0, high=1
            ),
            "reason": _text("why there is no score; null if there is one"),
            "status": _text("what became of the request", required=True, allowed=STATUSES),
            "llm_output": _text("text of the judge's answer, untouched; null if none came"),
            "error": _text("JSON: what the server said; null if an answer came"),
            "finish_reason": _text("stop, length, content_filter; null if none came"),
            "prompt_tokens": Column(_INTEGER, "tokens of the prompt; null if the server did not say", low=0),
            "completion_tokens": Column(_INTEGER, "tokens of the answer; null if the server did not say", low=0),
            "first_token_logprobs": _text("as in training_data_raw; of them the score is the mean"),
            "request_sha256": _text("sha256 of the canonical request body"),
            "stem": _text("name of the question: as request_id, but without max_tokens"),
            "model_returned": _text("model name that the server gave with the answer; null if it gave none"),
            "attempt": Column(
                pl.Int32, "how often the request had been sent, from 1; null: never", low=1, volatile=True
            ),
            "batch_id": _text("batch that brought the row; null if none did", volatile=True),
        },
    ),
    "perplexities": Contract(
        "One row per answer and model: how likely it is under a model that was not trained on it.",
        ("base_sha256", "asked_as", "custom_id", "output_sha256"),
        {
            "base_sha256": _text("digest of the weights", required=True),
            "base_model": _text("name of the model", required=True),
            "asked_as": _text("JSON object: what its chat template was given beside the messages", required=True),
            "custom_id": _text("output", required=True),
            "output_sha256": _text("sha256 of its text", required=True),
            "task": _text("name of the task file", required=True),
            "logprob_mean": _number(
                "mean log-probability of the answer's tokens and of its end, nats; its perplexity is exp(-this)", high=0
            ),
            "n_supervised": Column(_INTEGER, "tokens of the answer and its end", low=1),
        },
    ),
    "training_data_scored": Contract(
        "One row per output and scorer set.",
        ("custom_id", "scorer_version"),
        {
            "custom_id": _text("request whose output was scored", required=True),
            "scorer_version": _text(
                "first 12 hex of the sha256 of the task file; after + those of a judge, and of what was learned",
                required=True,
            ),
            "candidate_id": _text("candidate that was asked about", required=True),
            "task": _text("name of the task file", required=True),
            "quality": _number(
                "weighted mean of the scores, or chance that a person approves, 0..1; null = unscored, see reason",
                low=0,
                high=1,
            ),
            "reason": _text("why quality is null; null if it is not"),
            "schema_error": _text(
                "how the answer as it came breaks the task's SCHEMA; null if it does not, or there is none"
            ),
            "repaired": Column(
                _FLAG, "true if a repaired text was scored, not the answer as it came; null in older rows"
            ),
            "edited": Column(_FLAG, "true if a reviewer's text was scored, not the answer; null in older rows"),
            "quality_rules": _number(
                "weighted mean of the scores, where quality was learned from people; null: it is quality", low=0, high=1
            ),
            "duplicate_of": _text(
                "custom_id of the row that stands for it; null: it stands for itself, or an older row"
            ),
        },
        prefix="score_",
    ),
    "reviews": Contract(
        "One row per human decision; append-only, nothing is ever overwritten.",
        ("event_id",),
        {
            "event_id": _text("unique name of the decision", required=True),
            "custom_id": _text("output that was judged", required=True),
            "reviewer": _text("who decided", required=True),
            "decision": _text("what was decided", required=True, allowed=DECISIONS),
            "edited_output": _text("the corrected text; null unless decision is edit or adjudicate"),
            "labels": _text("JSON list of labels"),
            "shown_sha256": _text(
                "sha256 of the answer that was shown; the decision applies to no other; null: to none"
            ),
            "asked_sha256": _text("sha256 of the question that was shown, likewise; null in older rows: any question"),
            "seq": Column(
                _INTEGER,
                "order of the event: microseconds since 1970, but after all that its session had seen; null in older "
                "rows: decided_at",
            ),
            "shown_at": Column(_TIME, "when it was shown, UTC"),
            "decided_at": Column(_TIME, "when it was decided, UTC", required=True),
            "inclusion_prob": _number("chance that the queue held this row; null if unknown", low=0, high=1),
            "why": _text("stratum of which the queue drew this row; null if no queue did, and in older rows"),
            "queue": _text("name of the draw that showed the row; null if none did, and in older rows"),
            "blind": Column(_FLAG, "true if score, model and what others decided were not shown before it"),
            "undoes": _text("event_id that an undo takes back"),
            "ratings": _text("JSON object: criterion to a whole number 1..5; null in older rows"),
            "category": _text("category that the reviewer gave the row; null if none"),
            "note": _text("free text of the reviewer; null if none"),
            "session": _text("review session in which it was decided; null in older rows"),
            "planted": _text(
                "gold: the right answer was known; repeat: shown again to the same reviewer. Both measure the reviewer "
                "and settle nothing; null: neither",
                allowed=PLANTED,
            ),
            "dwell_ms": Column(
                _INTEGER, "time for which it was shown and looked at, milliseconds; null if unknown", low=0
            ),
            "client_seq": Column(
                _INTEGER, "number of the decision in its browser, from 1; a gap is one that has not arrived", low=1
            ),
        },
    ),
    "certificates": Contract(
        "One row per event of a certificate, by which many rows are approved on a sample of them; append-only.",
        ("certificate", "event"),
        {
            "certificate": _text("name of the certificate: a digest of its rows and of what was stated", required=True),
            "event": _text(
                "fixed: rows and promise are set, a sample is drawn; issued: its rows are approved; withdrawn: not now",
                required=True,
                allowed=("fixed", "issued", "withdrawn"),
            ),
            "actor": _text("who did it", required=True),
            "reason": _text("why; null if not said"),
            "at": Column(_TIME, "when, UTC", required=True),
            "stratum": _text("how its rows were selected", required=True),
            "rows_sha256": _text("sha256 of its rows: custom_id and the digests of answer and question", required=True),
            "n_rows": Column(_INTEGER, "rows of the stratum", required=True, low=1),
            "n_sample": Column(_INTEGER, "fixed: rows drawn; else: judged rows on which it was decided", low=0),
            "n_rejects": Column(_INTEGER, "of these, rejected or edited; null where it was fixed", low=0),
            "bound": _number(
                "share of the stratum that people would reject, at most; null before a look", low=0, high=1
            ),
            "promise": _number("what that must not exceed", low=0, high=1),
            "confidence": _number("chance that the promise holds, at least", low=0, high=1),
            "looks": Column(_INTEGER, "how often it may be looked at", required=True, low=1),
            "alpha": _number(
                "fixed: chance to be wrong, for all looks; else: what the looks so far took", low=0, high=1
            ),
            "seed": Column(_INTEGER, "of the draw", required=True, low=0),
        },
    ),
    "certified_rows": Contract(
        "One row per certificate and row of its stratum; approved only while the certificate is in force.",
        ("certificate", "custom_id"),
        {
            "certificate": _text("name of the certificate", required=True),
            "custom_id": _text("output that it is about", required=True),
            "shown_sha256": _text("sha256 of the answer; it is about no other", required=True),
            "asked_sha256": _text("sha256 of the question, likewise", required=True),
            "is_sampled": Column(_FLAG, "true if the sample that people judge holds it", required=True),
            "place": Column(_INTEGER, "place in the order of the draw, from 1; null outside the sample", low=1),
        },
    ),
    "training_data_curated": Contract(
        "One row per kept example.",
        ("id",),
        {
            "id": _text("the custom_id of the output", required=True),
            "candidate_id": _text("candidate that was asked about", required=True),
            "custom_id": _text("request that gave the output", required=True),
            "task": _text("name of the task file", required=True),
            "input": _text("last user message"),
            "messages": _text("JSON list of the messages before the answer"),
            "tools": _text("JSON list of the tools that the request offered; null if it offered none"),
            "output": _text("the answer, edited if a reviewer edited it; calls of tools as JSON", required=True),
            "tool_calls": _text("JSON list of the calls as they came; null: the answer is a text"),
            "quality_score": _number(
                "quality at the time of curation, 0..1; of an edited output see scored_sha256 in metadata",
                low=0,
                high=1,
            ),
            "needs_review": Column(
                _FLAG, "true until somebody approved, rejected or edited it, or a certificate did", required=True
            ),
            "approved": Column(
                _FLAG, "true only if a person approved or edited it, or a certificate approves it", required=True
            ),
            "reviewed_by": _text("who decided; certificate:<id>: a certificate did; null if nobody did"),
            "metadata": _text("JSON object: company, title, difficulty, category, use_case, …"),
            "split": _text("inherited from the candidate", required=True, allowed=SPLITS),
            "updated_at": Column(_TIME, "when the row was last folded, UTC"),
        },
    ),
    "preferences": Contract(
        "One row per pair of answers of which one is better.",
        ("pair_id",),
        {
            "pair_id": _text("name of the pair: a digest of its texts and its source", required=True),
            "candidate_id": _text("candidate that was asked about", required=True),
            "task": _text("name of the task file", required=True),
            "split": _text("that of the candidate; never test", required=True, allowed=("train", "validation")),
            "messages": _text("JSON list of the messages that both answer", required=True),
            "chosen": _text("the better answer", required=True),
            "rejected": _text("the other one", required=True),
            "source": _text(
                "edit: an answer and what a reviewer made of it; approve-reject: two of which one was approved and one "
                "rejected; pairwise: people compared them; judged: a model did",
                required=True,
                allowed=("edit", "approve-reject", "pairwise", "judged"),
            ),
            "reviewers": Column(_LIST, "who decided; of judged pairs the model"),
            "custom_ids": Column(_LIST, "requests behind chosen and rejected; of an edit one"),
            "event_ids": Column(
                _LIST, "all decisions and votes that counted about these answers; of judged pairs the requests to it"
            ),
            "decided_at": Column(_TIME, "when the last of them was decided, UTC"),
        },
    ),
    "arm_pairs": Contract(
        "One row per pair of answers that people compare; those of the test split stand here alone.",
        ("pair_id",),
        {
            "pair_id": _text("name of the pair: a digest of what is shown and of the sides", required=True),
            "task": _text("name of the task file", required=True),
            "split": _text(
                "that of the candidate; test: two arms of phase 5, train: two samples, of which preferences are mined",
                required=True,
                allowed=SPLITS,
            ),
            "candidate_id": _text("candidate that was asked about", required=True),
            "group_id": _text("group of the candidate", required=True),
            "arm": _text("arm whose win rate is told; of two samples the model", required=True),
            "baseline": _text("arm that it is compared with; of two samples the model of the other", required=True),
            "arm_custom_id": _text("request behind the arm's answer", required=True),
            "baseline_custom_id": _text("request behind the other", required=True),
            "input": _text("last user message"),
            "messages": _text("JSON list of the messages that both answer", required=True),
            "arm_is_left": Column(_FLAG, "true: the arm's answer is shown left; nobody is told", required=True),
            "left": _text("answer shown left", required=True),
            "right": _text("answer shown right", required=True),
            "shown_sha256": _text(
                "sha256 of the JSON list of left and right; a vote is about no others", required=True
            ),
            "n_people": Column(_INTEGER, "people who compare it", required=True, low=1),
        },
    ),
    "arm_votes": Contract(
        "One row per vote of a person about a pair; append-only, nothing is ever overwritten.",
        ("event_id",),
        {
            "event_id": _text("unique name of the vote", required=True),
            "pair_id": _text("pair that was compared", required=True),
            "reviewer": _text("who voted", required=True),
            "vote": _text(
                "left or right: that side is better; tie: neither; skip, flag: nothing is said; undo: takes one back",
                required=True,
                allowed=("left", "right", "tie", "skip", "flag", "undo"),
            ),
            "shown_sha256": _text("sha256 of the two texts that were shown; null: none, and it counts for nothing"),
            "seq": Column(
                _INTEGER, "order of the event: microseconds since 1970, but after all that its desk had seen"
            ),
            "shown_at": Column(_TIME, "when it was shown, UTC"),
            "decided_at": Column(_TIME, "when it was decided, UTC", required=True),
            "dwell_ms": Column(
                _INTEGER, "time for which it was shown and looked at, milliseconds; null if unknown", low=0
            ),
            "client_seq": Column(_INTEGER, "number of the vote in its browser, from 1", low=1),
            "session": _text("review session in which it was decided"),
            "undoes": _text("event_id that an undo takes back"),
        },
    ),
    "icl_trials": Contract(
        "One row per set of examples tried in one round.",
        ("trial_id",),
        {
            "trial_id": _text("unique name of the trial", required=True),
            "search_id": _text("search it belongs to", required=True),
            "example_ids": Column(_LIST, "ids of the examples, in prompt order"),
            "k": Column(_INTEGER, "number of examples", low=0),
            "order": _text("how the examples were ordered; searched: by the search, with the set"),
            "score": _number("mean quality over all validation rows seen so far, 0..1", low=0, high=1),
            "n_validation": Column(_INTEGER, "validation rows with a score", low=0),
            "round": Column(_INTEGER, "round of the search, from 1", low=0),
            "estimate": _number(
                "what the surrogate expects on all rows of the search, 0..1; null in older rows", low=0, high=1
            ),
            "low": _number("lower end of its 95 % interval"),
            "high": _number("upper end of its 95 % interval"),
        },
    ),
    "icl_cells": Contract(
        "One row per set of examples and validation candidate that a search, or its report, wants; written before it "
        "is asked.",
        ("search_id", "set_id", "candidate_id"),
        {
            "search_id": _text("search that wants it", required=True),
            "set_id": _text("ordered set of examples; zero-shot without any", required=True),
            "candidate_id": _text("validation candidate", required=True),
            "custom_id": _text(
                "request behind it: a digest of everything that is asked, paid once in all searches", required=True
            ),
            "scorer_version": _text("first 12 hex of the sha256 of the task file", required=True),
            "task": _text("name of the task file", required=True),
            "purpose": _text(
                "search, or holdout: the candidate served a report", required=True, allowed=("search", "holdout")
            ),
            "round": Column(_INTEGER, "round of the search, from 1; null in the hold-out", low=0),
            "example_ids": Column(_LIST, "ids in training_data_curated, in prompt order"),
            "status": _text(
                "what became of the request; overflow: the prompt does not fit the model; null: wanted, not answered "
                "yet",
                allowed=(*STATUSES, "overflow"),
            ),
            "quality": _number("0..1; null = missing, never 0; 0 where status is overflow", low=0, high=1),
            "tokens": Column(_INTEGER, "tokens of prompt and answer; null if the server did not say", low=0),
            "asked_at": Column(
                _TIME,
                "when it was about to be asked, UTC; null: its answer was recorded already, or an older row",
                volatile=True,
            ),
        },
    ),
    "icl_examples": Contract(
        "One row per set of examples chosen.",
        ("id",),
        {
            "id": _text("unique name of the set", required=True),
            "search_id": _text("search that chose it", required=True),
            "task": _text("name of the task file", required=True),
            "example_ids": Column(_LIST, "ids in training_data_curated, in prompt order"),
            "k": Column(_INTEGER, "number of examples", low=0),
            "validation_score": _number("mean quality on validation rows that the search never saw", low=0, high=1),
            "ci_low": _number("lower end of its 95 % interval"),
            "ci_high": _number("upper end of its 95 % interval"),
            "n_validation": Column(_INTEGER, "rows behind validation_score", low=0),
            "n_holdout_uses": Column(
                _INTEGER, "searches that reported on some of these rows, this one included", low=1
            ),
            "verdict": _text("against zero-shot: improves, not shown or worse"),
            "model": _text("model that was asked"),
            "data_version": _text("table@version of the examples and of the reviews folded into them"),
            "use_case": _text("which requests it serves; general: all", required=True),
            "use_case_column": _text("column of candidates that holds the use case; null in older rows: use_case"),
            "scorer_version": _text("first 12 hex of the sha256 of the task file that judged; null in older rows"),
            "params": _text("JSON object: temperature, max_tokens, seed, response_format; null in older rows"),
            "approve_policy": _text(
                "reviewed, certified: people approved the pool; score: only the scorers did", required=True
            ),
        },
    ),
    "finetuning_runs": Contract(
        "One row per adapter trained.",
        ("id",),
        {
            "id": _text("unique name of the training", required=True),
            "name": _text("model family", required=True),
            "arm": _text(
                "what it was trained on: curated examples, control (outputs that nothing chose), dpo, ipo or kto "
                "(preferences), or one of these with -control (chance said which answer is better)",
                required=True,
            ),
            "base_model": _text("model that was adapted", required=True),
            "method": _text("lora, bf16-lora or qlora; of preferences their loss: dpo, ipo or kto", required=True),
            "training_examples": Column(_INTEGER, "rows trained on", low=0),
            "validation_score": _number("mean quality of its answers on validation candidates; null if not measured"),
            "train_loss": _number("mean loss over the last epoch, nats a trained token; of preferences, a row"),
            "eval_loss": _number("loss on held-out examples at the end, nats a trained token; null if there are none"),
            "model_path": _text("folder of the adapter, relative to data/models", required=True),
            "hyperparameters": _text("JSON object"),
            "data_version": _text("table@version of the examples and of the reviews folded into them"),
            "adapter_sha256": _text("digest of the adapter's weights", required=True),
            "seconds": _number("wall time of the training, of all its attempts", low=0, volatile=True),
            "resumed": Column(
                _INTEGER, "times that it went on from a checkpoint; null in older rows", low=0, volatile=True
            ),
            "device": _text("where it ran"),
            "approve_policy": _text(
                "reviewed: people approved the rows; certified: they, or certificates; score: only the scorers did"
            ),
            "drawn": _text("how the rows of control were drawn: random, longest or unfiltered; null of other arms"),
        },
    ),
    "training_rows": Contract(
        "One row per adapter and example of its training.",
        ("model_path", "id"),
        {
            "model_path": _text("folder of the adapter, relative to data/models", required=True),
            "arm": _text(
                "what it was trained on: curated examples, control (outputs that nothing chose), dpo, ipo or kto "
                "(preferences), or one of these with -control (chance said which answer is better)",
                required=True,
            ),
            "id": _text("custom_id of the row that was the example, or stands behind the preference", required=True),
            "role": _text(
                "trained; held out: scored for the loss, not learned from; else why it was left out "
                "(finetune.STATUSES)",
                required=True,
            ),
        },
    ),
    "model_events": Contract(
        "One row per event of a model version; append-only, an alias is what its newest event says.",
        ("event_id",),
        {
            "event_id": _text("unique name of the event", required=True, names_run=True),
            "name": _text("model family", required=True),
            "version": _text("name by which servers serve it: holds the digest of the weights", required=True),
            "event": _text(
                "register: it is known; gate: it was judged; alias: an alias names it from now on; rollback: again; "
                "retire: it is not promoted any more; load: a server is to load it; switch: its alias is to name it; "
                "canary, deploy: what it showed",
                required=True,
                allowed=("register", "gate", "alias", "rollback", "retire", "load", "canary", "switch", "deploy"),
            ),
            "alias": _text("alias that names it, such as champion; null: the event is about none"),
            "arm": _text("set that it was trained on, as in finetuning_runs"),
            "previous": _text("version that the alias named before; null: none"),
            "verdict": _text("of a gate: promote, hold or insufficient evidence; of a canary: passed or failed"),
            "adapter_sha256": _text("digest of the adapter's weights", required=True),
            "base_model": _text("model that was adapted"),
            "actor": _text("who did it: user of the process, or who was named", volatile=True),
            "reason": _text("why, in words"),
            "is_forced": Column(_FLAG, "true: promoted against the gate, or without one", required=True),
            "detail": _text(
                "JSON object: digests and training of a registration, the gate, what a canary showed",
                required=True,
                names_run=True,
            ),
            "seq": Column(
                _INTEGER,
                "order of the event: microseconds since 1970, but after all that were there",
                required=True,
                volatile=True,
            ),
        },
    ),
    "models": Contract(
        "One row per state of a model version in lakes of earlier versions; model_events has taken its place.",
        ("name", "version", "alias"),
        {
            "name": _text("model family", required=True),
            "version": _text("name by which servers serve it: holds the digest of the weights", required=True),
            "base_model": _text("model that was adapted"),
            "adapter_path": _text("folder of the adapter, relative to data/models"),
            "adapter_sha256": _text("digest of the adapter's weights"),
            "alias": _text("candidate, champion, retired or control", required=True),
            "gate": _text("JSON object: the comparison that decided; null before evaluation"),
        },
    ),
    "deployments": Contract(
        "One row per version that a server was made to serve under an alias.",
        ("id",),
        {
            "id": _text("unique name of the deployment", required=True, names_run=True),
            "name": _text("model family", required=True),
            "version": _text("version that the alias names at the server from then on", required=True),
            "endpoint": _text("base_url of the server, without user and password; embedded: this lake's own"),
            "previous": _text("version that served before; null if none"),
            "smoke_test": _text("JSON object: what the canary showed, and the answer through the alias"),
            "alias": _text("name that clients ask for, such as candidate-evaluation@champion"),
            "action": _text("deploy or rollback", allowed=("deploy", "rollback")),
            "seconds": _number("from the order to switch to the first answer through the alias", low=0, volatile=True),
        },
    ),
    "evaluations": Contract(
        "One row per arm and test candidate.",
        ("evaluation_id", "arm", "candidate_id"),
        {
            "evaluation_id": _text(
                "one evaluation of several arms on the same candidates", required=True, names_run=True
            ),
            "arm": _text(
                "baseline, icl, finetuned, icl+finetuned, control, sft (what it was trained further from); echo, bare "
                "echo, empty, most frequent, nearest: answers without a model",
                required=True,
            ),
            "candidate_id": _text("test candidate", required=True),
            "task": _text("name of the task file", required=True),
            "custom_id": _text("request behind the answer"),
            "model": _text("model name as sent to the server; null without a model"),
            "status": _text("what became of the request", required=True, allowed=STATUSES),
            "output": _text("text of the answer; null if none came"),
            "quality": _number("0..1, by the SCORERS of the task; null = unscored or no answer", low=0, high=1),
            "report": _number(
                "0..1, by its REPORT scorers, without any the quality; null = unscored, no answer, or an older row",
                low=0,
                high=1,
            ),
            "latency_s": _number("seconds of the answer when asked alone; null: it was not", low=0, volatile=True),
            "tokens": Column(_INTEGER, "tokens of prompt and answer; null if the server did not say", low=0),
        },
    ),
}


def split_of(group_id: str) -> str:
    """Return the split of a group: 80 % train, 10 % validation, 10 % test, by a stable hash.

    Depends on nothing but the text of ``group_id``: more rows, another order or another machine never move a group.

    Example:
        >>> split_of("g-1") == split_of("g-1")
        True
    """
    share = int(hashlib.sha256(f"arislab split v1:{group_id}".encode()).hexdigest()[:8], 16) / 2**32
    return "test" if share < 0.1 else "validation" if share < 0.2 else "train"


def contract(table: str) -> Contract:
    """Return the contract of a table; an unknown name is refused with the closest known one."""
    if table not in TABLES:
        raise LakeError(f"there is no table {table!r}; {closest(table, TABLES)}.")
    return TABLES[table]


def columns_of(table: str) -> dict[str, Column]:
    """Return all columns of a table, with those that every table has."""
    return contract(table).columns | _RUN


def empty(table: str) -> pl.DataFrame:
    """Return a frame without rows that has the table's columns."""
    return pl.DataFrame(schema={name: column.dtype for name, column in columns_of(table).items()})


def check(table: str, frame: pl.DataFrame) -> pl.DataFrame:
    """Return the frame in the table's columns and types, or raise LakeError that names column, row and next step.

    Missing columns that may be null are added as null; a column that the contract does not know is refused.
    """
    return checked(table, frame, contract(table), columns_of(table))
