"""The scheduling policy: each test reports what happened, at times of its choice, and reads the next actions."""

from __future__ import annotations

import dataclasses

from pipelines.chat_interface import ChatRequest
from pipelines.diffusion_interface import DiffusionRequest, Lora
from pipelines.interface import NextStep, Request
from server.engine_status import LoadError
from server.job import Job, JobType
from server.memory.ledger import Ledger, Reading
from server.protocol import Drain, FilesRead, KeepAlive, LoadModel, Peak, Settled, UnloadModel
from server.scheduling.actions import Action, Admit, Evict, Load, ModelFacts, Read, ResizeCache, Step, Unpark, Wait
from server.scheduling.scheduler import Scheduler
from tests.support.prompts import EMPTY

FACTS = {
    "image": ModelFacts("image", "image", need_bytes=60, max_running=4, keep_alive_s=100),
    "video": ModelFacts("video", "video", need_bytes=60, max_running=4, keep_alive_s=100),
    "chat": ModelFacts("chat", "chat", need_bytes=30, max_running=8, keep_alive_s=100),
}


BROKEN = LoadError("The model failed to load.", "OSError: no such file")


def scheduler(capacity: int = 100, **facts: ModelFacts) -> Scheduler:
    table = FACTS | facts
    return Scheduler(Ledger(name="cpu", capacity_bytes=capacity), table.__getitem__, min_residency_s=2, patience_s=10)


def job(job_id: str, model: JobType = "image", owner: str = "a", n: int = 1) -> Job:
    requests: list[Request] = [
        ChatRequest(id=f"{job_id}/{i}", prompt=EMPTY, max_tokens=1)
        if model == "chat"
        else DiffusionRequest(
            id=f"{job_id}/{i}", prompt="", negative_prompt=None, width=8, height=8, num_frames=None, steps=3,
            guidance_scale=None, seed=i,
        )
        for i in range(n)
    ]  # fmt: skip
    return Job(id=job_id, owner=owner, type=model, model=model, requests=tuple(requests))


def carry_out(s: Scheduler, action: Action, now: float, step_s: float = 1.0) -> None:
    """Report the outcome of an action, as the engine does after carrying it out."""
    match action:
        case Load(model):
            s.ledger.book(model, "weights", s.residency.bytes_to_load(model))
            s.loaded(model, now, load_s=1.0)
        case Evict(model):
            s.ledger.release(model)
            s.evicted(model)
        case Admit(admitted):
            s.admitted(admitted, now)
        case Step(model):
            s.stepped(model, now, step_s)
        case Wait():
            pass


def play(s: Scheduler, now: float, most: int = 20) -> list[Action]:
    """Returns the actions up to the first step or wait."""
    actions: list[Action] = []
    while len(actions) < most:
        action = s.next_action(now)
        actions.append(action)
        if isinstance(action, (Step, Wait)):
            return actions
        carry_out(s, action, now)
    raise AssertionError(f"neither a step nor a wait: {actions}")


def finish(s: Scheduler, job_: Job) -> None:
    for _ in job_.requests:
        s.request_ended(job_.id, job_.model)


def test_a_job_whose_model_is_missing_loads_it_and_is_admitted_and_stepped() -> None:
    s, first = scheduler(), job("j")
    s.add(first, 0)

    assert play(s, 0) == [Load("image"), Admit(first), Step("image")]


def test_without_work_the_device_waits_for_a_message() -> None:
    assert scheduler().next_action(0) == Wait(None)


def test_a_model_that_does_not_fit_is_loaded_once_the_busy_one_is_idle_and_evicted() -> None:
    s, image, video = scheduler(), job("i"), job("v", "video")
    s.add(image, 0)
    play(s, 0)
    s.add(video, 3)

    assert play(s, 3) == [Step("image")]
    assert s.model_loads.waiting_for("video", 3) == "gpu_memory"

    finish(s, image)

    assert play(s, 4) == [Evict("image"), Load("video"), Admit(video), Step("video")]


