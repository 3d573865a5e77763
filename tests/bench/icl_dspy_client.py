"""Real dspy choosing labelled examples by random search, for ``icl_dspy.py``.

Runs in an environment that has dspy and nothing of arislab.

python icl_dspy_client.py JOB.json RESULT.json

Candidates are ``dspy.LabeledFewShot`` on the training set shuffled by ``random.Random(seed)``, as
BootstrapFewShotWithRandomSearch shuffles, judged by ``dspy.Evaluate`` on the whole validation set; the first of the
best wins. That class itself cannot be told to use labelled examples only (it is asked here, and what it says is
reported). The adapter writes the task's own messages with the examples as earlier turns.
"""

import importlib.metadata
import importlib.util
import inspect
import json
import os
import queue
import random
import sys
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

os.environ.update(LITELLM_LOCAL_MODEL_COST_MAP="True", HF_HUB_OFFLINE="1", TQDM_DISABLE="1")

import dspy
import openai
from openai.types.chat import ChatCompletion


class TaskAdapter(dspy.Adapter):
    """The task's messages, byte by byte; a row's own seed goes with it."""

    def __init__(self, system: str, max_tokens: int, temperature: float) -> None:
        super().__init__()
        self.system, self.settings = system, {"max_tokens": max_tokens, "temperature": temperature}

    def __call__(self, lm, lm_kwargs, signature, demos, inputs):
        return super().__call__(lm, {**lm_kwargs, **self.settings, "seed": inputs["seed"]}, signature, demos, inputs)

    def format(self, signature, demos, inputs):
        asked = [{"role": "system", "content": self.system}]
        for demo in demos:
            asked.append({"role": "user", "content": demo["question"]})
            asked.append({"role": "assistant", "content": demo["answer"]})
        return [*asked, {"role": "user", "content": inputs["question"]}]

    def parse(self, signature, completion):
        return {"answer": completion}


class BatchLM(dspy.BaseLM):
    """Requests that dspy's threads make at the same time go to the server as one batch, by Files and Batches."""

    def __init__(self, model: str, url: str, token: str, at_once: int) -> None:
        super().__init__(model, cache=False, num_retries=0)
        self.api, self.at_once = openai.OpenAI(base_url=url, api_key=token, max_retries=0), at_once
        self.queue: queue.Queue = queue.Queue()
        threading.Thread(target=self.send, daemon=True).start()

    def forward(self, prompt=None, messages=None, **fields):
        answer: Future = Future()
        self.queue.put(({"model": self.model, "messages": messages, **self.kwargs, **fields}, answer))
        return answer.result()

    def send(self) -> None:
        while True:
            waiting = [self.queue.get()]
            with suppress(queue.Empty):
                while len(waiting) < self.at_once:
                    waiting.append(self.queue.get(timeout=1))
            line = {"method": "POST", "url": "/v1/chat/completions"}
            lines = [json.dumps({"custom_id": str(i), **line, "body": body}) for i, (body, _) in enumerate(waiting)]
            file = self.api.files.create(file=("in.jsonl", "\n".join(lines).encode()), purpose="batch")
            sent = self.api.batches.create(input_file_id=file.id, endpoint=line["url"], completion_window="24h")
            while sent.status not in ("completed", "failed", "expired", "cancelled"):
                time.sleep(0.05)
                sent = self.api.batches.retrieve(sent.id)
            for row in map(json.loads, self.api.files.content(sent.output_file_id).read().splitlines()):
                waiting[int(row["custom_id"])][1].set_result(ChatCompletion.model_validate(row["response"]["body"]))


def labelled_only(student, trainset, valset, metric) -> dict[str, str]:
    """What dspy's own random search says when it is told to use labelled examples and no bootstrapped ones."""
    outcome = {}
    search = dspy.BootstrapFewShotWithRandomSearch(
        metric=metric, max_bootstrapped_demos=0, max_labeled_demos=5, num_candidate_programs=1, num_threads=1
    )
    for seed in (-1, 0):
        try:
            search.compile(student, trainset=trainset, valset=valset, restrict=[seed])
            outcome[f"candidate {seed}"] = "ran"
        except ValueError as error:
            outcome[f"candidate {seed}"] = f"{type(error).__name__}: {error}"
    return outcome


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    spec = importlib.util.spec_from_file_location("task", job["task_file"])
    task = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(task)
    asks = {name: list(inspect.signature(scorer).parameters) for name, scorer in task.SCORERS.items()}

    def metric(example, prediction, trace=None):
        row = {"profile": example.profile, "output": prediction.answer}
        scores = {name: scorer(**{c: row[c] for c in asks[name]}) for name, scorer in task.SCORERS.items()}
        valid = {name: float(score) for name, score in scores.items() if score is not None}
        return round(sum(task.WEIGHTS[n] * s for n, s in valid.items()) / sum(task.WEIGHTS[n] for n in valid), 9)

    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    token = Path(job["token_file"]).read_text().strip()
    if job["transport"] == "chat":
        lm = dspy.LM(f"openai/{job['model']}", api_base=job["url"], api_key=token, cache=False, num_retries=0)
    else:
        lm = BatchLM(job["model"], job["url"], token, len(job["rows"]))
    dspy.configure(
        lm=lm, adapter=TaskAdapter(job["system"], job["max_tokens"], job["temperature"]), disable_history=True
    )
    student = dspy.Predict("question, seed -> answer")
    train = [
        dspy.Example(id=e["id"], question=e["input"], answer=e["output"], seed=0, profile=None).with_inputs(
            "question", "seed"
        )
        for e in job["pool"]
    ]
    rows = [
        dspy.Example(question=r["input"], seed=r["seed"], profile=r["profile"]).with_inputs("question", "seed")
        for r in job["rows"]
    ]
    evaluate = dspy.Evaluate(
        devset=rows,
        metric=metric,
        num_threads=2 if job["transport"] == "chat" else len(rows),
        max_errors=1,
        failure_score=0.0,
    )
    candidates, began, cpu = [], time.perf_counter(), time.process_time()
    for seed in range(job["n_candidates"]):
        shuffled = list(train)
        random.Random(seed).shuffle(shuffled)
        program = dspy.LabeledFewShot(k=job["k"]).compile(student, trainset=shuffled)
        result = evaluate(program)
        scores = [score for _, _, score in result.results]
        candidates.append({"ids": [demo.id for demo in program.demos], "score": result.score, "scores": scores})
    best = max(range(len(candidates)), key=lambda i: candidates[i]["score"])
    report = {
        "best": best,
        "candidates": candidates,
        "wall_s": time.perf_counter() - began,
        "cpu_s": time.process_time() - cpu,
    }
    if job["probe"]:
        report["labelled_only"] = labelled_only(student, train[:6], rows[:1], metric)
    report["versions"] = {name: importlib.metadata.version(name) for name in ("dspy", "litellm", "openai")}
    Path(sys.argv[2]).write_text(json.dumps(report))


if __name__ == "__main__":
    main()
