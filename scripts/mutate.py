"""Puts 20 faults into a copy of the code, one at a time, and runs the few tests that should catch each.

    python scripts/mutate.py             # all of them; exits with 1 if any is missed
    python scripts/mutate.py --only 3 7  # some of them, by number

The copy is a git worktree of HEAD, so what is not committed is not tried.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 240.0  # for the tests of one fault, on a busy machine
STORE, API, JOBS = "tests/unit/server/store", "tests/http/api", "tests/unit/server/jobs"


@dataclass(frozen=True, slots=True)
class Mutation:
    name: str
    path: str
    old: str  # occurs in the file; the first time is changed
    new: str
    tests: str  # paths and node ids, separated by spaces


MUTATIONS = (
    Mutation("read a job without asking whose it is", "server/store/jobs.py",
             "jobs.c.id == job_id, jobs.c.key_id == key_id)).mappings()", "jobs.c.id == job_id)).mappings()",
             f"{STORE}/test_jobs.py::test_a_job_of_another_key_is_unknown"),
    Mutation("charge beyond the day's limit", "server/store/usage.py",
             "booking = booking.where(usage.c.used + units <= limit)", "pass",
             f"{STORE}/test_usage.py::test_a_limit_of_zero_refuses_the_first_charge"),
    Mutation("accept a job without a charge", "server/jobs/submission.py",
             "used = usage.charge(conn, row.key_id, day, kind, row.charged_units, limit, retry_after_s=retry_after_s)",
             "used = 0", f"{API}/test_generate.py::test_a_plan_is_charged_up_to_its_limit"),
    Mutation("refund twice", "server/store/usage.py",
             "is None:  # Postgres", "is None and False:  # Postgres",
             f"{STORE}/test_usage.py::test_a_chat_is_refunded_once"),
    Mutation("answer to every Host", "server/http/guard.py", "self._check_host(headers)", "pass",
             f"{API}/test_guard.py::test_the_host_header_is_always_checked"),
    Mutation("answer to pages of every origin", "server/http/guard.py",
             'self._check_origin(scope["method"], headers)', "pass",
             f"{API}/test_guard.py::test_pages_of_other_origins_are_refused"),
    Mutation("take reports of an earlier attempt", "server/store/jobs.py",
             "statement = statement.where(jobs.c.attempt == attempt)", "pass",
             f"{STORE}/test_jobs.py::test_a_report_of_an_earlier_attempt_changes_nothing"),
    Mutation("end a job that has ended", "server/store/jobs.py",
             "where(jobs.c.id == job_id, jobs.c.state.in_(states))", "where(jobs.c.id == job_id)",
             f"{STORE}/test_jobs.py::test_a_job_that_has_ended_cannot_end_again"),
    Mutation("tell the client an exception's text", "server/http/guard.py",
             "await reply.error(500, text_of(500), close=True)",
             "await reply.error(500, str(__import__('sys').exc_info()[1]), close=True)",
             f"{API}/test_guard.py::test_a_bug_is_a_500_that_reveals_only_its_request_id"),
    Mutation("open any number of streams", "server/jobs/watchers.py",
             "if self._n_of_key[key_id] >= MAX_PER_KEY:", "if False:",
             f"{JOBS}/test_watchers.py::test_the_limit_is_taken_when_it_is_checked"),
    Mutation("sign links with an empty secret", "server/jobs/artifacts.py",
             "hmac.digest(self._secret,", 'hmac.digest(b"",',
             f"{JOBS}/test_artifacts.py::test_a_link_that_another_secret_signed_is_refused"),
    Mutation("open links that have expired", "server/jobs/artifacts.py",
             " or int(expires) < self._clock().timestamp():", ":",
             f"{JOBS}/test_artifacts.py::test_a_link_opens_its_own_output_until_it_expires"),
    Mutation("report a file as stored before it is on the disk", "server/jobs/artifacts.py",
             "os.fsync(file.fileno())", "pass",
             f"{JOBS}/test_artifacts.py::test_a_file_is_synced_before_it_has_its_name_and_its_folder_after"),
    Mutation("leave files of no job", "server/jobs/artifacts.py", "path.unlink()\n", "pass\n",
             f"{JOBS}/test_artifacts.py::test_a_start_removes_files_that_the_store_does_not_know"),
    Mutation("call webhooks in the server's own network", "models/sources/addresses.py",
             "if not address.is_global or address.is_multicast", "if address.is_multicast",
             f"{API}/test_webhooks.py::test_an_invalid_or_private_url_is_a_400"),
    Mutation("forget the claim of an Idempotency-Key", "server/store/idempotency.py",
             'conn.execute(insert(table), row | {"created_at": at})', "pass",
             f"{STORE}/test_idempotency.py::test_a_repeated_request_returns_the_first_job"),
    Mutation("take revoked keys", "server/store/keys.py",
             "where(table.c.digest == digest, table.c.revoked_at.is_(None))", "where(table.c.digest == digest)",
             f"{STORE}/test_keys.py::test_a_revoked_key_is_unknown_and_stays_in_the_list"),
    Mutation("do an admin's work for every key", "server/accounts/auth.py",
             "if scope not in self.scopes:", "if False:",
             "tests/unit/server/accounts/test_auth.py::test_a_key_without_the_scope_is_forbidden"),
    Mutation("count no attempt against a job that ends the process", "server/store/jobs.py",
             "values(attempt=attempt + 1)", "values(attempt=attempt)",
             f"{STORE}/test_jobs.py::test_recovery_queues_what_was_running_in_order_and_charges_an_attempt_to_suspects_alone"),
    Mutation("keep the charge of a chat that a kill cut off", "server/store/open_chats.py",
             'usage.refund_units(conn, chat_id, key_id, day, "chats", units)', "pass",
             f"{STORE}/test_open_chats.py::test_chats_that_the_end_of_the_process_cut_off_are_refunded_once"),
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of mutations, from 1")
    chosen = parser.parse_args(arguments).only or range(1, len(MUTATIONS) + 1)
    mutations = [(number, MUTATIONS[number - 1]) for number in chosen]
    with _copy() as tree:
        if not _pass(tree, " ".join(mutation.tests for _, mutation in mutations), verbose=True):
            print("The tests fail without a mutation.")
            return 2
        missed = 0
        for number, mutation in mutations:
            began = time.monotonic()
            with _mutated(tree, mutation):
                caught = not _pass(tree, mutation.tests)
            missed += not caught
            print(
                f"{number:2} {'caught' if caught else 'MISSED'} {time.monotonic() - began:5.1f} s  {mutation.name}",
                flush=True,
            )
    print(f"{len(mutations) - missed} of {len(mutations)} caught")
    return int(missed > 0)


@contextmanager
def _copy() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), "HEAD"], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


@contextmanager
def _mutated(tree: Path, mutation: Mutation) -> Iterator[None]:
    path = tree / mutation.path
    sound = path.read_text()
    assert mutation.old in sound, f"{mutation.path} has no {mutation.old!r} any more"
    path.write_text(sound.replace(mutation.old, mutation.new, 1))
    try:
        yield
    finally:
        path.write_text(sound)


def _pass(tree: Path, tests: str, *, verbose: bool = False) -> bool:
    """Whether all of the tests pass. Tests that cannot be run, as those that do not exist, are an error."""
    command = [sys.executable, "-B", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests.split()]
    env = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "AGENTNAME_TORCH_THREADS": "1"}
    try:
        ended = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        return False  # the mutation lets the program hang, which a limit of the tests would catch, too
    if ended.returncode not in (0, 1):
        raise RuntimeError(f"pytest ended with {ended.returncode}: {ended.stdout[-2000:]}{ended.stderr[-2000:]}")
    if ended.returncode and verbose:
        print(ended.stdout[-4000:])
    return ended.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