def test_a_model_that_fits_beside_another_is_loaded_without_an_eviction() -> None:
    s, image, chat = scheduler(), job("i"), job("c", "chat")
    s.add(image, 0)
    play(s, 0)
    s.add(chat, 1)

    assert play(s, 1) == [Load("chat"), Admit(chat), Step("chat")]


def test_a_job_that_runs_alone_waits_for_those_that_run_and_nothing_starts_beside_it() -> None:
    s, first, last = scheduler(), job("first"), job("last")
    suspect, chat = dataclasses.replace(job("suspect", n=2), alone=True), job("c", "chat")
    step = NextStep("transformer", "forward", "denoising", "8x8x1", 64, 2, ("suspect/0", "suspect/1"))
    s.add(first, 0)
    assert play(s, 0) == [Load("image"), Admit(first), Step("image")]
    for each in (last, suspect):
        s.add(each, 0)

    assert play(s, 0) == [Step("image")]
    finish(s, first)
    s.add(chat, 1)
    assert play(s, 1) == [Admit(suspect), Step("image")]
    s.expects("image", step)
    s.batch_sizes.record("image", "denoising 8x8x1", 2, 1.0)
    assert play(s, 2) == [Step("image", 1, 0)], "its own requests do not share a forward either"
    finish(s, suspect)
    s.expects("image", None)
    assert [type(action) for action in play(s, 2)] == [Wait], "its outputs are being saved"
    s.handle(Settled("suspect"), 3)
    after = play(s, 3)
    assert all(action in after for action in (Admit(last), Load("chat"), Admit(chat)))


def with_lora(plain: Job, lora: Lora) -> Job:
    requests = tuple(
        dataclasses.replace(request, loras=(lora,))
        for request in plain.requests
        if isinstance(request, DiffusionRequest)
    )
    return dataclasses.replace(plain, requests=requests)


def test_an_idle_model_is_evicted_for_adapters_only_if_they_do_not_fit_beside_it() -> None:
    s, chat, image = scheduler(), job("c", "chat"), job("i")
    s.add(chat, 0)
    play(s, 0)
    finish(s, chat)
    s.add(image, 1)
    play(s, 1)
    ink = Lora("ink", "ink", 1.0, n_bytes=11)  # the models hold 60 and 30 of 100 bytes
    small = with_lora(job("small"), dataclasses.replace(ink, path="small", n_bytes=10))
    large, again = with_lora(job("large"), ink), with_lora(job("again"), dataclasses.replace(ink, weight=0.5))
    s.add(small, 5)
    assert play(s, 5) == [Admit(small), Step("image")]
    s.add(large, 5)
    assert play(s, 5) == [Evict("chat"), Admit(large), Step("image")]

    s.ledger.book("image", "weights", 11, "ink")
    s.ledger.book("video", "weights", 29)
    s.add(again, 6)
    assert play(s, 6) == [Admit(again), Step("image")], "its adapter is loaded already"


def test_a_model_just_loaded_is_not_evicted_before_its_minimum_residency() -> None:
    s, image, video = scheduler(), job("i"), job("v", "video")
    s.add(image, 0)
    play(s, 0)
    finish(s, image)
    s.add(video, 1)

    assert s.next_action(1) == Wait(2.0)
    assert s.next_action(2) == Evict("image")


def test_no_model_is_evicted_if_the_whole_set_would_not_suffice() -> None:
    pinned = dataclasses.replace(FACTS["image"], pinned=True)
    s, image, chat, video = scheduler(image=pinned), job("i"), job("c", "chat"), job("v", "video")
    for job_ in (image, chat):
        s.add(job_, 0)
    play(s, 0)
    for job_ in (image, chat):
        if job_.id in s.residents[job_.model].running:
            finish(s, job_)
    s.add(video, 50)

    # Evicting chat alone (30) would not make room for video (60) beside the pinned image model.
    assert isinstance(s.next_action(50), (Wait, Step))
    assert set(s.residents) == {"image", "chat"}


def test_a_model_whose_patience_is_over_stops_admission_to_the_model_that_occupies_its_memory() -> None:
    s = scheduler()
    running = [job(f"i{n}") for n in range(2)]
    for job_ in running:
        s.add(job_, 0)
    play(s, 0)
    s.add(job("v", "video", owner="b"), 1)
    s.add(job("late"), 2)

    assert s.next_action(5) == Admit(job("late"))  # while patience lasts, the loaded model goes first
    assert s.next_action(12) == Step("image")  # afterwards its next job is no longer admitted

    for job_ in running:
        finish(s, job_)

    assert play(s, 12)[:2] == [Evict("image"), Load("video")]


def test_patience_is_over_in_a_decision_at_exactly_the_moment_of_its_end() -> None:
    """The scheduler waits until this moment. If it then found nothing changed, it would wait for ever."""
    s = scheduler()
    s.add(job("i"), 0)
    play(s, 0)
    s.add(job("v", "video"), 1.1)
    assert s.next_action(5.0) == Step("image")  # its time slice is over, the patience of the other model is not
    patience_ends = 1.1 + s.model_loads.patience_of("video")
    assert s.model_loads.next_change(5.0) == patience_ends

    assert s.next_action(patience_ends) == Step("image")
    assert s.model_loads.admission_closed == {"image"}


def test_the_patience_of_a_parked_model_with_work_is_over_at_exactly_its_end_too() -> None:
    s = scheduler()
    s.add(job("i"), 0)
    play(s, 0)
    s.expects("image", NextStep("model", "forward", "denoising", "8x8x1", 64, 1, ("i/0",)))
    s.placed("image", {}, {"model": 60})
    s.add(job("v", "video"), 0.1)
    s.ledger.book("video", "weights", 60)
    s.loaded("video", 0.1, 1.0)
    carry_out(s, s.next_action(0.1), 0.1)
    patience_ends = s.residents["image"].last_used + s.model_loads.patience_of("image")

    assert s.next_action(9.0) == Step("video")
    assert s.next_action(patience_ends) == Step("video")
    assert s.model_loads.admission_closed == {"video"}


def test_a_lane_admits_no_more_requests_than_it_may_run() -> None:
    s, big, small = scheduler(), job("big", n=3), job("small", n=2)
    for job_ in (big, small):
        s.add(job_, 0)

    assert play(s, 0) == [Load("image"), Admit(big), Step("image")]
    finish(s, big)
    assert play(s, 1) == [Admit(small), Step("image")]


def test_a_job_with_more_outputs_than_a_lane_may_run_is_admitted_to_an_idle_lane() -> None:
    s, huge = scheduler(), job("huge", n=8)
    s.add(huge, 0)

    assert play(s, 0) == [Load("image"), Admit(huge), Step("image")]


def test_chat_gets_its_share_of_the_device_and_no_more() -> None:
    s = scheduler()
    for job_ in (job("i"), job("c", "chat")):
        s.add(job_, 0)
    used_s = {"image": 0.0, "chat": 0.0}
    now = 0.0
    for _ in range(200):
        action = s.next_action(now)
        step_s = 0.02 if action == Step("chat") else 0.2
        carry_out(s, action, now, step_s)
        if isinstance(action, Step):
            used_s[action.model] += step_s
            now += step_s

    assert abs(used_s["chat"] / (used_s["chat"] + used_s["image"]) - 0.5) < 0.05


def test_a_lane_that_waits_for_files_lets_others_go_first_and_gets_no_credit_for_it() -> None:
    s = scheduler()
    for job_ in (job("i"), job("c", "chat")):
        s.add(job_, 0)
    play(s, 0)
    s.expects("image", None, waits=True)
    for _ in range(100):
        assert s.next_action(1.0) == Step("chat")
        s.stepped("chat", 1.0, 0.02)
    s.expects("image", None)
    image_s = chat_s = 0.0
    for _ in range(40):
        action = s.next_action(1.0)
        assert isinstance(action, Step)
        s.stepped(action.model, 1.0, 0.02)
        image_s, chat_s = image_s + 0.02 * (action.model == "image"), chat_s + 0.02 * (action.model == "chat")

    assert abs(image_s - chat_s) < 0.1


def test_a_lane_that_waits_for_files_alone_takes_the_steps_in_which_it_waits() -> None:
    s = scheduler()
    s.add(job("i"), 0)
    play(s, 0)
    s.expects("image", None, waits=True)

    assert s.next_action(1.0) == Step("image")


def test_a_lane_that_was_idle_gets_no_credit_for_it() -> None:
    s = scheduler(200)
    s.add(job("i"), 0)
    play(s, 0)
    for now in range(50):
        s.stepped("image", now, 1.0)
    s.add(job("v", "video", owner="b"), 50)
    play(s, 50)
    actions = []
    for now in range(50, 60):
        action = s.next_action(now)
        carry_out(s, action, now)
        actions.append(action)

    assert actions.count(Step("image")) == 5


def test_an_idle_model_is_evicted_when_its_keep_alive_is_over() -> None:
    s, image = scheduler(), job("i")
    s.add(image, 0)
    play(s, 0)
    finish(s, image)

    assert s.next_action(50) == Wait(100.0)
    assert s.next_action(100) == Evict("image")


def test_the_cooldown_doubles_with_each_failed_load_and_other_models_are_loaded_meanwhile() -> None:
    s = scheduler()
    assert s.load_failed("image", 0, BROKEN).seconds == 10
    s.add(job("i"), 1)
    s.add(job("c", "chat"), 1)

    assert play(s, 1)[0] == Load("chat")

    assert s.load_failed("image", 20, BROKEN).seconds == 20
    for now in range(100, 2000, 100):
        s.load_failed("image", now, BROKEN)
    assert s.cooldowns["image"].seconds == 300


def test_an_unload_ends_the_cooldown_because_the_files_may_be_others_now() -> None:
    s = scheduler()
    s.load_failed("image", 0, BROKEN)
    s.handle(UnloadModel("image"), 1)
    s.add(job("i"), 1)

    assert play(s, 1)[0] == Load("image")


def test_a_draining_scheduler_starts_nothing_and_finishes_what_runs() -> None:
    s, image = scheduler(), job("i")
    s.add(image, 0)
    play(s, 0)
    s.handle(Drain(), 1)
    s.add(job("next"), 1)

    assert s.next_action(1) == Step("image")
    finish(s, image)
    assert isinstance(s.next_action(1), Wait)


def test_the_same_events_give_the_same_decisions() -> None:
    def decisions() -> list[Action]:
        s = scheduler()
        for i in range(6):
            s.add(job(f"j{i}", ("image", "chat", "video")[i % 3], owner="ab"[i % 2]), i)
        out = []
        for now in range(6, 40):
            action = s.next_action(now)
            carry_out(s, action, now)
            out.append(action)
        return out

    assert decisions() == decisions()


def test_a_requested_model_that_is_partly_parked_is_unparked_and_not_loaded_again() -> None:
    s = scheduler()
    s.add(job("j"), 0)
    play(s, 0)
    finish(s, job("j"))
    s.placed("image", {"model": 30}, {"text_encoder": 30})
    s.handle(LoadModel("image"), 5)

    assert s.next_action(5) == Unpark("image", ("text_encoder",))

    s.placed("image", {"model": 30, "text_encoder": 30}, {})

    assert isinstance(s.next_action(5), Wait)


def test_two_models_that_need_each_others_memory_each_serve_a_job_before_they_leave() -> None:
    """A load that takes no time gives no time slice. Without this rule, each would evict the other for ever."""
    s = scheduler()
    for name in ("image", "video"):
        s.add(job(name, name), 0.0)
    now, kinds = 100.0, []  # the patience of both is over
    for _ in range(12):
        action = s.next_action(now)
        match action:
            case Load(model):
                s.ledger.book(model, "weights", 60)
                s.loaded(model, now, load_s=0.0)
            case Step(model):
                s.request_ended(model, model)
            case _:
                carry_out(s, action, now)
        kinds.append(type(action))
        now += 0.01

    assert kinds.count(Admit) == 2


def reading_ahead() -> Scheduler:
    """Returns a scheduler with a running image job and a chat model whose bytes are booked and whose files are read."""
    s = Scheduler(Ledger(name="cpu", capacity_bytes=100), FACTS.__getitem__, reads_ahead=True)
    for model in ("image", "chat"):
        s.add(job(model, model), 0.0)
        assert s.next_action(0.0) == Read(model)
        s.ledger.book(model, "weights", s.residency.bytes_to_load(model))
        s.load_started(model)
        if model == "image":
            s.handle(FilesRead("image", 0.0), 0.0)
            assert s.next_action(0.0) == Load("image")
            s.loaded("image", 0.0, 1.0)
            carry_out(s, s.next_action(0.0), 0.0)
            assert s.residents["image"].running
    return s


def test_steps_go_on_while_the_files_of_another_model_are_read() -> None:
    s = reading_ahead()

    assert s.next_action(0.1) == Step("image")
    assert s.model_loads.waiting_for("chat", 0.1) == "model_load"
    s.handle(FilesRead("chat", 0.0), 0.2)
    assert s.next_action(0.2) == Load("chat")
    s.loaded("chat", 0.2, 1.0)
    assert isinstance(s.next_action(0.3), Admit)


def test_one_model_at_a_time_is_loaded() -> None:
    s = reading_ahead()
    s.add(job("clip", "video"), 0.2)

    assert s.next_action(500.0) == Step("image")  # although its patience is over


def test_a_model_that_is_unloaded_while_its_files_are_read_is_evicted_after_the_load() -> None:
    s = reading_ahead()
    s.withdraw("chat")
    s.handle(UnloadModel("chat"), 1.0)
    s.handle(FilesRead("chat", 0.0), 0.2)
    s.loaded("chat", 1.0, 1.0)

    assert s.next_action(1.1) == Evict("chat")


def test_after_a_load_failed_whose_files_were_read_the_model_can_be_loaded_again() -> None:
    s = reading_ahead()
    s.handle(FilesRead("chat", 0.0), 0.2)
    s.ledger.release("chat")
    s.withdraw("chat")
    assert s.load_failed("chat", 1.0, BROKEN).seconds == 10.0
    s.add(job("again", "chat"), 1.0)

    assert s.next_action(1.0) == Step("image")  # during the cooldown
    assert s.next_action(11.1) == Read("chat")


def next_step(rows: int) -> NextStep:
    return NextStep("model", "forward", "denoising", "8x8x1", 64, rows, tuple(f"j/{i}" for i in range(rows)))


def decode_that_holds(n_bytes: int, *, free_bytes: int, exact: bool = True) -> Action:
    """The next action when a lane is to decode, and its decodes were measured to hold so much."""
    s = scheduler(capacity=60 + free_bytes)
    s.add(job("i"), 0)
    play(s, 0)
    s.observe(Reading(free_bytes=free_bytes, ours_bytes=60, exact=exact))
    s.peaks.record(Peak("image", "vae.decode", "8x8x1", 64, 1, n_bytes))
    s.expects("image", NextStep("vae", "decode", "decoding", "8x8x1", 64, 1, ("i/0",)))
    return s.next_action(1.0)


def test_a_decode_is_whole_while_it_fits_and_in_tiles_where_it_is_known_not_to() -> None:
    assert decode_that_holds(20, free_bytes=20) == Step("image", 1, 20)
    assert decode_that_holds(21, free_bytes=20) == Step("image", 1, 0, in_tiles=True)


def test_on_a_cpu_no_decode_is_in_tiles() -> None:
    assert decode_that_holds(21, free_bytes=20, exact=False) == Step("image", 1, 20)


def test_a_decode_that_is_only_predicted_not_to_fit_is_tried_whole() -> None:
    s = scheduler(capacity=80)
    s.add(job("i"), 0)
    play(s, 0)
    s.observe(Reading(free_bytes=20, ours_bytes=60))
    s.peaks.record(Peak("image", "vae.decode", "4x4x1", 16, 1, 15))
    s.expects("image", NextStep("vae", "decode", "decoding", "8x8x1", 64, 1, ("i/0",)))

    assert s.next_action(1.0) == Step("image", 1, 20)


def test_the_width_of_a_step_is_limited_by_time_only_while_another_lane_has_work() -> None:
    s = Scheduler(Ledger(name="cpu", capacity_bytes=100), FACTS.__getitem__, max_step_s=4.0)
    for name in ("image", "chat"):
        s.loaded(name, 0.0, 1.0)
        s.add(job(name, name, n=4 if name == "image" else 1), 0.0)  # type: ignore[arg-type]  # names of types
    for rows, seconds in ((1, 2.0), (2, 3.5), (4, 6.0)):
        for _ in range(5):
            s.batch_sizes.record("image", "denoising 8x8x1", rows, seconds)
    for _ in range(2):
        carry_out(s, s.next_action(0.0), 0.0)
    s.expects("image", next_step(4))
    s.stepped("chat", 0.0, 100.0)  # chat has used its share

    assert s.next_action(0.0) == Step("image", 2)
    s.request_ended("chat", "chat")
    assert s.next_action(0.0) == Step("image", 4)


def test_a_lane_that_drains_for_a_chat_model_steps_before_the_other_lanes() -> None:
    s = scheduler(capacity=150)
    for name in ("image", "video"):
        s.ledger.book(name, "weights", 60)
        s.loaded(name, 0.0, 1.0)
        s.add(job(name, name), 0.0)  # type: ignore[arg-type]  # names of types
        carry_out(s, s.next_action(0.0), 0.0)
    s.stepped("image", 50.0, 5.0)  # otherwise the other lane would be next
    s.add(job("chat", "chat"), 1.0)
    s.ledger.book("other", "weights", 20)

    assert s.next_action(60.0) == Step("image")


def test_a_kv_cache_that_was_cut_grows_back_beside_running_chats_once_memory_is_free() -> None:
    facts = ModelFacts("chat", "chat", need_bytes=50, max_running=8, keep_alive_s=100, cache_bytes=20)
    s, chat = scheduler(100, chat=facts), job("c", "chat")
    s.add(chat, 0)
    play(s, 0)
    s.ledger.correct("chat", "weights", 30)
    s.ledger.book("other", "weights", 55)
    s.cache_resized("chat", 0, 10, 10)

    assert play(s, 1) == [Step("chat")]
    assert play(s, 11) == [Step("chat")], "there is no free memory"
    s.ledger.release("other")
    s.handle(KeepAlive("chat", 100), 12)  # any message makes the scheduler decide anew
    assert s.next_action(12) == ResizeCache("chat", 20)
    s.cache_resized("chat", 12, 20, 19)
    assert play(s, 30) == [Step("chat")], "it is nearly as large as it may be"


def test_a_kv_cache_that_was_cut_a_moment_ago_does_not_grow_yet() -> None:
    facts = ModelFacts("chat", "chat", need_bytes=50, max_running=8, keep_alive_s=100, cache_bytes=20)
    s, chat = scheduler(100, chat=facts), job("c", "chat")
    s.add(chat, 0)
    play(s, 0)
    s.ledger.correct("chat", "weights", 30)
    s.cache_resized("chat", 5, 10, 10)

    assert play(s, 14) == [Step("chat")]
    assert s.next_action(15) == ResizeCache("chat", 20)
